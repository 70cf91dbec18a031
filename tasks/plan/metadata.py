"""Files of metadata at one address, and the reader of their parquet; memory is bounded whatever a file claims."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, Protocol

from storage import AddressError, CorruptFileError, digest_of
from storage.parquet import footer_of, is_text, texts_of
from storage.remote import open_system
from storage.tables import compute
from tasks.errors import MetadataError
from tasks.outside import TriedParquet

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

OTHER_NAMES: Final = {
    "url": ("image_url", "img_url"),
    "text": ("caption", "top_caption", "alt_text", "alt"),
    "width": ("original_width", "image_width"),
    "height": ("original_height", "image_height"),
    "similarity": ("clip_similarity",),
    "punsafe": ("nsfw",),
    "aesthetic_score": ("aesthetic",),
    "language": ("lang",),
    "hash": ("sha256", "md5"),
}
"""What published sets (LAION-400M, Re-LAION, COYO, DataComp, ...) call LAION-5B's columns; capitals do not count."""
NSFW_TAGS: Final = {"unlikely": 0.0, "unsure": 0.5, "nsfw": 1.0}
"""LAION-400M's words for how unsafe an image is."""


class ParquetReader:
    """Reads parquet files of any writer; the ``MetadataReader`` of LAION's metadata."""

    suffixes: tuple[str, ...] = (".parquet", ".pq")

    def footer_digest(self, stream: BinaryIO, *, name: str, size: int) -> str:  # noqa: ARG002 - the stream's own counts
        """Return the sha256 of the footer, which holds the statistics and positions of all columns."""
        try:
            return hashlib.sha256(footer_of(stream, name=f"the metadata file {name}")).hexdigest()
        except CorruptFileError as error:
            raise MetadataError(f"{error}: it is damaged") from error

    def batches(
        self, stream: BinaryIO, *, name: str, columns: "Mapping[str, Kind]", required: Sequence[str]
    ) -> Iterator[dict[str, list[Any]]]:
        """Yield the rows of a file as lists, one per column; a column that the file lacks is all None."""
        try:
            yield from _batches(stream, name, columns, required)
        except CorruptFileError as error:
            raise MetadataError(f"{error}: it is damaged, or too large at once") from error


def _batches(
    stream: BinaryIO, name: str, columns: "Mapping[str, Kind]", required: Sequence[str]
) -> Iterator[dict[str, list[Any]]]:
    file = TriedParquet(stream, name=f"the metadata file {name}", max_bytes=_MAX_GROUP_BYTES)
    held = {column: found for column in columns if (found := _held_name(column, file.schema.names)) is not None}
    if missing := [column for column in required if column not in held]:
        raise MetadataError(
            f"the metadata file {name} has no column {missing[0]!r}, which is needed; it has "
            f"{', '.join(file.schema.names)}: name it in data.plan.columns, or set the filter on it to null"
        )
    for column, found in held.items():
        _check_type(file.schema, name, found, columns[column])
    for batch in file.batches(list(held.values())):
        rows = {column: _values(batch.column(found), columns[column]) for column, found in held.items()}
        yield {column: rows.get(column) or [None] * batch.num_rows for column in columns}


def _held_name(column: str, held: Sequence[str]) -> str | None:
    """Return what a file calls a column, or None where it lacks it."""
    if column in held:
        return column
    by_lower = {name.lower(): name for name in reversed(held)}
    names = (column.lower(), *OTHER_NAMES.get(column.lower(), ()))
    return next((by_lower[name] for name in names if name in by_lower), None)


def _check_type(schema: "pa.Schema", name: str, column: str, kind: "Kind") -> None:
    import pyarrow.types as kinds

    if schema.names.count(column) > 1:
        raise MetadataError(f"the metadata file {name} has the column {column!r} twice")
    found = schema.field(column).type
    is_number = kinds.is_integer(found) or kinds.is_floating(found) or kinds.is_decimal(found) or kinds.is_null(found)
    is_tag = column.lower() == "nsfw" and is_text(found)
    fits = {"text": is_text(found), "number": is_number or is_tag, "hash": is_text(found) or is_number}[kind]
    if not fits:
        raise MetadataError(f"the metadata file {name} has {column!r} as {found}, expected a {kind}")


def _values(array: "pa.Array", kind: "Kind") -> list[Any]:
    import pyarrow.types as kinds

    if kinds.is_dictionary(array.type) or kind == "text":
        texts = texts_of(array, max_bytes=MAX_CELL_BYTES)
        return [NSFW_TAGS.get((text or "").strip().lower()) for text in texts] if kind == "number" else texts
    if kinds.is_null(array.type) or kind == "hash":
        return [None] * len(array)
    pc = compute()
    numbers = array.cast("float64", safe=False)
    return pc.if_else(pc.is_nan(numbers), None, numbers).to_pylist()


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
        RemoteError: it cannot be reached.
    """

    def __init__(self, address: str, *, readers: Sequence[MetadataReader] = READERS) -> None:
        """List the files at ``address``: a file, a folder (with those below it) or a pattern with ``*``."""
        self.address, self._readers = address, readers
        try:
            self._system, root = open_system(address)
            self.files = self._listed(root)
        except AddressError as error:
            raise MetadataError(f"cannot open the metadata: {error}") from error
        except FileNotFoundError as error:
            raise MetadataError(f"there is no metadata at {address}: {error}") from error

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
