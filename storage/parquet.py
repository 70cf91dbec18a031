"""Tables as parquet bytes: the same rows give the same bytes, and damaged pages are noticed when they are read.

``OutsideParquet`` reads what others wrote, within bounds whatever the file claims.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from storage.errors import CorruptFileError, FilterError, SchemaError
from storage.tables import TableSchema, compute, validated

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

_ROWS_A_GROUP = 16_384
_ZSTD_LEVEL = 3


def parquet_bytes(table: "pa.Table", schema: TableSchema) -> bytes:
    """Return ``table``, checked and sorted, as the bytes of a parquet file (zstd, page checksums, no time in it).

    Raises:
        SchemaError: the table is not what the schema declares.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Vectors and images hardly repeat: a dictionary would only be built to be given up.
    dictionaries: Any = [column.name for column in schema.columns if column.type == "string"]
    stream = pa.BufferOutputStream()
    pq.write_table(
        validated(table, schema),
        stream,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        row_group_size=_ROWS_A_GROUP,
        use_dictionary=dictionaries,
        write_page_checksum=True,
        version="2.6",
        data_page_version="1.0",
    )
    return stream.getvalue().to_pybytes()


def read_parquet(
    stream: BinaryIO, *, name: str, columns: Sequence[str] | None = None, where: "pc.Expression | None" = None
) -> "pa.Table":
    """Return the rows of a parquet file, all columns or some, all rows or those for which ``where`` is true.

    Args:
        stream: a seekable binary stream; only the needed pages of it are read.
        name: what errors call the file.
        columns: names of the columns, in the requested order.
        where: a pyarrow expression over any columns of the file.

    Raises:
        CorruptFileError: this is no parquet file, or a page does not match its checksum.
        SchemaError: the file has no such column.
        FilterError: ``where`` does not fit the file's columns.
    """
    import pyarrow.parquet as pq

    with _parquet_errors(name):
        held = pq.read_schema(stream)
        _check_columns(held.names, columns, name)
        if where is not None:
            filtered(held.empty_table(), where, name=name)
        stream.seek(0)
        # A filter given here also skips whole row groups by their statistics.
        return pq.read_table(
            stream,
            columns=None if columns is None else list(columns),
            filters=where,
            page_checksum_verification=True,
        )


def read_schema(stream: BinaryIO, *, name: str) -> "pa.Schema":
    """Return the columns of a parquet file with their metadata.

    Raises:
        CorruptFileError: this is no parquet file.
    """
    import pyarrow.parquet as pq

    with _parquet_errors(name):
        return pq.read_schema(stream)


@contextmanager
def _parquet_errors(name: str) -> Iterator[None]:
    """Turn what pyarrow raises on the content of a file into ``CorruptFileError``."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError, LookupError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk or the network, not the content
            raise
        raise CorruptFileError(f"{name} cannot be read as parquet: {error}") from error


ROWS_PER_BATCH: Final = 8_192
_MAX_FOOTER_BYTES: Final = 64 << 20
_MOST_COLUMNS: Final = 10_000
_FREE_ROWS: Final = 1_000_000
"""Rows that a file may have beside one for each of its bytes: a few bytes can claim billions."""


class OutsideParquet:
    """A parquet file of any writer, of which nothing is believed before it is checked.

    Texts come as dictionaries: read so, a page that repeats one long text a million times stays as short as it was
    stored.

    Raises:
        CorruptFileError: this is no parquet file, or one with more than it may have.
    """

    def __init__(self, stream: BinaryIO, *, name: str, max_bytes: int, num_bytes: int | None = None) -> None:
        """Read the footer.

        Args:
            stream: a seekable binary stream; only the needed pages of it are read.
            name: what errors call the file.
            max_bytes: most bytes, unpacked, of the columns that are read: of one row group for ``batches``, of the
                whole file for ``table``.
            num_bytes: length of the whole file, where the stream is only a part of it.
        """
        import pyarrow.parquet as pq

        self._stream, self._name, self._max_bytes = stream, name, max_bytes
        size = _checked_footer(stream, name)[1]
        with _parquet_errors(name):
            self._footer = pq.read_metadata(stream)
            self.schema: pa.Schema = self._footer.schema.to_arrow_schema()
        self._check("columns", self._footer.num_columns, _MOST_COLUMNS)
        self._check("rows", self._footer.num_rows, _FREE_ROWS + (num_bytes or size))

    def batches(self, columns: Sequence[str]) -> "Iterator[pa.RecordBatch]":
        """Yield the rows of some columns.

        Raises:
            CorruptFileError: a row group is too large, or the file is damaged.
        """
        import pyarrow.parquet as pq

        self.check_groups(columns)
        texts = [field.name for field in self.schema if field.name in columns and _is_text(field.type)]
        with _parquet_errors(self._name):
            file = pq.ParquetFile(
                self._stream,
                metadata=self._footer,
                read_dictionary=texts,
                buffer_size=1 << 20,
                pre_buffer=False,
                page_checksum_verification=True,
            )
            num_rows = 0
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=list(columns), use_threads=False):
                num_rows += batch.num_rows
                for column in batch.columns:
                    _check_indices(column, self._name)
                self._check("rows", num_rows, self._footer.num_rows)
                yield batch

    def table(self) -> "pa.Table":
        """Return all rows with the types that the file declares, texts of any kind as ``string`` or ``binary``.

        Raises:
            CorruptFileError: the file is too large once it is unpacked, or damaged.
        """
        import pyarrow as pa

        self._check("bytes", sum(self._group_bytes(self.schema.names)), self._max_bytes)
        batches, total = list[pa.RecordBatch](), 0
        with _parquet_errors(self._name):
            for batch in self.batches(self.schema.names):
                total += sum(_unpacked_bytes(column) for column in batch.columns)
                self._check("bytes", total, self._max_bytes)
                batches.append(batch)
            schema = pa.schema([_plain(field) for field in self.schema], self.schema.metadata)
            return pa.Table.from_batches(batches).cast(schema) if batches else schema.empty_table()

    def check_groups(self, columns: Sequence[str]) -> None:
        """Raise ``CorruptFileError`` when some columns of a row group have more bytes than may be read."""
        for size in self._group_bytes(columns):
            self._check("bytes in a row group", size, self._max_bytes)

    def _group_bytes(self, columns: Sequence[str]) -> list[int]:
        """Return the unpacked bytes of some columns in each row group, as the footer states them."""
        names = frozenset(columns)
        with _parquet_errors(self._name):
            groups = [self._footer.row_group(number) for number in range(self._footer.num_row_groups)]
            chunks = [[group.column(number) for number in range(group.num_columns)] for group in groups]
            return [
                sum(chunk.total_uncompressed_size for chunk in group if chunk.path_in_schema.partition(".")[0] in names)
                for group in chunks
            ]

    def _check(self, what: str, found: int, most: int) -> None:
        if not 0 <= found <= most:
            raise CorruptFileError(
                f"{self._name} has {found} {what}, at most {most} are read: split it into smaller files"
            )


def footer_of(stream: BinaryIO, *, name: str) -> bytes:
    """Return the footer of a parquet file, which holds the statistics and positions of all columns.

    Raises:
        CorruptFileError: it has none, or one that is too long.
    """
    length, size = _checked_footer(stream, name)
    stream.seek(size - 8 - length)
    return stream.read(length)


def texts_of(column: "pa.Array", *, max_bytes: int) -> list[str | None]:
    """Return a column of texts as ``OutsideParquet`` gives it, each made once however often it stands there.

    A text that is longer than ``max_bytes`` of UTF-8 is cut; bytes that are no UTF-8 are replaced.
    """
    import pyarrow as pa
    import pyarrow.types as kinds

    if kinds.is_null(column.type):
        return [None] * len(column)
    words: Any = column if kinds.is_dictionary(column.type) else column.dictionary_encode()
    used = words.indices.unique().drop_null()
    cut = compute().binary_slice(words.dictionary.cast(pa.large_binary()).take(used), 0, max_bytes)
    texts = (None if word is None else word.decode("utf-8", "replace") for word in cut.to_pylist())
    known = dict(zip(used.to_pylist(), texts, strict=True))
    return [None if index is None else known[index] for index in words.indices.to_pylist()]


def is_text(kind: "pa.DataType") -> bool:
    """Return whether a column of this type holds texts, whichever way its writer stores them."""
    import pyarrow.types as kinds

    plain = kind.value_type if kinds.is_dictionary(kind) else kind
    return _is_text(plain) or kinds.is_null(plain)


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow.types as kinds

    texts = (kinds.is_string, kinds.is_large_string, kinds.is_string_view)
    blobs = (kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view)
    return any(fits(kind) for fits in (*texts, *blobs))


def _plain(field: "pa.Field") -> "pa.Field":
    import pyarrow as pa
    import pyarrow.types as kinds

    kind = field.type.value_type if kinds.is_dictionary(field.type) else field.type
    if not _is_text(kind):
        return field.with_type(kind)
    is_blob = kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind)
    return field.with_type(pa.binary() if is_blob else pa.string())


def _check_indices(column: "pa.Array", name: str) -> None:
    """Refuse a dictionary whose entries are not there, which Arrow does not look at when it reads one."""
    import pyarrow.types as kinds

    words: Any = column
    if kinds.is_dictionary(column.type) and words.indices.null_count < len(words):
        span = compute().min_max(words.indices).as_py()
        if span["min"] < 0 or span["max"] >= len(words.dictionary):
            raise CorruptFileError(f"{name} names entry {span['max']} of {len(words.dictionary)} of a dictionary")


def _unpacked_bytes(column: "pa.Array") -> int:
    import pyarrow.types as kinds

    if not kinds.is_dictionary(column.type) or not is_text(column.type):
        return column.nbytes
    words: Any = column
    lengths = compute().binary_length(words.dictionary)
    return compute().sum(lengths.take(words.indices).cast("int64")).as_py() or 0


def _checked_footer(stream: BinaryIO, name: str) -> tuple[int, int]:
    """Return the lengths of a file's footer and of the file."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 8))
    tail = stream.read(8)
    if len(tail) != 8 or tail[4:] != b"PAR1":
        raise CorruptFileError(f"{name} cannot be read as parquet: it does not end as such a file does")
    length = struct.unpack("<I", tail[:4])[0]
    if length > min(_MAX_FOOTER_BYTES, size - 8):
        raise CorruptFileError(f"{name} cannot be read as parquet: a footer of {length} bytes")
    return length, size


def filtered(table: "pa.Table", where: "pc.Expression", *, name: str) -> "pa.Table":
    """Return the rows for which ``where`` is true; null counts as false.

    Raises:
        FilterError: ``where`` names no column of the table or does not fit its types.
    """
    import pyarrow as pa

    try:
        return table.filter(where)
    except (pa.ArrowException, TypeError) as error:
        raise FilterError(f"the filter {where} does not fit {name}: {error}") from error


def _check_columns(held: Sequence[str], columns: Sequence[str] | None, name: str) -> None:
    if missing := [column for column in columns or () if column not in held]:
        raise SchemaError(f"{name} has no column {missing[0]!r}; it has {', '.join(held)}")
