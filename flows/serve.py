"""``iedit serve``: Prefect's server with a work pool, all deployments and a worker, on one machine."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Final

import flows
from flows.errors import ServeError
from flows.server import KEPT_LEASES, end_process

DEPLOYMENTS: Final = Path(flows.__file__).with_name("prefect.yaml")
"""What is deployed: the file at the top of the repository, which a link brings into the wheel. Flow runs work in the
folder in which the command was started."""
DEAD_RUNS: Final = DEPLOYMENTS.with_name("dead_runs.yaml")
"""The automation that marks a flow run as crashed whose process is gone."""

_START_S: Final = 120.0
_LEAST_LIFE_S: Final = 10.0
"""A worker that something kills sooner is not started again."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where the server listens, and what the worker takes.

    Raises:
        ServeError: a value is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 4200
    pool: str = "iedit"
    """Work pool that ``DEPLOYMENTS`` names."""
    limit: int = 1
    """Flow runs at the same time."""
    once: bool = False
    """Whether the worker leaves when there is nothing left to do."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65_535:
            raise ServeError(f"--port is {self.port}, expected 1 to 65535")
        if self.limit < 1:
            raise ServeError(f"--limit is {self.limit}, expected 1 or more")

    @property
    def address(self) -> str:
        """Host and port as they stand in an address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def api_url(self) -> str:
        """Address of the server's API."""
        return f"http://{self.address}/api"


def serve(config: ServeConfig) -> None:
    """Start all of it, say how to use it, and end it at Ctrl-C: the worker first, since one without server hangs.

    A server that already answers at the address is used, and stays.

    Raises:
        ServeError: a part cannot be started; the message has its last line.
    """
    flows.bypass_proxy(config.host)
    is_there = _answers(config)
    if not is_there:
        _check_port(config)
    _check_home()
    environment = {**os.environ, **KEPT_LEASES, "PREFECT_API_URL": config.api_url}
    with ExitStack() as stack:
        if not is_there:
            command = ("server", "start", "--host", config.host, "--port", str(config.port))
            server = _started(command, environment, stack)
            _wait_for(server, config)
        _create_pool(config, environment)
        _call(
            ("--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)), environment, what="the deployments"
        )
        _set_up(config)
        _say(f"server       http://{config.address}")
        _say(f"try          PREFECT_API_URL={config.api_url} prefect deployment run 'build-dataset/mini' --watch")
        _say("Ctrl-C       ends the worker, then the server")
        command = ["worker", "start", "--pool", config.pool, "--limit", str(config.limit)]
        if config.once:
            command.append("--run-once")
        while True:
            begun = time.monotonic()
            with ExitStack() as workers:
                code = _started(command, environment, workers, quiet=False).wait()
            if code == 0:
                return
            if code > 0 or time.monotonic() - begun < _LEAST_LIFE_S:
                raise ServeError(f"the worker ended with exit code {code}; its last lines stand above")
            _say(f"the worker was ended by signal {-code}; another one takes its place")


def _check_port(config: ServeConfig) -> None:
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((config.host, config.port), family=family):
            pass
    except OSError as error:
        why = str(error.strerror or error).partition(" (while")[0]
        raise ServeError(
            f"port {config.port} of {config.host} cannot be used ({why}): end what has it, or "
            "choose others with --port and --host"
        ) from None


def _check_home() -> None:
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise ServeError(
            f"the server keeps its state in {home}, which cannot be written ({error.strerror or error}): name another "
            "folder by PREFECT_HOME"
        ) from None


def _create_pool(config: ServeConfig, environment: Mapping[str, str]) -> None:
    create = ("--no-prompt", "work-pool", "create", "--type", "process", "--overwrite", config.pool)
    _call(create, environment, what=f"the work pool {config.pool}")


def _set_up(config: ServeConfig) -> None:
    """Create the limits of all profiles, so that the very first runs already obey them, and what finds dead runs."""
    import yaml
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.config.profiles import PROFILES
    from flows.engine.runner import set_tag_limits

    automation = AutomationCore.model_validate(yaml.safe_load(DEAD_RUNS.read_text(encoding="utf-8")))
    with temporary_settings({PREFECT_API_URL: config.api_url}):
        for profile in PROFILES.values():
            set_tag_limits(profile().run.tag_limits)
        with get_client(sync_client=True) as client:
            if not client.read_automations_by_name(automation.name):
                client.create_automation(automation)


def _started(
    arguments: Sequence[str], environment: Mapping[str, str], stack: ExitStack, *, quiet: bool = True
) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and words
        [sys.executable, "-m", "flows.server", "prefect", *arguments],
        env=dict(environment),
        stdin=subprocess.PIPE,  # its end, however we end, ends the process
        stdout=subprocess.DEVNULL if quiet else None,
        start_new_session=True,  # a Ctrl-C is ours to pass on, in order
    )
    stack.callback(end_process, process)
    return process


def _call(arguments: Sequence[str], environment: Mapping[str, str], *, what: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own interpreter and words
        [sys.executable, "-m", "prefect", *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ServeError(f"{what} could not be made: {lines[-1] if lines else f'exit code {done.returncode}'}")


def _wait_for(server: "subprocess.Popen[bytes]", config: ServeConfig) -> None:
    end = time.monotonic() + _START_S
    while not _answers(config):
        if server.poll() is not None:
            raise ServeError(f"the Prefect server ended at its start with exit code {server.returncode}")
        if time.monotonic() > end:
            raise ServeError(f"the Prefect server did not answer at {config.api_url} within {_START_S:.0f} s")
        time.sleep(0.5)


def _answers(config: ServeConfig) -> bool:
    request = urllib.request.Request(f"{config.api_url}/health")  # noqa: S310 - http, see ``api_url``
    with suppress(OSError, HTTPException), urllib.request.urlopen(request, timeout=1) as found:  # noqa: S310
        return found.status == 200 and found.read(5) == b"true"
    return False


def _say(line: str) -> None:
    print(line, flush=True)
