"""Prefect servers of ours: one for as long as a command runs, and one with a work pool and a worker (``iedit serve``).

The first is taken where the user named no server (``PREFECT_API_URL``). The one that Prefect would start by itself
outlives a command that is killed, takes a Ctrl-C that was meant for us, and is given up too early on a busy machine.
"""

import importlib
import json
import os
import re
import selectors
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

import flows
from flows.errors import ServeError, one_line

if TYPE_CHECKING:
    import uvicorn


PROJECT: Final = Path(flows.__file__).parents[1]
"""Folder of ``prefect.yaml``; flow runs work in it."""

_WORKPLACE_START_S: Final = 120.0
_GRACE_S: Final = 20.0


def end_process(process: "subprocess.Popen[Any]", *, grace_s: float = _GRACE_S) -> None:
    """Ask a process to end, kill it where it does not within ``grace_s`` seconds, and wait until it is gone."""
    process.terminate()
    try:
        process.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_START_S: Final = 180.0
_POLL_S: Final = 0.05
_MEANWHILE: Final = (
    "flows.full",
    "transformers.models.blip.modeling_blip",
    "transformers.models.clipseg.modeling_clipseg",
    "open_clip",
)
"""What the flows inside load anyway and what takes longest: loaded on another core as long as the server starts."""
_ERROR: Final = re.compile(r"[\w.]+(Error|Exception)\b")
"""The line of a traceback that says what it was."""


@contextmanager
def orchestrator() -> Iterator[str]:
    """Have the flows inside talk to the user's Prefect server or, without one, to a new one that ends with us.

    Yields:
        The address of its API.

    Raises:
        ServeError: the user's server does not answer, or ours does not start.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if (named := PREFECT_API_URL.value()) is not None:
        _check_answers(named)
        yield named
        return
    with _serving() as url, temporary_settings({PREFECT_API_URL: url}):
        yield url


def _check_answers(url: str) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        if (error := client.api_healthcheck()) is not None:
            raise ServeError(
                f"no Prefect server answers at {url} ({one_line(str(error))}): start it, or unset PREFECT_API_URL to "
                "have one for as long as the command runs"
            )


@contextmanager
def _serving() -> Iterator[str]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server"],
            env={**os.environ, "PREFECT_SERVER_UI_ENABLED": "false"},
            stdin=subprocess.PIPE,  # its end, however we end, ends the server
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield _address(process, log)
        finally:
            end_process(process)


def _address(process: "subprocess.Popen[bytes]", log: IO[bytes]) -> str:
    """Return the address that the server prints as soon as it listens."""
    with selectors.DefaultSelector() as selector:
        output = cast("IO[bytes]", process.stdout)
        selector.register(output, selectors.EVENT_READ)
        for module in _MEANWHILE:
            if not selector.select(0):
                importlib.import_module(module)
        if not selector.select(timeout=_START_S):
            raise ServeError(
                f"no Prefect server could be started within {_START_S:.0f} s: start one, and name it by PREFECT_API_URL"
            )
        if line := output.readline():
            return json.loads(line)
    log.seek(0)
    said = log.read().decode(errors="replace").strip().splitlines() or ["no message"]
    reasons = [line for line in said if _ERROR.match(line)] or said
    raise ServeError(f"the Prefect server ended at its start: {one_line(reasons[-1])}")


def main() -> int:
    """Serve at a free port of this machine, print the address as a line of JSON, and end with the standard input."""
    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(), host="127.0.0.1", port=0, log_level="error", lifespan="on"))
    threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
    threading.Thread(target=_print_address, args=(server,), daemon=True).start()
    server.run()
    return 0 if server.started else 1


def _end_with_input(server: "uvicorn.Server") -> None:
    while os.read(sys.stdin.fileno(), 1):  # not through the buffer, whose lock would outlast the interpreter
        pass
    server.should_exit = True


def _print_address(server: "uvicorn.Server") -> None:
    while not server.started:
        time.sleep(_POLL_S)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(json.dumps(f"http://127.0.0.1:{port}/api"), flush=True)


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

    from flows.config.profiles import PROFILES
    from flows.engine.runner import set_tag_limits

    with temporary_settings({PREFECT_API_URL: config.api_url}):
        for profile in PROFILES.values():
            set_tag_limits(profile().run.tag_limits)


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
    end = time.monotonic() + _WORKPLACE_START_S
    while not _answers(config):
        if server.poll() is not None:
            raise ServeError(f"the Prefect server ended at its start with exit code {server.returncode}")
        if time.monotonic() > end:
            raise ServeError(f"the Prefect server did not answer at {config.api_url} within {_WORKPLACE_START_S:.0f} s")
        time.sleep(0.5)


def _answers(config: ServeConfig) -> bool:
    request = urllib.request.Request(f"{config.api_url}/health")  # noqa: S310 - http, see ``api_url``
    with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(request, timeout=2) as found:  # noqa: S310
        return found.status == 200
    return False


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
