"""One Prefect server for a whole test run, however many worker processes it has.

Its start takes seconds, so that the first worker who needs it starts it and all others use it. It ends with its
standard input, a pipe with a name that every worker keeps open: no server outlives its tests, however they end.
"""

import fcntl
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def shared_prefect_server(folder: Path) -> Iterator[str]:
    """Give the API address of the server of ``folder``, which is started if nobody has."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pipe = folder / "input"
        if not pipe.exists():
            os.mkfifo(pipe)
        with pipe.open("r+b", buffering=0):  # for reading too: opening waits for the other side otherwise
            address = folder / "address.json"
            if not (address.exists() and _answers(json.loads(address.read_text()))):
                address.write_text(_started(folder, pipe))
            fcntl.flock(lock, fcntl.LOCK_UN)
            yield json.loads(address.read_text())


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=60) as answer:  # noqa: S310 - our own
        return answer.status == 200
    return False


def _started(folder: Path, pipe: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "PREFECT_LOGGING_LEVEL": "ERROR",
    }
    with (folder / "server.log").open("wb") as log, pipe.open("rb", buffering=0) as given:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server"],
            env=environment,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"no Prefect server for the tests: {(folder / 'server.log').read_text()[-2000:]}"
    return line
