"""The end of a child process."""

import subprocess
from typing import Any, Final

_GRACE_S: Final = 20.0


def end_process(process: "subprocess.Popen[Any]", *, grace_s: float = _GRACE_S) -> None:
    """Ask a process to end, kill it where it does not within ``grace_s`` seconds, and wait until it is gone."""
    process.terminate()
    try:
        process.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
