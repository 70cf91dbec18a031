"""Work on untrusted bytes in a process of its own, whose time and memory the system limits.

A decoder cannot be stopped from outside by the thread that called it, and what a file of some kilobytes costs it cannot
be seen from its header. So it runs in a child process that is used again as long as it answers: the kernel ends it at
its limit of processor time (``RLIMIT_CPU``), refuses memory beyond its limit (``RLIMIT_DATA``; Linux only), and the
parent ends it when it does not answer at all.
"""

import atexit
import importlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Final

from iedit_model.errors import ImageDecoderError, ImageTooCostlyError

CPU_S: Final = 10
"""Most processor time for one image, seconds; 64 million pixels of the slowest format take about half of it."""
MEMORY_BYTES: Final = 3 << 30
"""Most memory for one image beside what the process had before."""
_WALL_S: Final = 300.0
_START_S: Final = 120.0
_SMALL_ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}

Header = dict[str, Any]
"""What goes there and back beside the bytes, as JSON."""
Limited = Callable[[Header, bytes], tuple[Header, bytes]]


def run_limited(
    function: "Limited", header: Header, data: bytes, *, cpu_s: int = CPU_S, memory_bytes: int | None = None
) -> tuple[Header, bytes]:
    """Return what a function gives that runs in the limited process.

    Args:
        function: one at the top of a module.
        header: as JSON can hold it.
        data: untrusted bytes.
        cpu_s: most processor time, seconds.
        memory_bytes: most memory beside what the process had before; by default ``MEMORY_BYTES``.

    Raises:
        ImageTooCostlyError: it took more time or memory than it may.
        ImageDecoderError: the process cannot be started, or the function raised what it should not.
    """
    memory_bytes = memory_bytes or MEMORY_BYTES
    limits = {"function": [function.__module__, function.__name__], "cpu_s": cpu_s, "memory_bytes": memory_bytes}
    for is_last in (False, True):
        worker = _taken()
        try:
            answer = worker.ask({**limits, "header": header}, data)
        except (EOFError, OSError):
            # Ended by its limit; or by somebody else, who may have meant another one: it is asked once more.
            if worker.end() == -signal.SIGXCPU or is_last:
                raise ImageTooCostlyError(f"decoding took more than {cpu_s} s of processor time, or crashed") from None
            continue
        except BaseException:
            worker.end()  # its next answer would be that to this question
            raise
        with _LOCK:
            _IDLE.append(worker)
        header, data = answer
        if "raised" in header:
            if header["raised"] == MemoryError.__name__:
                raise ImageTooCostlyError(f"decoding took more than {memory_bytes >> 20} MiB of memory")
            raise ImageDecoderError(f"the image decoder failed with {header['raised']}: {header['message']}")
        return header, data
    raise AssertionError


class _Worker:
    """One child process, which answers one question at a time."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({theirs.fileno()})"
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # some decoders print what they dislike
                start_new_session=True,  # a Ctrl-C is for the parent
                env={**os.environ, **_SMALL_ENVIRONMENT},
            )
        self._is_ready = False

    def ask(self, question: Header, data: bytes) -> tuple[Header, bytes]:
        if not self._is_ready:
            self._wait_until_ready()
        self._connection.send_bytes(json.dumps(question).encode())
        self._connection.send_bytes(data)
        if not self._connection.poll(_WALL_S):
            raise EOFError
        return json.loads(self._connection.recv_bytes()), self._connection.recv_bytes()

    def end(self) -> int:
        """End the process and return its exit code."""
        self._connection.close()
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=0.5)
        self._process.kill()
        return self._process.wait()

    def _wait_until_ready(self) -> None:
        try:
            self._is_ready = self._connection.poll(_START_S) and self._connection.recv_bytes() == b"ready"
        except (EOFError, OSError):
            self._is_ready = False
        if not self._is_ready:
            raise ImageDecoderError(f"the process that decodes images ended at its start with code {self.end()}")


_LOCK: Final = threading.Lock()
_IDLE: Final[list[_Worker]] = []


def _taken() -> _Worker:
    with _LOCK:
        return _IDLE.pop() if _IDLE else _Worker()


def prepare() -> None:
    """Start a process, so that it is ready when it is needed; one that is idle already is enough."""
    worker = _taken()
    with _LOCK:
        _IDLE.append(worker)


@atexit.register
def _end_all() -> None:
    while _IDLE:
        _IDLE.pop().end()


def _forget() -> None:
    # The processes belong to the parent of this fork.
    for worker in _IDLE:
        worker._connection.close()
        worker._process.returncode = 0
    _IDLE.clear()


os.register_at_fork(after_in_child=_forget)


def serve(descriptor: int) -> None:
    """Answer questions until the parent is gone; runs in the child."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Connection(descriptor) as connection, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send_bytes(b"ready")
        while True:
            question, data = json.loads(connection.recv_bytes()), connection.recv_bytes()
            module, name = question["function"]
            function = getattr(importlib.import_module(module), name)
            _limit(question["cpu_s"], question["memory_bytes"])
            header, data = _answer(function, question["header"], data)
            connection.send_bytes(json.dumps(header).encode())
            connection.send_bytes(data)


def _answer(function: Limited, header: Header, data: bytes) -> tuple[Header, bytes]:
    try:
        return function(header, data)
    except Exception as error:  # noqa: BLE001 - the parent says what it means
        return {"raised": type(error).__name__, "message": str(error)[:200]}, b""


def _limit(cpu_s: int, memory_bytes: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + cpu_s)
    with suppress(OSError):  # other systems have no such file, and do not keep this limit either
        pages = int(Path("/proc/self/statm").read_bytes().split()[5])
        _lower(resource.RLIMIT_DATA, pages * resource.getpagesize() + memory_bytes)


def _lower(kind: int, soft: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
