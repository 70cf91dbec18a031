"""The orchestrator of a command: the user's own where one is named, else one that ends with the command."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from flows.errors import ServeError
from flows.server import orchestrator

_PROGRAM = """
import time
from flows.server import orchestrator
with orchestrator() as url:
    print(url, flush=True)
    {then}
"""


def command(then: str, home: Path) -> "subprocess.Popen[str]":
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(then=then)],
        env={**bare, "PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": "CRITICAL"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=60) as found:  # noqa: S310 - our own server
            return found.status == 200
    except OSError:
        return False


@pytest.mark.xdist_group("prefect")
def test_the_server_that_the_user_named_is_used(prefect, prefect_api):
    with orchestrator() as url:
        assert url == prefect_api
    assert answers(prefect_api)


@pytest.mark.xdist_group("prefect")
def test_a_named_server_that_does_not_answer_is_told(prefect):
    from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: TID251 - as in conftest.py

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        with (
            temporary_settings({PREFECT_API_URL: url}),
            pytest.raises(ServeError, match=f"no Prefect server answers at {url}"),
            orchestrator(),
        ):
            pass


@pytest.mark.slow
def test_without_one_a_server_runs_until_the_end_of_the_command(tmp_path):
    checked = "import urllib.request as r; assert r.urlopen(url + '/health').status == 200"
    process = command(checked, tmp_path)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert not answers(out.strip())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_server_ends_when_its_command_is_ended(number, tmp_path):
    process = command("time.sleep(600)", tmp_path)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert answers(url)
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    end = time.monotonic() + 60
    while answers(url) and time.monotonic() < end:
        time.sleep(0.1)
    assert not answers(url)


@pytest.mark.slow
def test_a_server_that_cannot_start_is_told_with_its_reason(tmp_path):
    (tmp_path / "home").write_text("a file where Prefect's folder should be")
    process = command("pass", tmp_path / "home")
    _, err = process.communicate(timeout=280)
    assert process.returncode == 1
    assert "unable to open database file" in err.splitlines()[-1]
