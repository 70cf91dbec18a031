"""A Prefect server of our own for as long as a command runs, where the user named none (``PREFECT_API_URL``).

The one that Prefect would start by itself outlives a command that is killed, takes a Ctrl-C that was meant for us, and
is given up after seconds on a busy machine.
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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final, cast

from flows.errors import ServeError, one_line

if TYPE_CHECKING:
    import uvicorn


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
            [sys.executable, "-m", "flows.server.temporary"],
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
    """Return what the server tells as its address as soon as it listens."""
    with selectors.DefaultSelector() as selector:
        told = cast("IO[bytes]", process.stdout)
        selector.register(told, selectors.EVENT_READ)
        for module in _MEANWHILE:
            if not selector.select(0):
                importlib.import_module(module)
        if not selector.select(timeout=_START_S):
            raise ServeError(
                f"no Prefect server could be started within {_START_S:.0f} s: start one, and name it by PREFECT_API_URL"
            )
        if line := told.readline():
            return json.loads(line)
    log.seek(0)
    said = log.read().decode(errors="replace").strip().splitlines() or ["no message"]
    reasons = [line for line in said if _ERROR.match(line)] or said
    raise ServeError(f"the Prefect server ended at its start: {one_line(reasons[-1])}")


def main() -> int:
    """Serve at a free port of this machine, tell the address as a line of JSON, and end with the standard input."""
    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(), host="127.0.0.1", port=0, log_level="error", lifespan="on"))
    threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
    threading.Thread(target=_tell_address, args=(server,), daemon=True).start()
    server.run()
    return 0 if server.started else 1


def _end_with_input(server: "uvicorn.Server") -> None:
    while os.read(sys.stdin.fileno(), 1):  # not through the buffer, whose lock would outlast the interpreter
        pass
    server.should_exit = True


def _tell_address(server: "uvicorn.Server") -> None:
    while not server.started:
        time.sleep(_POLL_S)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(json.dumps(f"http://127.0.0.1:{port}/api"), flush=True)


if __name__ == "__main__":
    sys.exit(main())
