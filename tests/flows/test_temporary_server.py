"""The orchestrator of a command: the user's own where one is named, else one that ends with the command."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from flows import bypass_proxy
from flows.cli.main import main
from flows.errors import ServeError
from flows.server import orchestrator

REPOSITORY = Path(__file__).parents[2]
QUIET = {"PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL"}
_PROGRAM = """
import time
from flows.server import orchestrator
with orchestrator() as url:
    print(url, flush=True)
    {then}
"""


def command(then: str, home: Path, **variables: str) -> "subprocess.Popen[str]":
    bare = {name: value for name, value in os.environ.items() if not name.lower().startswith(("prefect_", "no_proxy"))}
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(then=then)],
        env={**bare, "PREFECT_HOME": str(home), **QUIET, **variables},
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
    (tmp_path / "uvicorn.py").write_text("raise MemoryError('no room for a server')")
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    process = command("pass", tmp_path / "home", PYTHONPATH=path)
    _, err = process.communicate(timeout=280)
    assert process.returncode == 1
    assert "no room for a server" in err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"},
        {"http_proxy": "http://127.0.0.1:9", "no_proxy": "example.org"},
        {"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "10.0.0.0/8"},
        {"PREFECT_HOME": "/dev/null/home", "HOME": "/dev/null"},
        {"PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://nobody@127.0.0.1:9/none"},
    ],
)
def test_neither_proxies_nor_homes_nor_the_users_database_keep_it_from_working(variables, tmp_path):
    flow = "from prefect import flow; assert flow(lambda: 7, name='seven')() == 7"
    process = command(flow, tmp_path, **variables)
    _, err = process.communicate(timeout=280)
    assert process.returncode == 0, err


def test_a_proxy_that_is_no_address_is_told_with_its_name(monkeypatch):
    monkeypatch.setenv("https_proxy", "proxy://")
    with pytest.raises(ServeError, match="https_proxy is 'proxy://'"), orchestrator():
        pass


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "a,b"),
        ({"NO_PROXY": " x , a "}, "x,a,b"),
        ({"no_proxy": "y", "NO_PROXY": "x"}, "y,a,b"),
        ({"NO_PROXY": "*"}, None),
    ],
)
def test_hosts_are_added_to_those_that_have_no_proxy(given, expected, monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    bypass_proxy("a", "b")
    assert [os.environ.get("no_proxy"), os.environ.get("NO_PROXY")] == ([expected] * 2 if expected else [None, "*"])


KILLED = """
    import threading, time, psutil
    from prefect import flow, task
    (server,) = (one for one in psutil.Process().children() if "flows.server" in one.cmdline())
    killed = lambda: ({kill}, threading.Timer(0.1, killed).start() if {again} else None)
    threading.Timer(1, killed).start()
    step = task(lambda number: time.sleep(0.5) or number, name="step")
    assert flow(lambda: [step(number) for number in range(6)], name="steps")() == list(range(6))
    print(psutil.Process(server.pid).status() if psutil.pid_exists(server.pid) else "gone")
"""
_KILL = "[one.kill() for one in psutil.Process().children() if 'flows.server' in one.cmdline()]"


@pytest.mark.slow
def test_a_server_that_is_killed_is_started_again_and_the_flow_goes_on(tmp_path):
    process = command(KILLED.format(kill=_KILL, again=False).strip(), tmp_path)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert out.split()[-1] == "gone"


@pytest.mark.slow
def test_one_that_is_killed_again_and_again_is_told_in_one_line_within_half_a_minute(tmp_path):
    process = command(KILLED.format(kill=_KILL, again=True).strip(), tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http")
    start = time.monotonic()
    _, err = process.communicate(timeout=280)
    assert time.monotonic() - start < 30
    assert process.returncode == 1
    (line,) = err.splitlines()
    assert re.fullmatch(r"iedit: the Prefect server of this command was ended from outside .*goes on from there", line)


@pytest.mark.parametrize("is_prefect_like", [False, True])
def test_serve_tells_a_taken_port_within_two_seconds(is_prefect_like, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if is_prefect_like:  # a web server, but not Prefect's
            threading.Thread(target=_answer, args=(taken,), daemon=True).start()
        start = time.monotonic()
        assert main(["serve", "--port", str(port), "--once"]) == 1
        assert time.monotonic() - start < 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"port {port} of 127.0.0.1 cannot be used (Address already in use)" in line


def _answer(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n<html>")


def test_serve_tells_a_home_that_cannot_be_written(monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_HOME", "/dev/null/home")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert main(["serve", "--port", str(port)]) == 1
    assert "/dev/null/home, which cannot be written (Not a directory)" in capsys.readouterr().err
