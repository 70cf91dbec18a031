"""``iedit serve`` as a person starts it, in a process of its own, and the certain end of all that it started."""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil

REPOSITORY: Final = Path(__file__).parents[2]
READY: Final = "Ctrl-C"
"""Begins the last line that ``iedit serve`` says before its worker starts."""
_START_S: Final = 400.0
_END_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class ServedMachine:
    """A server with deployments and a worker."""

    process: "subprocess.Popen[str]"
    api: str
    environment: dict[str, str]
    home: Path

    def prefect(self, *arguments: str, timeout_s: float) -> "subprocess.CompletedProcess[str]":
        """Run Prefect's own command against the server, as a person does."""
        return _called(["prefect", *arguments], self.environment | {"PREFECT_API_URL": self.api}, timeout_s)

    def interrupt(self) -> int:
        """Send the Ctrl-C that ends it and return its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=_END_S)

    def processes(self) -> list[psutil.Process]:
        """Return every living process that has this machine's Prefect home, whoever its parent is by now."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("PREFECT_HOME") == str(self.home):
                    found.append(process)
        return found


@contextmanager
def served_machine(folder: Path) -> Iterator[ServedMachine]:
    """Serve at a free port until the block ends, then kill what is left of it."""
    home = folder / "prefect_home"
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = bare | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # No test runs what is scheduled for the night, should the night come.
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    port = _free_port()
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", "serve", "--port", str(port)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        machine = ServedMachine(process=process, api=f"http://127.0.0.1:{port}/api", environment=environment, home=home)
        try:
            _wait_until_ready(process, folder / "serve.log")
            yield machine
        finally:
            while left := machine.processes():  # one that is not dead yet may have started another
                for one in left:
                    with suppress(psutil.Error):
                        one.kill()
            process.wait(timeout=_END_S)


def _wait_until_ready(process: "subprocess.Popen[str]", log: Path) -> None:
    lines: queue.Queue[str | None] = queue.Queue()
    assert process.stdout is not None
    threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True).start()
    while (line := lines.get(timeout=_START_S)) is not None:
        if line.startswith(READY):
            return
    raise AssertionError(f"iedit serve ended at its start: {log.read_text()[-2000:]}")


def _pass_on(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    """Read to the end, so that a full pipe never stops the worker."""
    for line in stream:
        lines.put(line)
    lines.put(None)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _called(
    arguments: Sequence[str], environment: dict[str, str], timeout_s: float
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
