"""What the embed stage stored for one shard, as numpy arrays."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from storage import CorruptFileError, ShardReport, ShardStore
from tasks.corpus import Ids, packed_ids
from tasks.errors import TaskError

if TYPE_CHECKING:
    import pyarrow as pa

EmbedColumn = Literal["image_embeds", "text_embeds", "caption_embeds", "layout_embeds"]
Float16s = npt.NDArray[np.float16]

_ALWAYS_THERE: Final = frozenset({"image_embeds", "text_embeds"})


class EmbedTableError(TaskError):
    """An embed table that cannot be used; the message names shard, column and what was found."""


@dataclass(frozen=True, kw_only=True)
class EmbedRows:
    """Rows of one embed table, sorted by sample id; every vector half precision, (n, d) or None when not asked for.

    ``caption_embeds`` and ``layout_embeds`` are also None when the embed stage did not store them.
    """

    ids: Ids
    image_embeds: Float16s | None = None
    """Source images, unit norm."""
    text_embeds: Float16s | None = None
    """Edit prompts, unit norm; a row of zeros stands for an image without one: it may be a target, never a source."""
    caption_embeds: Float16s | None = None
    """Captions of the source images, unit norm."""
    layout_embeds: Float16s | None = None
    """Layout descriptors of the source images (``tasks.images.layout``), unit norm or zero."""

    def held(self, column: EmbedColumn) -> Float16s:
        """Return a column that must be there.

        Raises:
            EmbedTableError: it was not read.
        """
        values = getattr(self, column)
        if values is None:
            raise EmbedTableError(f"the column {column} was not read")
        return values

    def take(self, rows: npt.NDArray[np.int64]) -> "EmbedRows":
        """Return some of the rows."""
        columns = {name: getattr(self, name) for name in get_args(EmbedColumn)}
        taken = {name: None if values is None else values[rows] for name, values in columns.items()}
        return EmbedRows(ids=self.ids[rows], **taken)


def read_embeds(store: ShardStore, report: ShardReport, *columns: EmbedColumn) -> EmbedRows:
    """Return the asked columns of one embed table.

    Raises:
        EmbedTableError: it lacks ``image_embeds`` or ``text_embeds``, or a column holds no half-precision vectors.
        MissingFileError: the table is gone.
        CorruptFileError: it is damaged.
    """
    held = _column_names(store, report)
    if lacking := [name for name in columns if name in _ALWAYS_THERE and name not in held]:
        raise EmbedTableError(f"the table of {report.name} lacks the column {lacking[0]}; it has {', '.join(held)}")
    found = [name for name in columns if name in held]
    table = store.read_table(report, columns=["sample_id", *found])
    ids = packed_ids(table["sample_id"].to_pylist())
    if not np.all(ids[:-1] < ids[1:]):
        raise EmbedTableError(f"the table of {report.name} is not sorted by sample_id or holds one twice")
    return EmbedRows(ids=ids, **{name: _vectors(table, name, report.name) for name in found})


def _column_names(store: ShardStore, report: ShardReport) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with store.open_blob(report, "parquet") as stream:
            return pq.read_schema(stream).names
    except pa.ArrowException as error:
        raise CorruptFileError(f"the table of {report.name} cannot be read as parquet: {error}") from error


def _vectors(table: "pa.Table", name: str, shard: str) -> Float16s:
    import pyarrow as pa

    column = table[name].combine_chunks()
    kind = column.type
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_float16(kind.value_type) or column.null_count:
        raise EmbedTableError(f"{name} of {shard} is {kind} with {column.null_count} nulls, expected float16 vectors")
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    return np.concatenate([*flat, np.zeros(0, np.float16)]).reshape(len(table), kind.list_size)
