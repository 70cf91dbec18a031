"""Metadata at one address: its files in order, each read by the reader of its suffix, a bounded batch at a time.

A reader is one module with one entry in ``READERS`` (see CONTRIBUTING.md); nothing else knows a file format.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal, Protocol

from storage import digest_of
from tasks.errors import MetadataError
from tasks.plan.parquet_reader import ParquetReader

Kind = Literal["text", "number", "hash"]
Fingerprinting = Literal["content", "footer"]
"""What the digest of a file covers: all its bytes, or its length and footer, which is quick for remote terabytes."""
Rows = dict[str, list[Any]]
"""Column -> values of one batch."""

_READ_BYTES: Final = 1 << 20
_MOST_FILES: Final = 1_000_000


class MetadataReader(Protocol):
    """Reads one file format. What it reads is untrusted: memory must be bounded whatever the file claims."""

    suffixes: tuple[str, ...]
    """Endings of file names, lower case, with the dot."""

    def footer_digest(self, stream: BinaryIO, *, name: str, size: int) -> str:
        """Return a digest that changes with the content and costs a few reads; ``MetadataError`` if there is none."""
        ...

    def batches(
        self, stream: BinaryIO, *, name: str, columns: Mapping[str, Kind], required: Sequence[str]
    ) -> Iterator[Rows]:
        """Yield the rows of a file as lists, one per column; a column that the file lacks is all None."""
        ...


READERS: Final[tuple[MetadataReader, ...]] = (ParquetReader(),)
"""Every file format that the plan stage reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataFile:
    """One file of the metadata."""

    path: str
    """Its path in its file system."""
    name: str
    """Its path below the given address: what rows and the manifest call it."""
    size: int
    """Bytes."""
    reader: MetadataReader


class Metadata:
    """The files at one address.

    Raises:
        MetadataError: there is no file that a reader knows, or the address cannot be opened.
    """

    def __init__(self, address: str, *, readers: Sequence[MetadataReader] = READERS) -> None:
        """List the files at ``address``: a file, a folder (with those below it) or a pattern with ``*``."""
        from fsspec.core import url_to_fs

        try:
            self._system, root = url_to_fs(address, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise MetadataError(f"cannot open the metadata at {address}: {error}") from error
        self.address, self._readers = address, readers
        self.files = self._listed(root)

    def digest(self, covers: Fingerprinting) -> str:
        """Return 64 hex characters over names, lengths and contents (or footers) of all files.

        Raises:
            MetadataError: a file is not of its format.
        """
        parts: list[str | int] = [covers]
        for file in self.files:
            with self._system.open(file.path, "rb") as stream:
                if covers == "content":
                    file_digest = _content_digest(stream)
                else:
                    file_digest = file.reader.footer_digest(stream, name=file.name, size=file.size)
            parts += [file.name, file.size, file_digest]
        return digest_of(*parts)

    def batches(self, file: MetadataFile, columns: Mapping[str, Kind], *, required: Sequence[str]) -> Iterator[Rows]:
        """Yield the rows of a file as lists, one per column; a column that the file lacks is all None.

        Args:
            file: one of ``files``.
            columns: name -> how it is read: texts are str or None, numbers are float or None (NaN is None), hashes
                are str only where they are text.
            required: names that must be there.

        Raises:
            MetadataError: a required column is missing or of another type, or the file is damaged.
        """
        with self._system.open(file.path, "rb") as stream:
            yield from file.reader.batches(stream, name=file.name, columns=columns, required=required)

    def _reader_of(self, path: str) -> MetadataReader | None:
        return next((reader for reader in self._readers if path.lower().endswith(reader.suffixes)), None)

    def _listed(self, root: str) -> tuple[MetadataFile, ...]:
        if any(sign in root for sign in "*?["):
            found = self._system.glob(root, detail=True)
            base = root[: min(root.index(sign) for sign in "*?[" if sign in root)].rpartition("/")[0]
        elif self._system.isdir(root):
            found = self._system.find(root, detail=True)
            found = {path: entry for path, entry in found.items() if self._reader_of(path) is not None}
            base = root.rstrip("/")
        else:
            found = {root: self._system.info(root)} if self._system.exists(root) else {}
            base = root.rpartition("/")[0]
        files = [
            MetadataFile(
                path=path,
                name=path[len(base) :].lstrip("/"),
                size=int(entry["size"]),
                # A file that was named outright is tried as the first format, whatever it is called.
                reader=self._reader_of(path) or self._readers[0],
            )
            for path, entry in found.items()
            if entry["type"] == "file" and not path.rpartition("/")[2].startswith((".", "_"))
        ]
        if not files:
            known = ", ".join(suffix for reader in self._readers for suffix in reader.suffixes)
            raise MetadataError(f"there is no metadata file ({known}) at {self.address}")
        if len(files) > _MOST_FILES:
            raise MetadataError(f"there are {len(files)} files at {self.address}, more than {_MOST_FILES}")
        return tuple(sorted(files, key=lambda file: file.name))


def _content_digest(stream: BinaryIO) -> str:
    hasher = hashlib.sha256()
    while block := stream.read(_READ_BYTES):
        hasher.update(block)
    return hasher.hexdigest()
