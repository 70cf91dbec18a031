"""Tables as parquet bytes: the same rows give the same bytes, and damaged pages are noticed when they are read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from storage.errors import CorruptFileError, FilterError, SchemaError
from storage.tables import TableSchema, validated

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
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
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
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk or the network, not the content
            raise
        raise CorruptFileError(f"{name} cannot be read as parquet: {error}") from error


def read_schema(stream: BinaryIO, *, name: str) -> "pa.Schema":
    """Return the columns of a parquet file with their metadata.

    Raises:
        CorruptFileError: this is no parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(stream)
    except pa.ArrowException as error:
        raise CorruptFileError(f"{name} cannot be read as parquet: {error}") from error


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
