"""Metadata as it comes: parquet files at any fsspec address, read in order, a bounded piece at a time.

The files are a stranger's. What is read of them is bounded by what their footers say (checked), by the batch, and by
dictionaries that are not unrolled before the length of their words is known.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

from storage import digest_of
from storage.arrow import compute
from tasks.errors import MetadataError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_A_BATCH: Final = 8_192
MAX_CELL_BYTES: Final = 65_536
"""Longest text of a cell, bytes of UTF-8; a longer one is read as a text of this length."""

_MAX_GROUP_BYTES: Final = 8 << 30
_MAX_FOOTER_BYTES: Final = 256 << 20
_READ_BYTES: Final = 1 << 20
_MAGIC: Final = b"PAR1"
_MOST_FILES: Final = 1_000_000

Identity = Literal["content", "footer"]
"""What a file is known by: all its bytes, or its length and footer, which is quick for terabytes far away."""
Kind = Literal["text", "number", "hash"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataFile:
    """One file of the metadata."""

    path: str
    """Where it is, in the words of its file system."""
    name: str
    """Where it is below the address that was given: what rows and the manifest call it."""
    size: int
    """Bytes."""


class Metadata:
    """The files at one address.

    Raises:
        MetadataError: there is no parquet file, or the address cannot be opened.
    """

    def __init__(self, address: str) -> None:
        """List the files at ``address``: a file, a folder (with those below it) or a pattern with ``*``."""
        from fsspec.core import url_to_fs

        try:
            self._system, root = url_to_fs(address, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise MetadataError(f"cannot open the metadata at {address}: {error}") from error
        self.address = address
        self.files = self._listed(root)

    def digest(self, identity: Identity) -> str:
        """Return 64 hex characters over names, lengths and contents (or footers) of all files: the input's identity.

        Raises:
            MetadataError: a file is no parquet file.
        """
        parts: list[str | int] = [identity]
        for file in self.files:
            with self._system.open(file.path, "rb") as stream:
                parts += [file.name, file.size, _identity(stream, file, identity)]
        return digest_of(*parts)

    def batches(
        self, file: MetadataFile, columns: Mapping[str, Kind], *, required: Sequence[str]
    ) -> "Iterator[dict[str, list[Any]]]":
        """Yield the rows of a file as lists, one a column; a column that the file lacks is all None.

        Args:
            file: one of ``files``.
            columns: name -> how it is read: texts are str or None, numbers are float or None (NaN is None), hashes
                are str only where they are text.
            required: names that must be there.

        Raises:
            MetadataError: a required column is missing or of another type, or the file is damaged.
        """
        import pyarrow as pa

        with self._system.open(file.path, "rb") as stream:
            try:
                yield from _batches(stream, file, columns, required)
            except (pa.ArrowException, OSError, OverflowError) as error:
                if isinstance(error, OSError) and error.errno is not None:  # the disk or the network, not the content
                    raise
                raise MetadataError(f"the metadata file {file.name} is damaged: {error}") from error

    def _listed(self, root: str) -> tuple[MetadataFile, ...]:
        if any(sign in root for sign in "*?["):
            found = self._system.glob(root, detail=True)
            base = root[: min(root.index(sign) for sign in "*?[" if sign in root)].rpartition("/")[0]
        elif self._system.isdir(root):
            found = self._system.find(root, detail=True)
            found = {path: entry for path, entry in found.items() if path.endswith(".parquet")}
            base = root.rstrip("/")
        else:
            found = {root: self._system.info(root)} if self._system.exists(root) else {}
            base = root.rpartition("/")[0]
        files = [
            MetadataFile(path=path, name=path[len(base) :].lstrip("/"), size=int(entry["size"]))
            for path, entry in found.items()
            if entry["type"] == "file" and not path.rpartition("/")[2].startswith((".", "_"))
        ]
        if not files:
            raise MetadataError(f"there is no parquet file at {self.address}")
        if len(files) > _MOST_FILES:
            raise MetadataError(f"there are {len(files)} files at {self.address}, more than {_MOST_FILES}")
        return tuple(sorted(files, key=lambda file: file.name))


def _identity(stream: BinaryIO, file: MetadataFile, identity: Identity) -> str:
    if identity == "content":
        hasher = hashlib.sha256()
        while block := stream.read(_READ_BYTES):
            hasher.update(block)
        return hasher.hexdigest()
    stream.seek(max(0, file.size - 8))
    tail = stream.read(8)
    if len(tail) != 8 or tail[4:] != _MAGIC:
        raise MetadataError(f"the metadata file {file.name} is damaged: it does not end as a parquet file does")
    length = struct.unpack("<I", tail[:4])[0]
    if length > min(_MAX_FOOTER_BYTES, file.size - 8):
        raise MetadataError(f"the metadata file {file.name} is damaged: a footer of {length} bytes")
    stream.seek(file.size - 8 - length)
    return hashlib.sha256(stream.read(length)).hexdigest()


def _batches(
    stream: BinaryIO, file: MetadataFile, columns: Mapping[str, Kind], required: Sequence[str]
) -> Iterator[dict[str, list[Any]]]:
    import pyarrow.parquet as pq

    footer = pq.read_metadata(stream)
    schema = footer.schema.to_arrow_schema()
    held = [name for name in columns if name in schema.names]
    if missing := [name for name in required if name not in held]:
        raise MetadataError(
            f"the metadata file {file.name} has no column {missing[0]!r}, which is needed; "
            f"it has {', '.join(schema.names)}"
        )
    _check_types(schema, file, {name: columns[name] for name in held})
    _check_groups(footer, file)
    # Read as dictionaries, a page that repeats one long word a million times stays as short as it came.
    texts = [name for name in held if columns[name] != "number"]
    parquet = pq.ParquetFile(stream, metadata=footer, read_dictionary=texts, buffer_size=_READ_BYTES, pre_buffer=False)
    for batch in parquet.iter_batches(batch_size=ROWS_A_BATCH, columns=held, use_threads=False):
        rows = {name: _values(batch.column(name), columns[name]) for name in held}
        yield {name: rows.get(name) or [None] * batch.num_rows for name in columns}


def _check_types(schema: "pa.Schema", file: MetadataFile, columns: Mapping[str, Kind]) -> None:
    import pyarrow.types as kinds

    for name, kind in columns.items():
        if schema.names.count(name) > 1:
            raise MetadataError(f"the metadata file {file.name} has the column {name!r} twice")
        found = schema.field(name).type
        plain = found.value_type if kinds.is_dictionary(found) else found
        is_text = kinds.is_string(plain) or kinds.is_large_string(plain)
        is_number = kinds.is_integer(plain) or kinds.is_floating(plain) or kinds.is_decimal(plain)
        fits = {"text": is_text, "number": is_number, "hash": is_text or is_number}[kind]
        if not fits and not kinds.is_null(plain):
            raise MetadataError(f"the metadata file {file.name} has {name!r} as {found}, expected a {kind}")


def _check_groups(metadata: Any, file: MetadataFile) -> None:
    for number in range(metadata.num_row_groups):
        if (size := metadata.row_group(number).total_byte_size) > _MAX_GROUP_BYTES:
            raise MetadataError(
                f"the metadata file {file.name} has a row group of {size} bytes, more than {_MAX_GROUP_BYTES}: "
                "write it again with smaller ones"
            )


def _values(array: "pa.Array", kind: Kind) -> list[Any]:
    import pyarrow.types as kinds

    if kinds.is_null(array.type) or (kind == "hash" and not kinds.is_dictionary(array.type)):
        return [None] * len(array)
    if kind == "number":
        pc = compute()
        numbers = array.cast("float64", safe=False)
        return pc.if_else(pc.is_nan(numbers), None, numbers).to_pylist()
    return _texts(array)


def _texts(array: Any) -> list[str | None]:
    # Each word is made once, however often it stands in the batch, and none longer than a cell may be.
    import pyarrow as pa

    used = array.indices.unique().drop_null()
    words = compute().binary_slice(array.dictionary.cast(pa.large_binary()).take(used), 0, MAX_CELL_BYTES)
    texts = (None if word is None else word.decode("utf-8", "replace") for word in words.to_pylist())
    known = dict(zip(used.to_pylist(), texts, strict=True))
    return [None if place is None else known[place] for place in array.indices.to_pylist()]
