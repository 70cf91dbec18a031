"""One packed sample: its five members, written from checked bytes and read back from a tar.

``<sample_id>.source.<ext>``, ``.target.<ext>``, ``.source_mask.png``, ``.target_mask.png`` and ``<sample_id>.json``.
Images and masks are the bytes that earlier stages stored; nothing is encoded anew.
"""

import io
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from storage import SAMPLE_PARTS, CorruptFileError, Files, TableSchema, iter_tar, split_member
from storage.tables import compute
from tasks.errors import TaskError

if TYPE_CHECKING:
    import pyarrow as pa

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_BATCH: Final = 256
_END_OF_TAR: Final = bytes(1024)
_GREY_8_BIT: Final = (8, 0)
"""Bit depth and colour type of a PNG."""
_WHERE_IT_LIES: Final = frozenset({"image_shard", "image_offset", "image_size"})


class BadPartError(TaskError):
    """An image or mask is not what was stored, so that its sample cannot be packed."""

    def __init__(self, what: str, message: str) -> None:
        """Keep the message, and the reason ``damaged_<what>`` under which the sample is counted as dropped."""
        super().__init__(message)
        self.reason = f"damaged_{what}"


def image_part(part: str, data: bytes) -> tuple[str, bytes]:
    """Return the end of an image's member name and its bytes: ``("source.png", data)``.

    Raises:
        BadPartError: this is no PNG, JPEG or WebP.
    """
    if data.startswith(_PNG):
        return f"{part}.png", data
    if data.startswith(b"\xff\xd8\xff"):
        return f"{part}.jpg", data
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return f"{part}.webp", data
    raise BadPartError(f"{part}_image", f"the {part} image begins with {data[:12]!r}, expected a PNG, JPEG or WebP")


def mask_part(part: str, data: bytes) -> tuple[str, bytes]:
    """Return the end of a mask's member name and its bytes.

    Raises:
        BadPartError: this is no PNG of 8-bit grey.
    """
    header = data[:33]
    if len(header) < 33 or not header.startswith(_PNG) or header[12:16] != b"IHDR":
        raise BadPartError(part, f"the {part} begins with {data[:12]!r}, expected a PNG")
    if (kind := struct.unpack(">BB", header[24:26])) != _GREY_8_BIT:
        raise BadPartError(part, f"the {part} has bit depth and colour type {kind}, expected {_GREY_8_BIT}")
    return f"{part}.png", data


def json_columns(manifest: TableSchema) -> tuple[str, ...]:
    """Return the columns of a manifest that the ``json`` member repeats: what is true wherever a sample is packed."""
    return tuple(
        column.name
        for column in manifest.columns
        if column.name not in _WHERE_IT_LIES and not column.name.startswith("candidate_") and column.stage != "pack"
    )


def json_records(table: "pa.Table", columns: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield for each row of a table, of its ``columns``, the end of the member name and the bytes of its ``json``.

    Keys are sorted, all is ASCII, numbers have the fewest digits that give them back, and what is not finite is null.
    """
    import pyarrow as pa

    names = sorted(columns)
    values = [
        _shortest(table[name]) if table.schema.field(name).type == pa.float32() else table[name] for name in names
    ]
    # The columns stand in the order of the keys, so that none has to be sorted.
    for batch in pa.table(values, names=names).to_batches(max_chunksize=_BATCH):
        for row in batch.to_pylist():
            yield "json", (json.dumps(row, allow_nan=False) + "\n").encode()


def read_sample(files: Files, row: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the parts of one packed sample by one range read of its tar, each checked against its hash.

    Args:
        files: the store that holds the tar.
        row: a row of the manifest.

    Raises:
        MissingFileError: the tar is gone.
        CorruptFileError: the sample is not what the manifest says.
    """
    data = files.read_range(row["tar"], row["tar_offset"], row["tar_size"])
    name = f"{files.address(row['tar'])}, sample {row['sample_id']}"
    parts: dict[str, bytes] = {}
    for member, content in iter_tar(io.BytesIO(data + _END_OF_TAR), name=name):
        sample_id, part = split_member(member.name)
        if sample_id == row["sample_id"] and member.sha256 == row.get(f"{part}_member_sha256"):
            parts[part] = content
    if missing := [part for part in SAMPLE_PARTS if part not in parts]:
        raise CorruptFileError(f"{name}: {', '.join(missing)} is not what the manifest says")
    return parts


def _shortest(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Return single precision as the double with the fewest digits that give it back; null what is not finite."""
    import pyarrow as pa

    pc = compute()
    finite = pc.if_else(pc.is_finite(column), column, None)
    return finite.cast(pa.string()).cast(pa.float64())
