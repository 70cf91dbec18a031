"""A Prefect server for as long as a command runs, and child processes that end with us.

It is taken where the user named no server (``PREFECT_API_URL``). The one that Prefect would start by itself
outlives a command that is killed, takes a Ctrl-C that was meant for us, and is given up too early on a busy machine.
"""

import importlib
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn, cast
from urllib.parse import urlsplit

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
_RESTART_S: Final = 30.0
_RESTARTS: Final = 3
_POLL_S: Final = 0.05
_PROXY: Final = re.compile(r"(?:(?:https?|socks5h?)://|(?!\w*:?/))\S", re.IGNORECASE)
_OF_THE_USERS_SERVER: Final = ("PREFECT_API_", "PREFECT_SERVER_DATABASE_", "PREFECT_SERVER_API_", "PREFECT_PROFILE")
"""Beginnings of the settings that another server than the command's own is run with."""
KEPT_LEASES: Final = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
"""Slots of a limit come back when their lease ends; in memory, Prefect's default, leases are lost with the server."""
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
        ServeError: the user's server does not answer (any more), ours does not start, or a proxy is no address.
    """
    _check_proxies()
    # Read again below, from a folder that can be written: no use of the user's own is made without a server there.
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home")
    from httpx import HTTPError
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    if (named := PREFECT_API_URL.value()) is None:
        with _serving() as (url, home), temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: home}):
            yield url
        return
    _check_answers(named)
    try:
        yield named
    except HTTPError as error:
        raise ServeError(
            f"the Prefect server at {named} no longer answers ({one_line(str(error)) or type(error).__name__}): start "
            "it again; what is finished stays, and the same command goes on from there"
        ) from error


def _check_proxies() -> None:
    """Refuse what the HTTP client refuses at its first use, even of an address that no proxy stands before."""
    for scheme, proxy in urllib.request.getproxies_environment().items():
        if scheme in ("http", "https", "all") and not _PROXY.match(proxy):
            name = next(name for name in os.environ if name.lower() == f"{scheme}_proxy")
            raise ServeError(f"{name} is {proxy!r}, expected an address like http://proxy:3128: correct it or unset it")


def _check_answers(url: str) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        if (error := client.api_healthcheck()) is not None:
            raise ServeError(
                f"no Prefect server answers at {url} ({one_line(str(error))}): start it, or unset PREFECT_API_URL to "
                "have one for as long as the command runs"
            )


@contextmanager
def _serving() -> Iterator[tuple[str, Path]]:
    with tempfile.TemporaryDirectory(prefix="iedit-server-", ignore_cleanup_errors=True) as home:
        server = _OwnServer(Path(home))
        try:
            yield server.start(), Path(home)
        finally:
            server.end()


class _OwnServer:
    """The server of one command; one that is ended by somebody else is started again where it was.

    Its state lies in its home, so that flow runs only see a server that answers late.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._is_wanted = True

    def start(self) -> str:
        """Start it at a free port and return the address of its API."""
        self._begin(port=0)
        url = self._address(_START_S, meanwhile=_MEANWHILE)
        threading.Thread(target=self._watch, args=(urlsplit(url).port,), daemon=True).start()
        return url

    def end(self) -> None:
        """End it for good."""
        with self._lock:
            self._is_wanted = False
            end_process(self._process)

    def _begin(self, *, port: int) -> None:
        with self._lock:
            if not self._is_wanted:
                return
            with (self._home / "server.log").open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and words
                    [sys.executable, "-m", "flows.server", str(port)],
                    env=_own_environment(self._home),
                    stdin=subprocess.PIPE,  # its end, however we end, ends the server
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )

    def _watch(self, port: int) -> None:
        for _ in range(_RESTARTS):
            self._process.wait()
            if not self._is_wanted:
                return
            self._begin(port=port)
            try:
                self._address(_RESTART_S)
            except ServeError as error:
                if self._is_wanted:
                    self._give_up(str(error))
                return
        self._process.wait()
        if self._is_wanted:
            self._give_up(f"it was ended {_RESTARTS + 1} times")

    def _give_up(self, why: str) -> NoReturn:
        """End the whole process: its main thread waits for a server that will not come, for minutes."""
        print(
            f"iedit: the Prefect server of this command was ended from outside ({why}), for want of memory perhaps; "
            "what is finished stays, and the same command goes on from there",
            file=sys.stderr,
            flush=True,
        )
        shutil.rmtree(self._home, ignore_errors=True)
        os._exit(1)

    def _address(self, timeout_s: float, *, meanwhile: Sequence[str] = ()) -> str:
        """Return the address that the server prints as soon as it listens."""
        with selectors.DefaultSelector() as selector:
            output = cast("IO[bytes]", self._process.stdout)
            selector.register(output, selectors.EVENT_READ)
            for module in meanwhile:
                if not selector.select(0):
                    importlib.import_module(module)
            if not selector.select(timeout=timeout_s):
                raise ServeError(
                    f"no Prefect server could be started within {timeout_s:.0f} s: start one, and name it by "
                    "PREFECT_API_URL"
                )
            if line := output.readline():
                return json.loads(line)
        said = (self._home / "server.log").read_text(errors="replace").strip().splitlines() or ["no message"]
        reasons = [line for line in said if _ERROR.match(line)] or said
        raise ServeError(f"the Prefect server ended at its start: {one_line(reasons[-1])}")


def _own_environment(home: Path) -> dict[str, str]:
    """Return the environment of a server that keeps all it has in ``home``, whatever the user's own is told."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_USERS_SERVER)}
    return {**kept, "PREFECT_HOME": str(home), "PREFECT_SERVER_UI_ENABLED": "false", **KEPT_LEASES}


def main() -> int:
    """Do what the words of the command line say, until the standard input ends.

    Nothing or a port: serve there, or at a free one, and print the address as JSON. Words of Prefect: run its command.
    """
    if sys.argv[1:2] == ["prefect"]:
        from prefect.cli import app

        threading.Thread(target=_terminate_with_input, daemon=True).start()
        del sys.argv[1]
        return app() or 0
    import uvicorn
    from prefect.server.api.server import create_app

    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    server = uvicorn.Server(uvicorn.Config(create_app(), host="127.0.0.1", port=port, log_level="error", lifespan="on"))
    threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
    threading.Thread(target=_print_address, args=(server,), daemon=True).start()
    server.run()
    return 0 if server.started else 1


def _end_with_input(server: "uvicorn.Server") -> None:
    _wait_for_end_of_input()
    server.should_exit = True


def _terminate_with_input() -> None:
    _wait_for_end_of_input()
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not through the buffer, whose lock would outlast the interpreter
        pass


def _print_address(server: "uvicorn.Server") -> None:
    while not server.started:
        time.sleep(_POLL_S)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(json.dumps(f"http://127.0.0.1:{port}/api"), flush=True)


if __name__ == "__main__":
    sys.exit(main())
