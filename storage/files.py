"""Files under one root at any fsspec address (a folder, ``memory://``, ``s3://bucket/prefix``, ...).

Every write is atomic: a reader sees the old bytes or the new ones. Locally that takes a rename; an object store does it
by itself; on other remote systems (sftp, smb, hdfs) the bytes go to a hidden name first. Credentials and endpoints come
from fsspec's own configuration (``FSSPEC_S3_ENDPOINT_URL`` and the like), never through this package.
"""

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from storage import atomic
from storage.errors import AddressError, CorruptFileError, MissingFileError, RemoteError
from storage.remote import open_system

_MAX_SEGMENT_BYTES = 200
_FORBIDDEN = frozenset('*?[]\\"<>|')
"""Wildcards (file systems of fsspec expand them) and characters that some store or tool treats specially."""


def checked_path(path: str) -> str:
    """Return ``path`` if it is a plain relative POSIX path that cannot leave its root.

    Raises:
        AddressError: empty, absolute, a URL, with ``.``, ``..``, an empty or overlong segment, a wildcard, a backslash
            or a control character.
    """
    if not isinstance(path, str) or not path:
        raise AddressError(f"a path must be a non-empty string, got {path!r}")
    if not (path.isprintable() and _FORBIDDEN.isdisjoint(path)):
        bad = sorted({letter for letter in path if letter in _FORBIDDEN or not letter.isprintable()})
        raise AddressError(f"path {path!r} holds {bad}, which is not allowed")
    if "://" in path:
        raise AddressError(f"path {path!r} is a URL: give a path relative to the root")
    for segment in path.split("/"):
        if segment in {"", ".", ".."}:
            raise AddressError(f"path {path!r} must be relative, without '.', '..' or empty segments")
        if len(segment.encode()) > _MAX_SEGMENT_BYTES:
            raise AddressError(f"path {path!r:.80} has a segment of over {_MAX_SEGMENT_BYTES} bytes")
    return path


def normal_root(root: str) -> str:
    """Return the root in one spelling: an absolute local path, or ``scheme://...`` without a final slash.

    Raises:
        AddressError: empty, with control characters, a chained address, or without a bucket.
    """
    if not isinstance(root, str) or not root or not root.isprintable():
        raise AddressError(f"a root must be a printable, non-empty address, got {root!r}")
    if "::" in root:
        raise AddressError(f"root {root!r} is a chained address, whose writes cannot be atomic: give a plain one")
    scheme, separator, rest = root.partition("://")
    if not separator:
        # Absolute, since other processes (Ray workers) have another working directory.
        return _absolute(root)
    if scheme in {"file", "local"}:
        if not rest.startswith("/"):
            raise AddressError(f"root {root!r} must be absolute, as in file:///data/iedit")
        return _absolute(rest)
    if scheme != "memory" and not rest.strip("/"):
        raise AddressError(f"root {root!r} names no bucket or host")
    return f"{scheme}://{rest.rstrip('/')}"


def _absolute(folder: str) -> str:
    try:
        return str(Path(folder).expanduser().resolve())
    except (OSError, RuntimeError) as error:  # a loop of links, a name that is too long, a user who does not exist
        raise AddressError(f"{folder:.200} cannot be a folder here: {error}; name another one") from error


_ATOMIC_PUT = frozenset({"memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2"})
"""Schemes whose put shows the whole object at once."""
_MAX_READ_BYTES = 8 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class FileStat:
    """Size in bytes and time of the last change, seconds since 1970 (0 when the store does not say)."""

    size: int
    modified: float


@dataclass(frozen=True)
class Files:
    """Files under ``root``; holds no connection, so that it can go to threads, processes and Ray workers.

    Paths are relative POSIX paths (``checked_path``). Beside the named errors, a remote store that cannot be reached
    raises ``RemoteError``: whoever runs the stage may try again.

    Raises:
        AddressError: the root cannot be used.
    """

    root: str
    """Folder or URL; relative folders are made absolute."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", normal_root(self.root))

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return "://" not in self.root

    def address(self, path: str) -> str:
        """Return the full address of ``path``, for messages and for other programs."""
        return f"{self.root.rstrip('/') if self.is_local else self.root}/{checked_path(path)}"

    def write_bytes(self, path: str, data: bytes) -> None:
        """Make ``data`` the content of ``path``, or leave what was there.

        Raises:
            DiskFullError: no room; the old content is intact.
        """
        if self.is_local:
            atomic.replace_bytes(self._local(path), data)
            return
        system, name = self._remote(path)
        with self._published(system, name) as target:
            system.pipe_file(target, data)

    def upload(self, source: Path, path: str) -> None:
        """Make the bytes of the local file ``source`` the content of ``path``, or leave what was there.

        A file from ``scratch`` is renamed where that is enough; any other is copied and stays.

        Raises:
            DiskFullError: no room; the old content is intact.
        """
        if self.is_local:
            final = self._local(path)
            if atomic.is_partial(source.name) and source.parent == final.parent:
                with atomic.disk_errors(final):
                    atomic.publish(source, final)
            else:
                atomic.replace_file(source, final)
            return
        system, name = self._remote(path)
        with self._published(system, name) as target:
            if system.protocol == "memory":  # its put_file shows half-written files
                system.pipe_file(target, source.read_bytes())
            else:
                system.put_file(str(source), target)

    @contextmanager
    def scratch(self, path: str) -> Iterator[Path]:
        """Yield an empty local file in which to build ``path``; gone after the block unless ``upload`` moved it.

        Raises:
            DiskFullError: the disk filled up while the block wrote.
        """
        if self.is_local:
            with atomic.partial_beside(self._local(path)) as partial:
                yield partial
            return
        with tempfile.TemporaryDirectory(prefix="iedit-") as folder:
            partial = Path(folder) / PurePosixPath(checked_path(path)).name
            with atomic.disk_errors(partial):
                yield partial

    def read_bytes(self, path: str, *, max_bytes: int = _MAX_READ_BYTES) -> bytes:
        """Return the whole content of ``path``.

        Raises:
            MissingFileError: no such file.
            CorruptFileError: it has more than ``max_bytes`` bytes.
        """
        with self.open(path) as stream:
            data = stream.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise CorruptFileError(f"{self.address(path)} has more than the {max_bytes} bytes allowed here")
        return data

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        """Return exactly ``size`` bytes of ``path`` from ``offset`` on.

        Raises:
            AddressError: offset or size is negative.
            MissingFileError: no such file.
            CorruptFileError: the file ends before.
        """
        if offset < 0 or size < 0:
            raise AddressError(f"cannot read {size} bytes at {offset} of {self.address(path)}")
        try:
            data = self._range(path, offset, size)
        except (OSError, RemoteError) as error:
            # Object stores answer a range past the end with an error of their own.
            if (held := self.size(path)) is None:
                raise MissingFileError(f"{self.address(path)} is not there") from error
            if held >= offset + size:
                raise
            data = b""
        if len(data) != size:
            raise CorruptFileError(f"{self.address(path)} ends before byte {offset + size}: it was cut short")
        return data

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """Yield a seekable binary stream over ``path`` that reads only what is asked for.

        Raises:
            MissingFileError: no such file.
        """
        if self.is_local:
            with self._opened(path) as stream:
                yield stream
            return
        if not self.exists(path):
            raise MissingFileError(f"{self.address(path)} is not there")
        system, name = self._remote(path)
        if system.protocol == "memory":  # its streams share one position and one buffer among all readers
            with tempfile.SpooledTemporaryFile() as spooled:
                spooled.write(system.cat_file(name))
                spooled.seek(0)
                yield cast("BinaryIO", spooled)
            return
        with system.open(name, "rb") as stream:
            yield stream

    @contextmanager
    def local_path(self, path: str) -> Iterator[Path]:
        """Yield a local file with the content of ``path``: the file itself when local, else a copy gone afterwards.

        Raises:
            MissingFileError: no such file.
        """
        if self.size(path) is None:
            raise MissingFileError(f"{self.address(path)} is not there")
        if self.is_local:
            yield self._local(path)
            return
        system, name = self._remote(path)
        with tempfile.TemporaryDirectory(prefix="iedit-") as folder:
            copy = Path(folder) / PurePosixPath(path).name
            with atomic.disk_errors(copy):
                system.get_file(name, str(copy))
            yield copy

    def size(self, path: str) -> int | None:
        """Return the size of ``path`` in bytes, or None when no such file is there."""
        found = self.stat(path)
        return None if found is None else found.size

    def stat(self, path: str) -> FileStat | None:
        """Return size and time of ``path``, or None when no such file is there."""
        if self.is_local:
            local = self._local(path)
            try:
                found = local.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return FileStat(size=found.st_size, modified=found.st_mtime) if stat.S_ISREG(found.st_mode) else None
        system, name = self._remote(path)
        try:
            entry = system.info(name)
        except FileNotFoundError:
            return None
        return _remote_stat(entry) if entry["type"] == "file" else None

    def exists(self, path: str) -> bool:
        """Return whether a file (not a folder) is at ``path``."""
        return self.size(path) is not None

    def list(self, prefix: str = "") -> Sequence[str]:
        """Return the paths of all files in the folder ``prefix`` and below, sorted; partial files are left out."""
        return [path for path in self.stats(prefix) if not atomic.is_partial(path.rpartition("/")[2])]

    def stats(self, prefix: str = "") -> dict[str, FileStat]:
        """Return path -> size and time of all files in the folder ``prefix`` and below, partial files included."""
        found = self._local_stats(prefix) if self.is_local else self._remote_stats(prefix)
        return dict(sorted(found.items()))

    def remove(self, path: str) -> None:
        """Remove one file; one that is not there is no error."""
        if self.is_local:
            self._local(path).unlink(missing_ok=True)
            return
        system, name = self._remote(path)
        try:
            system.rm_file(name)
        except FileNotFoundError:
            return

    def remove_tree(self, prefix: str) -> None:
        """Remove the folder ``prefix`` and all below it; one that is not there is no error. Links are not followed."""
        if not self.is_local:
            for path in self.stats(prefix):
                self.remove(path)
            return
        folder = self._local(prefix)
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)

    def remove_empty_folders(self, prefix: str) -> None:
        """Remove the folder ``prefix`` and those below it as far as they hold no file; object stores have none."""
        if self.is_local:
            for folder, _, _ in os.walk(self._local(prefix), topdown=False):
                with suppress(OSError):  # not empty, or in use again
                    Path(folder).rmdir()

    def sweep(self, folder: str, *, prefix: str = "") -> None:
        """Remove what killed processes left under construction directly in ``folder``, for names on ``prefix``."""
        if self.is_local:
            atomic.sweep_partials(self._local(folder), prefix=prefix)

    def _opened(self, path: str) -> BinaryIO:
        try:
            return self._local(path).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise MissingFileError(f"{self.address(path)} is not there") from error

    def _range(self, path: str, offset: int, size: int) -> bytes:
        if self.is_local:
            # Images are small and many: a buffered stream takes three times as long to open as to read.
            descriptor = os.open(f"{self.root}/{checked_path(path)}", os.O_RDONLY)
            try:
                return os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)
        system, name = self._remote(path)
        return bytes(system.cat_file(name, start=offset, end=offset + size)) if size else b""

    def _local(self, path: str) -> Path:
        return Path(self.root) / checked_path(path)

    def _remote(self, path: str) -> tuple[Any, str]:
        system, base = self._system()
        return system, f"{base.rstrip('/')}/{checked_path(path)}"

    def _system(self) -> tuple[Any, str]:
        return open_system(self.root)

    @contextmanager
    def _published(self, system: Any, name: str) -> Iterator[str]:
        if self.root.partition("://")[0] in _ATOMIC_PUT:
            yield name
            return
        folder, _, base = name.rpartition("/")
        system.makedirs(folder, exist_ok=True)
        partial = f"{folder}/.{base}.{secrets.token_hex(6)}{atomic.PARTIAL_SUFFIX}"
        try:
            yield partial
            system.mv(partial, name)
        finally:
            if system.exists(partial):
                system.rm_file(partial)

    def _local_stats(self, prefix: str) -> dict[str, FileStat]:
        root = Path(self.root)
        found = {}
        for folder, _, names in os.walk(self._local(prefix) if prefix else root):
            for name in names:
                path = Path(folder) / name
                with suppress(FileNotFoundError):  # a partial file that was published in the meantime
                    entry = path.lstat()
                    found[path.relative_to(root).as_posix()] = FileStat(size=entry.st_size, modified=entry.st_mtime)
        return found

    def _remote_stats(self, prefix: str) -> dict[str, FileStat]:
        system, base = self._system()
        folder = f"{base.rstrip('/')}/{checked_path(prefix)}" if prefix else base
        start = len(base.rstrip("/")) + 1
        found = system.find(folder, detail=True)
        return {name[start:]: _remote_stat(entry) for name, entry in found.items() if entry["type"] == "file"}


def _remote_stat(entry: dict[str, Any]) -> FileStat:
    changed = next((entry[key] for key in ("LastModified", "last_modified", "mtime", "created") if entry.get(key)), 0)
    seconds = changed.timestamp() if isinstance(changed, datetime) else float(changed)
    return FileStat(size=int(entry["size"]), modified=seconds)
