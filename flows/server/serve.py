"""One machine as a whole: the Prefect server, its work pool with the deployments of ``prefect.yaml``, and a worker."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import flows
from flows.config.profiles import PROFILES
from flows.errors import ServeError
from flows.server.temporary import end_process

PROJECT: Final = Path(flows.__file__).parents[1]
"""Folder of ``prefect.yaml``; flow runs work in it."""

_START_S: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where the server listens, and what the worker takes.

    Raises:
        ServeError: a value is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 4200
    pool: str = "iedit"
    """Work pool that ``prefect.yaml`` names."""
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
    def api_url(self) -> str:
        """Address of the server's API."""
        return f"http://{self.host}:{self.port}/api"


def serve(config: ServeConfig) -> None:
    """Start all of it, say how to use it, and end it at Ctrl-C: the worker first, since one without server hangs.

    A server that already answers at the address is used, and stays.

    Raises:
        ServeError: a part cannot be started; the message has its last line.
    """
    environment = {**os.environ, "PREFECT_API_URL": config.api_url}
    with ExitStack() as stack:
        if not _answers(config):
            command = ("server", "start", "--host", config.host, "--port", str(config.port))
            server = _started(command, environment, stack)
            _wait_for(server, config)
        _create_pool(config, environment)
        _call(("--no-prompt", "deploy", "--all"), environment, what="the deployments")
        _set_limits(config)
        _say(f"server       http://{config.host}:{config.port}")
        _say(f"try          PREFECT_API_URL={config.api_url} prefect deployment run 'build-dataset/mini' --watch")
        _say("Ctrl-C       ends the worker, then the server")
        command = ["worker", "start", "--pool", config.pool, "--limit", str(config.limit)]
        worker = _started([*command, *(["--run-once"] if config.once else [])], environment, stack, quiet=False)
        if code := worker.wait():
            raise ServeError(f"the worker ended with exit code {code}; its last lines stand above")


def _create_pool(config: ServeConfig, environment: Mapping[str, str]) -> None:
    create = ("--no-prompt", "work-pool", "create", "--type", "process", "--overwrite", config.pool)
    _call(create, environment, what=f"the work pool {config.pool}")


def _set_limits(config: ServeConfig) -> None:
    """Create the limits of all profiles, so that the very first runs already obey them."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.engine.runner import set_tag_limits

    with temporary_settings({PREFECT_API_URL: config.api_url}):
        for profile in PROFILES.values():
            set_tag_limits(profile().tag_limits)


def _started(
    arguments: Sequence[str], environment: Mapping[str, str], stack: ExitStack, *, quiet: bool = True
) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and words
        [sys.executable, "-m", "prefect", *arguments],
        cwd=PROJECT,
        env=dict(environment),
        stdout=subprocess.DEVNULL if quiet else None,
        start_new_session=True,  # a Ctrl-C is ours to pass on, in order
    )
    stack.callback(end_process, process)
    return process


def _call(arguments: Sequence[str], environment: Mapping[str, str], *, what: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own interpreter and words
        [sys.executable, "-m", "prefect", *arguments],
        cwd=PROJECT,
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
    with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(request, timeout=2) as found:  # noqa: S310
        return found.status == 200
    return False


def _say(line: str) -> None:
    print(line, flush=True)
