"""How a child process is ended: asked first, and killed when it does not listen."""

import signal
import subprocess
import sys

from flows.server import end_process


def started(program: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_process_that_listens_ends_by_itself() -> None:
    ends = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    process = started(f"import signal, sys, time; {ends}; print('ready', flush=True); time.sleep(600)")
    end_process(process, grace_s=60)
    assert process.returncode == 7


def test_a_process_that_does_not_listen_is_killed() -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    process = started(f"import signal, time; {deaf}; print('ready', flush=True); time.sleep(600)")
    end_process(process, grace_s=0.2)
    assert process.returncode == -signal.SIGKILL


def test_a_process_that_has_ended_is_left_alone() -> None:
    process = started("print('ready', flush=True)")
    process.wait(timeout=60)
    end_process(process)
    assert process.returncode == 0
