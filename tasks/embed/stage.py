"""Stage 4, embed: image, caption and edit prompt -> unit vectors (CLIP), and a descriptor of the image's layout.

Every captioned image is embedded, since each can be the target of a pair. The texts are those of the swapped captions;
a sample without a swap has rows of zeros there: it can be a target, never a source. An image is decoded once for its
embedding and its layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from iedit_model.batching import map_batches
from iedit_model.configuration import configuration
from iedit_model.models.clip import ClipEncoder, ClipSpec, load_clip
from storage import SAMPLE_ID, SchemaError, ShardReport, ShardStore, TableSchema, col
from tasks.corpus import CorpusError, Ids, packed_ids
from tasks.embed.layout import LAYOUT_DIM, layout_descriptors, layout_pixels
from tasks.errors import TaskError
from tasks.images import BatchConfig, ImagePass, StoredImage, stored_images
from tasks.stage import Job, Output, Stage, Workspace

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image
    from torch import Tensor


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
    """Layout descriptors of the source images (``tasks.embed.layout``), unit norm or zero."""

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
        DamagedFileError: it is damaged.
    """
    held = store.read_schema(report).names
    if lacking := [name for name in columns if name in _ALWAYS_THERE and name not in held]:
        raise EmbedTableError(f"the table of {report.name} lacks the column {lacking[0]}; it has {', '.join(held)}")
    found = [name for name in columns if name in held]
    table = store.read_table(report, columns=["sample_id", *found])
    ids = packed_ids(table["sample_id"].to_pylist())
    if not np.all(ids[:-1] < ids[1:]):
        raise EmbedTableError(f"the table of {report.name} is not sorted by sample_id or holds one twice")
    return EmbedRows(ids=ids, **{name: _vectors(table, name, report.name) for name in found})


def _vectors(table: "pa.Table", name: str, shard: str) -> Float16s:
    import pyarrow as pa

    column = table[name].combine_chunks()
    kind = column.type
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_float16(kind.value_type) or column.null_count:
        raise EmbedTableError(f"{name} of {shard} is {kind} with {column.null_count} nulls, expected float16 vectors")
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    return np.concatenate([*flat, np.zeros(0, np.float16)]).reshape(len(table), kind.list_size)


VERSION: Final = 1

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


@configuration
class EmbedConfig:
    """What decides the embeddings."""

    model: ClipSpec
    batch: BatchConfig = field(default_factory=BatchConfig)
    """Images per batch; texts go through the model in batches of the same size."""


def embed_shard(
    download: ShardReport,
    config: EmbedConfig,
    store: ShardStore,
    encoder: ClipEncoder,
    *,
    caption: ShardReport,
    swap: ShardReport,
) -> ShardReport:
    """Embed the captioned images and the swapped captions of one shard, or return the finished report.

    Args:
        download: report of the download stage for this shard.
        config: the settings.
        store: where everything lies.
        encoder: ``load_clip(config.model)``.
        caption: report of the caption stage: which images there are.
        swap: report of the swap stage: captions and edit prompts.

    Returns:
        The report; dropped are samples whose image cannot be used: ``damaged_image``, ``undecodable_image``.

    Raises:
        CorpusError: the three reports are not of the same images.
        MissingFileError: the images are gone.
        MemoryLimitError: not even one image fits into memory.
    """

    def work(_: Workspace) -> Output:
        images = ImagePass(store, config.batch)
        ids, image_embeds, layouts = _image_rows(_captioned(store, download, caption), images, encoder)
        prompts, captions = _text_rows(store, swap, ids, encoder, config.batch.size)
        return Output(
            num_in=caption.num_out,
            table=_table(ids, image_embeds=image_embeds, text_embeds=prompts, caption_embeds=captions, layouts=layouts),
            schema=embed_schema(encoder.dim),
            dropped=images.dropped,
            extra={"num_halvings": images.num_halvings, "dim": encoder.dim},
        )

    inputs = (download.digest, caption.digest, swap.digest)
    return STAGE.shard(download.shard, store, work, config=config, inputs=inputs, weights=encoder.fingerprint)


def embed_schema(dim: int, *, layout_dim: int = LAYOUT_DIM) -> TableSchema:
    """Return the table of the embed stage for embeddings of ``dim`` numbers and layouts of ``layout_dim``.

    Raises:
        SchemaError: one of them is not between 1 and 99999.
    """
    for size in (dim, layout_dim):
        if not 1 <= size <= 99_999:
            raise SchemaError(f"an embedding has between 1 and 99999 numbers, not {size}")
    vector, of_pairs = f"float16[{dim}]", "unit norm, or zeros"
    return TableSchema(
        name="embed",
        description="One row per image; each can be a target, and those with an edit prompt can be sources too.",
        columns=(
            SAMPLE_ID,
            col("image_embeds", vector, "Embedding of the image.", "unit norm"),
            col("text_embeds", vector, "Embedding of the edit prompt; zeros where there is none.", of_pairs),
            col("caption_embeds", vector, "Embedding of the caption; zeros without an edit prompt.", of_pairs),
            col("layout_embeds", f"float16[{layout_dim}]", "Descriptor of where things are in the image.", of_pairs),
        ),
    )


def _captioned(store: ShardStore, download: ShardReport, caption: ShardReport) -> list[StoredImage]:
    wanted = set(store.read_table(caption, columns=("sample_id",))["sample_id"].to_pylist())
    found = [image for image in stored_images(store, download) if image.sample_id in wanted]
    if len(found) != len(wanted):
        unknown = min(wanted - {image.sample_id for image in found})
        raise CorpusError(f"{caption.name} has a caption of {unknown}, of which {download.name} has no image")
    return found


def _image_rows(
    stored: Sequence[StoredImage], images: ImagePass, encoder: ClipEncoder
) -> tuple[list[str], Floats, Floats]:
    """Return the ids, embeddings (n, dim) and layouts (n, 256) of the usable images, in order."""

    def prepare(_: StoredImage, image: "Image") -> "tuple[Tensor, Pixels]":
        return encoder.prepare(image), layout_pixels(np.asarray(image))

    def infer(batch: "Sequence[tuple[Tensor, Pixels]]") -> list[tuple[Floats, Floats]]:
        tensors, pixels = zip(*batch, strict=True)
        return list(zip(encoder.encode_prepared(tensors), layout_descriptors(pixels), strict=True))

    found = [(image.sample_id, *rows) for image, rows in images.run(stored, prepare, infer)]
    embeds = [embed for _, embed, _ in found]
    layouts = [layout for _, _, layout in found]
    return [sample_id for sample_id, _, _ in found], _stacked(embeds, encoder.dim), _stacked(layouts, LAYOUT_DIM)


def _text_rows(
    store: ShardStore, swap: ShardReport, ids: Sequence[str], encoder: ClipEncoder, batch_size: int
) -> tuple[Floats, Floats]:
    """Return the embeddings (n, dim) of edit prompts and captions; rows of zeros where there is no swap."""
    rows = {
        row["sample_id"]: row
        for row in store.read_table(swap, columns=("sample_id", "edit_prompt", "caption")).to_pylist()
    }
    texts = sorted({row[column] for row in rows.values() for column in ("edit_prompt", "caption")})
    known = dict(map_batches(lambda batch: list(encoder.encode_texts(batch)), texts, batch_size=batch_size))
    embeds = np.zeros((2, len(ids), encoder.dim), np.float32)
    for position, sample_id in enumerate(ids):
        if (row := rows.get(sample_id)) is not None:
            embeds[:, position] = known[row["edit_prompt"]], known[row["caption"]]
    return embeds[0], embeds[1]


def _stacked(rows: Sequence[Floats], dim: int) -> Floats:
    return np.stack(rows) if rows else np.zeros((0, dim), np.float32)


def _table(
    ids: Sequence[str], *, image_embeds: Floats, text_embeds: Floats, caption_embeds: Floats, layouts: Floats
) -> "pa.Table":
    import pyarrow as pa

    columns: dict[str, pa.Array] = {"sample_id": pa.array(ids, pa.string())}
    vectors = {
        "image_embeds": image_embeds,
        "text_embeds": text_embeds,
        "caption_embeds": caption_embeds,
        "layout_embeds": layouts,
    }
    for name, rows in vectors.items():
        numbers = pa.array(rows.astype(np.float16).ravel(), pa.float16())
        columns[name] = pa.FixedSizeListArray.from_arrays(numbers, rows.shape[1])
    return pa.table(columns)


def _work(job: Job) -> ShardReport:
    config, reports = job.config(EmbedConfig), job.reports
    encoder = load_clip(config.model)
    return embed_shard(
        reports["download"], config, job.store, encoder, caption=reports["caption"], swap=reports["swap"]
    )


STAGE: Final = Stage(
    name="embed",
    version=VERSION,
    summary="embeddings of images, captions and edit prompts, layouts of images",
    config=EmbedConfig,
    work=_work,
    tables=(embed_schema(512),),
    needs=("download", "caption", "swap"),
    weights=lambda config: load_clip(config.model).fingerprint,
)
"""Its table as declared here is that of a CLIP with 512 numbers; each shard has those of its own model."""
