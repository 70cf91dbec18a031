"""Local files that are whole or absent: write aside, fsync, rename, fsync the folder.

A file under construction is hidden, beside its final name, and locked by the process that writes it. The kernel drops
the lock when that process dies, so ``sweep_partials`` can tell the leftover of a killed run from work in progress.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.errors import DiskFullError, OutputExistsError

PARTIAL_SUFFIX = ".partial"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system calls a full disk, a full quota, and a file at its limit of size."""
_FULL_WORDS = (*(os.strerror(number).lower() for number in sorted(FULL)), "disk is full")
"""What faiss, safetensors, diffusers and sqlite say in their own errors, which carry no number."""


def is_partial(name: str) -> bool:
    """Return whether a file of this name is one under construction."""
    return name.startswith(".") and name.endswith(PARTIAL_SUFFIX)


@contextmanager
def partial_beside(path: Path) -> Iterator[Path]:
    """Yield a new, empty, hidden file beside ``path``, locked until the block ends; gone then unless it was renamed.

    Raises:
        DiskFullError: the disk filled up while the block wrote.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, descriptor = _claim(path)
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)
            os.close(descriptor)


def replace_bytes(path: Path, data: bytes) -> None:
    """Make ``data`` the content of ``path``, or leave what was there.

    Raises:
        DiskFullError: no room; the old content is intact.
    """
    with partial_beside(path) as partial:
        partial.write_bytes(data)
        publish(partial, path)


def create_bytes(path: Path, data: bytes) -> None:
    """Make ``data`` the content of a new file at a place that a user named; what is there already stays.

    Raises:
        OutputExistsError: something else is there; the same bytes are no error.
        DiskFullError: no room.
    """
    with partial_beside(path) as partial:
        partial.write_bytes(data)
        _sync(partial)
        try:
            os.link(partial, path)  # a rename would replace what another process wrote meanwhile
        except FileExistsError:
            if path.is_symlink() or not path.is_file() or path.read_bytes() != data:
                raise OutputExistsError(
                    f"{path} is there already and is left as it is: name another file, or move it away"
                ) from None
        except OSError:  # a file system without hard links
            if os.path.lexists(path):
                raise OutputExistsError(f"{path} is there already: name another file") from None
            partial.replace(path)
        _sync(path.parent)


def replace_file(source: Path, path: Path) -> None:
    """Make a copy of the local file ``source`` the content of ``path``, or leave what was there.

    Raises:
        DiskFullError: no room; the old content is intact.
    """
    with partial_beside(path) as partial:
        shutil.copyfile(source, partial)
        publish(partial, path)


def publish(partial: Path, path: Path) -> None:
    """Give a finished file its final name, durably: its bytes reach the disk before its name does."""
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def sweep_partials(folder: Path, *, prefix: str = "") -> list[Path]:
    """Remove what killed processes left under construction in ``folder`` for names beginning with ``prefix``.

    Files that a living process writes are locked and stay.
    """
    removed = []
    for partial in sorted(folder.glob(f".{prefix}*{PARTIAL_SUFFIX}")):
        # A lock that cannot be taken (held, or a file system without locks) means: not ours to judge.
        with suppress(OSError):
            descriptor = os.open(partial, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()
                removed.append(partial)
            finally:
                os.close(descriptor)
    return removed


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" within the block, in whose words ever, into a ``DiskFullError``."""
    try:
        yield
    except Exception as error:  # the libraries that write files for us raise what they like
        if isinstance(error, DiskFullError) or not is_disk_full(error):
            raise
        place = getattr(error, "filename", None) or path
        raise DiskFullError(f"no room left to write {place}: free some space and run again") from error


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, says that a disk, a quota or a file's size limit is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(words in str(error).lower() for words in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _claim(path: Path) -> tuple[Path, int]:
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}{PARTIAL_SUFFIX}")
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks: such partials are never swept
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # A sweeper may have removed the file between its creation and its lock.
        with suppress(FileNotFoundError):
            if partial.stat().st_ino == os.fstat(descriptor).st_ino:
                return partial, descriptor
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
