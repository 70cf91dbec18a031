"""Read a parquet file from elsewhere: however little space it takes, it is not unpacked beyond a limit."""

from typing import TYPE_CHECKING, Any, Final

from storage import CorruptFileError, Files

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TABLE_BYTES: Final = 1 << 30
"""Largest table, packed and unpacked alike."""


def read_bounded(files: Files, path: str) -> "pa.Table":
    """Return the table at ``path``.

    Repeated values are first read as dictionaries: a file of a few kilobytes can name one large value a million times.

    Raises:
        MissingFileError: no such file.
        CorruptFileError: no parquet file, or one of more than ``MAX_TABLE_BYTES``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = files.address(path)
    if (files.size(path) or 0) > MAX_TABLE_BYTES:
        raise CorruptFileError(f"{name} has more than the {MAX_TABLE_BYTES} bytes allowed")
    with files.open(path) as stream:
        try:
            held = pq.ParquetFile(stream, page_checksum_verification=True)
            groups = [held.metadata.row_group(index).total_byte_size for index in range(held.num_row_groups)]
            if sum(groups) > MAX_TABLE_BYTES:
                raise CorruptFileError(f"{name} unpacks to {sum(groups)} bytes, at most {MAX_TABLE_BYTES} are allowed")
            texts = [field.name for field in held.schema_arrow if _is_bytes(field.type)]
            stream.seek(0)
            packed = pq.read_table(stream, read_dictionary=texts, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk, not the content
                raise
            raise CorruptFileError(f"{name} cannot be read as parquet: {error}") from error
    if (total := sum(_bytes_of(packed[text]) for text in texts)) > MAX_TABLE_BYTES:
        raise CorruptFileError(f"{name} unpacks to {total} bytes, at most {MAX_TABLE_BYTES} are allowed")
    return packed.cast(held.schema_arrow)


def _is_bytes(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_binary(kind)


def _bytes_of(column: "pa.ChunkedArray") -> int:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    compute: Any = pc
    total = 0
    for chunk in column.chunks:
        if not isinstance(chunk, pa.DictionaryArray):
            total += chunk.nbytes
            continue
        lengths = compute.binary_length(chunk.dictionary).to_numpy(zero_copy_only=False)
        used = chunk.indices.drop_null().to_numpy(zero_copy_only=False)
        total += int(np.asarray(lengths, np.int64)[used].sum())
    return total
