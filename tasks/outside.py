"""Parquet from outside, tried in a limited process before it is read here.

Arrow ends the whole process on some damaged footers, and a page of some kilobytes may unpack to gigabytes whatever the
footer says. So the footer and a small file are read once where that harms nobody; the work that a large file makes is
bounded by its own length.
"""

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from iedit_model.errors import ImageTooCostlyError
from iedit_model.imaging.decoder_process import run_limited
from storage import CorruptFileError, OutsideParquet
from storage.parquet import footer_of

if TYPE_CHECKING:
    import pyarrow as pa

_WHOLE_BYTES: Final = 64 << 20
"""Files up to this length are tried as a whole."""
_CPU_S: Final = 20
_MEMORY_BYTES: Final = 3 << 29


class TriedParquet(OutsideParquet):
    """An ``OutsideParquet`` that was read in a limited process before.

    Raises:
        CorruptFileError: it is no parquet file, has more than it may have, or takes too much time or memory.
    """

    def __init__(self, stream: BinaryIO, *, name: str, max_bytes: int) -> None:
        """Read the footer; see ``OutsideParquet``."""
        footer = footer_of(stream, name=name)
        self._header = {"name": name, "max_bytes": max_bytes}
        self._try(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1", num_bytes=stream.seek(0, 2))
        super().__init__(stream, name=name, max_bytes=max_bytes)

    def batches(self, columns: Sequence[str]) -> "Iterator[pa.RecordBatch]":
        """Yield the rows of some columns."""
        if (size := self._stream.seek(0, 2)) <= _WHOLE_BYTES:
            self._stream.seek(0)
            self._try(self._stream.read(size), num_bytes=size, columns=columns)
        yield from super().batches(columns)

    def _try(self, data: bytes, *, num_bytes: int, columns: Sequence[str] | None = None) -> None:
        header = {**self._header, "columns": columns, "num_bytes": num_bytes}
        try:
            answer = run_limited(tried, header, data, cpu_s=_CPU_S, memory_bytes=_MEMORY_BYTES)[0]
        except ImageTooCostlyError as error:
            raise CorruptFileError(f"{header['name']} cannot be read as parquet: {error}") from error
        if "error" in answer:
            raise CorruptFileError(answer["error"])


def tried(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Read some columns of a file, or only its footer, to find out what that costs."""
    try:
        stream = io.BytesIO(data)
        file = OutsideParquet(stream, name=header["name"], max_bytes=header["max_bytes"], num_bytes=header["num_bytes"])
        if header["columns"] is None:
            file.check_groups(())
        else:
            for _ in file.batches(header["columns"]):
                pass
    except CorruptFileError as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from error
        return {"error": str(error)}, b""
    return {}, b""
