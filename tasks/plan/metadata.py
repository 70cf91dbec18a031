"""Files of metadata at one address, and the reader of their parquet; memory is bounded whatever a file claims.

Footers are checked before they are believed. Texts are read as dictionaries, which are not unrolled before the length
of their entries is known.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, Protocol

from storage import digest_of
from storage.tables import compute
from tasks.errors import MetadataError

if TYPE_CHECKING:
    import pyarrow as pa


Kind = Literal["text", "number", "hash"]
DigestScope = Literal["content", "footer"]
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


MAX_CELL_BYTES: Final = 65_536
"""Longest text of a cell, bytes of UTF-8; a longer one is cut to this length."""

_MAX_GROUP_BYTES: Final = 8 << 30
_MAX_FOOTER_BYTES: Final = 256 << 20
_MAGIC: Final = b"PAR1"


class ParquetReader:
    """Reads parquet files of any writer; the ``MetadataReader`` of LAION's metadata."""

    suffixes: tuple[str, ...] = (".parquet", ".pq")

    def footer_digest(self, stream: BinaryIO, *, name: str, size: int) -> str:
        """Return the sha256 of the footer, which holds the statistics and positions of all columns."""
        stream.seek(max(0, size - 8))
        tail = stream.read(8)
        if len(tail) != 8 or tail[4:] != _MAGIC:
            raise MetadataError(f"the metadata file {name} is damaged: it does not end as a parquet file does")
        length = struct.unpack("<I", tail[:4])[0]
        if length > min(_MAX_FOOTER_BYTES, size - 8):
            raise MetadataError(f"the metadata file {name} is damaged: a footer of {length} bytes")
        stream.seek(size - 8 - length)
        return hashlib.sha256(stream.read(length)).hexdigest()

    def batches(
        self, stream: BinaryIO, *, name: str, columns: "Mapping[str, Kind]", required: Sequence[str]
    ) -> Iterator[dict[str, list[Any]]]:
        """Yield the rows of a file as lists, one per column; a column that the file lacks is all None."""
        import pyarrow as pa

        try:
            yield from _batches(stream, name, columns, required)
        except (pa.ArrowException, OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk or the network, not the content
                raise
            raise MetadataError(f"the metadata file {name} is damaged: {error}") from error


def _batches(
    stream: BinaryIO, name: str, columns: "Mapping[str, Kind]", required: Sequence[str]
) -> Iterator[dict[str, list[Any]]]:
    import pyarrow.parquet as pq

    footer = pq.read_metadata(stream)
    schema = footer.schema.to_arrow_schema()
    held = [column for column in columns if column in schema.names]
    if missing := [column for column in required if column not in held]:
        raise MetadataError(
            f"the metadata file {name} has no column {missing[0]!r}, which is needed; it has {', '.join(schema.names)}"
        )
    _check_types(schema, name, {column: columns[column] for column in held})
    _check_groups(footer, name)
    # Read as dictionaries, a page that repeats one long text a million times stays as short as it was stored.
    texts = [column for column in held if columns[column] != "number"]
    parquet = pq.ParquetFile(stream, metadata=footer, read_dictionary=texts, buffer_size=_READ_BYTES, pre_buffer=False)
    for batch in parquet.iter_batches(batch_size=ROWS_PER_BATCH, columns=held, use_threads=False):
        rows = {column: _values(batch.column(column), columns[column]) for column in held}
        yield {column: rows.get(column) or [None] * batch.num_rows for column in columns}


def _check_types(schema: "pa.Schema", name: str, columns: "Mapping[str, Kind]") -> None:
    import pyarrow.types as kinds

    for column, kind in columns.items():
        if schema.names.count(column) > 1:
            raise MetadataError(f"the metadata file {name} has the column {column!r} twice")
        found = schema.field(column).type
        plain = found.value_type if kinds.is_dictionary(found) else found
        is_text = kinds.is_string(plain) or kinds.is_large_string(plain)
        is_number = kinds.is_integer(plain) or kinds.is_floating(plain) or kinds.is_decimal(plain)
        fits = {"text": is_text, "number": is_number, "hash": is_text or is_number}[kind]
        if not fits and not kinds.is_null(plain):
            raise MetadataError(f"the metadata file {name} has {column!r} as {found}, expected a {kind}")


def _check_groups(metadata: Any, name: str) -> None:
    for number in range(metadata.num_row_groups):
        if (size := metadata.row_group(number).total_byte_size) > _MAX_GROUP_BYTES:
            raise MetadataError(
                f"the metadata file {name} has a row group of {size} bytes, more than {_MAX_GROUP_BYTES}: "
                "write it again with smaller ones"
            )


def _values(array: "pa.Array", kind: "Kind") -> list[Any]:
    import pyarrow.types as kinds

    if kinds.is_null(array.type) or (kind == "hash" and not kinds.is_dictionary(array.type)):
        return [None] * len(array)
    if kind == "number":
        pc = compute()
        numbers = array.cast("float64", safe=False)
        return pc.if_else(pc.is_nan(numbers), None, numbers).to_pylist()
    return _texts(array)


def _texts(array: Any) -> list[str | None]:
    # Each text is decoded once, however often the batch repeats it, and none longer than a cell may be.
    import pyarrow as pa

    used = array.indices.unique().drop_null()
    words = compute().binary_slice(array.dictionary.cast(pa.large_binary()).take(used), 0, MAX_CELL_BYTES)
    texts = (None if word is None else word.decode("utf-8", "replace") for word in words.to_pylist())
    known = dict(zip(used.to_pylist(), texts, strict=True))
    return [None if index is None else known[index] for index in array.indices.to_pylist()]


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

    def digest(self, covers: DigestScope) -> str:
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


ROWS_PER_BATCH: Final = 8_192
