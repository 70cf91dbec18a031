"""Stage 7, mask: source and target image, difference prompts -> two masks (CLIPSeg), as in Section 3.4 of the paper.

The source mask shows ``source_diff`` on the source image, the target mask ``target_diff`` on the target image. First
all pairs are scored, then gates are applied to the scores: with other gates only the second part runs again.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from iedit_model.configuration import Probability, Share, configuration
from iedit_model.models.segmenter import PromptedImage, Segmenter, SegmenterSpec, load_segmenter
from storage import SAMPLE_ID, Column, Dropped, ShardReport, ShardStore, TableSchema, col, digest_of, in_manifest
from storage.tables import UNIT_RANGE
from tasks.corpus import CorpusError
from tasks.images import BatchConfig, ImageIndex, ImagePass, StoredImage, load_image_index
from tasks.mask.scores import Levels, MaskScores, blurred, mask_iou, outside_similarity, read_mask, score_mask
from tasks.stage import Job, Output, Stage, Workspace

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION: Final = 1


def _mask_columns(side: str) -> tuple[Column, ...]:
    return in_manifest(
        col(f"{side}_mask_mean", "float32", f"Mean probability of the {side} mask.", UNIT_RANGE),
        col(f"{side}_mask_max", "float32", f"Highest probability of the {side} mask.", UNIT_RANGE),
        col(f"{side}_mask_area", "float32", f"Share of the {side} image inside the mask.", UNIT_RANGE),
        col(
            f"{side}_mask_border", "float32", f"Share of the {side} image's border pixels inside the mask.", UNIT_RANGE
        ),
    )


_PAIR_COLUMNS: Final = in_manifest(
    col("mask_iou", "float32", "Intersection over union of the two masks.", UNIT_RANGE),
    col("outside_similarity", "float32", "Similarity of the two images outside both masks.", "[-1, 1]"),
)

MASK: Final = TableSchema(
    name="mask",
    description="One row per pair with its two masks and their scores.",
    columns=(
        SAMPLE_ID,
        col("target_id", "string", "Sample whose image is the pseudo-target.", "20 hex characters"),
        col("source_mask_png", "binary", "Mask on the source image: where to edit.", "PNG, 8 bit grey, 255 = edit"),
        *_mask_columns("source"),
        col("target_mask_png", "binary", "Mask on the target image.", "PNG, 8 bit grey, 255 = edit"),
        *_mask_columns("target"),
        *_PAIR_COLUMNS,
    ),
)

_PROMPTS_AT_ONCE = 8
"""Prompts of an image whose full-size maps are in memory together; a popular target may have many more."""


@configuration
class MaskGates:
    """Which pairs go on; None leaves a gate open. All limits are in [0, 1] and still pass."""

    min_area: Share | None = None
    """Least share of the image inside the mask, source and target alike."""
    max_area: Share | None = None
    """Largest share."""
    min_probability: Share | None = None
    """Least value of the mask's highest probability: how sure the segmenter is at its best place."""
    max_border: Share | None = None
    """Largest share of the image's outermost pixels inside the mask: what is cut off has no whole counterpart."""
    min_mask_iou: Share | None = None
    """Least intersection over union of the two masks."""
    min_outside_similarity: Share | None = None
    """Least similarity of the two images outside both masks."""


@configuration
class MaskConfig:
    """What decides the masks."""

    model: SegmenterSpec
    batch: BatchConfig = field(default_factory=BatchConfig)
    threshold: Probability = 0.5
    """Probability from which on a pixel is inside."""
    soft: bool = False
    """Whether to store the probabilities; else inside is 255 and outside 0. The scores are the same."""
    gates: MaskGates = field(default_factory=MaskGates)


def mask_shard(
    retrieve: ShardReport,
    config: MaskConfig,
    store: ShardStore,
    segmenter: Segmenter,
    *,
    swap: ShardReport,
    images: ImageIndex,
) -> ShardReport:
    """Make both masks of every pair of one shard, or return the finished report.

    Args:
        retrieve: report of the retrieve stage: which source has which target.
        config: the settings.
        store: where everything lies.
        segmenter: ``load_segmenter(config.model)``.
        swap: report of the swap stage for the same shard: the difference prompts.
        images: where the images of all shards lie.

    Returns:
        The report. Dropped are pairs with ``empty_source_mask`` or ``empty_target_mask``, with an image that cannot be
        used (``source_damaged_image``, ``target_undecodable_image``, ...), and those that a gate stops.

    Raises:
        CorpusError: a pair has no difference prompts.
        UnknownImageError: an image is in no download shard.
        MemoryLimitError: not even one image fits into memory.
    """
    open_config = replace(config, gates=MaskGates())
    pairs = _read_pairs(store, retrieve, swap, images)
    used = {image.sample_id: image.sha256 for pair in pairs for image in (pair.source, pair.target)}

    def work(_: Workspace) -> Output:
        passed = ImagePass(store, config.batch)
        found = _segmented(pairs, passed, config, segmenter)
        rows, dropped = _scored_pairs(pairs, found, {entry.sample_id: entry for entry in passed.dropped}, config)
        extra = {"num_halvings": passed.num_halvings, "num_images": len(used)}
        return Output(num_in=len(pairs), table=MASK.table(rows), dropped=dropped, extra=extra)

    # The targets lie in other shards: their images count by their own hashes.
    inputs = (retrieve.digest, swap.digest, digest_of(*(part for item in sorted(used.items()) for part in item)))
    scored = STAGE.shard(retrieve.shard, store, work, config=open_config, inputs=inputs, weights=segmenter.fingerprint)
    return scored if config == open_config else gate_masks(scored, config, store)


def gate_masks(scored: ShardReport, config: MaskConfig, store: ShardStore) -> ShardReport:
    """Keep the pairs of a scored shard that pass the gates, or return the finished report; needs no model."""

    def work(_: Workspace) -> Output:
        import pyarrow as pa

        table = store.read_table(scored)
        numbers = table.drop_columns(["source_mask_png", "target_mask_png"]).to_pylist()
        stopped = [_stopping_gate(row, config.gates) for row in numbers]
        before = [Dropped(**entry) for entry in store.read_dropped(scored).to_pylist()]
        return Output(
            num_in=scored.num_in,
            table=table.filter(pa.array([reason is None for reason in stopped], pa.bool_())),
            dropped=[*before, *(entry for entry in stopped if entry is not None)],
            extra={"scored": scored.fingerprint},
            seconds_before=scored.seconds,
        )

    return STAGE.shard(scored.shard, store, work, config=config, inputs=(scored.digest,))


class _Pair(NamedTuple):
    source: StoredImage
    target: StoredImage
    source_diff: str
    target_diff: str


class _Seen(NamedTuple):
    """One image after the segmenter: its blurred colours and its mask for each prompt."""

    blurred: Levels
    masks: dict[str, MaskScores]


class _Prepared(NamedTuple):
    image: StoredImage
    seen: Any
    size_px: tuple[int, int]
    blurred: Levels


def _read_pairs(store: ShardStore, retrieve: ShardReport, swap: ShardReport, images: ImageIndex) -> list[_Pair]:
    found = store.read_table(retrieve, columns=("sample_id", "target_id")).to_pylist()
    prompts = {
        row["sample_id"]: row
        for row in store.read_table(swap, columns=("sample_id", "source_diff", "target_diff")).to_pylist()
    }
    pairs = []
    for row in found:
        if row["target_id"] is None:
            continue
        if (words := prompts.get(row["sample_id"])) is None:
            raise CorpusError(f"{retrieve.name} has a target for {row['sample_id']}, of which {swap.name} has no swap")
        source, target = images.find(row["sample_id"]), images.find(row["target_id"])
        pairs.append(_Pair(source, target, words["source_diff"], words["target_diff"]))
    return pairs


def _segmented(pairs: Sequence[_Pair], images: ImagePass, config: MaskConfig, segmenter: Segmenter) -> dict[str, _Seen]:
    """Return what the segmenter saw in each usable image, by sample id; every image goes through it once."""
    places: dict[str, StoredImage] = {}
    prompts: defaultdict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        for image, prompt in ((pair.source, pair.source_diff), (pair.target, pair.target_diff)):
            places[image.sample_id] = image
            prompts[image.sample_id].add(prompt)

    def prepare(image: StoredImage, pixels: "Image") -> _Prepared:
        return _Prepared(image, segmenter.prepare(pixels), (pixels.height, pixels.width), blurred(pixels))

    def infer(batch: Sequence[_Prepared]) -> list[_Seen]:
        wanted = [sorted(prompts[prepared.image.sample_id]) for prepared in batch]
        found = [_Seen(prepared.blurred, {}) for prepared in batch]
        for start in range(0, max(len(words) for words in wanted), _PROMPTS_AT_ONCE):
            # An image whose prompts are used up goes along with its last one, so that the batch keeps its shape.
            parts = [tuple(words[start : start + _PROMPTS_AT_ONCE] or words[-1:]) for words in wanted]
            for seen, words, maps in zip(found, parts, segmenter.segment(_prompted(batch, parts)), strict=True):
                for prompt, probabilities in zip(words, maps, strict=True):
                    seen.masks[prompt] = score_mask(probabilities, threshold=config.threshold, soft=config.soft)
        return found

    ordered = [places[sample_id] for sample_id in sorted(places)]
    return {image.sample_id: seen for image, seen in images.run(ordered, prepare, infer)}


def _prompted(batch: Sequence[_Prepared], parts: Sequence[tuple[str, ...]]) -> list[PromptedImage]:
    return [
        PromptedImage(prepared=prepared.seen, size_px=prepared.size_px, prompts=words)
        for prepared, words in zip(batch, parts, strict=True)
    ]


def _scored_pairs(
    pairs: Sequence[_Pair], found: Mapping[str, _Seen], lost: Mapping[str, Dropped], config: MaskConfig
) -> tuple[list[dict[str, Any]], list[Dropped]]:
    rows: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    for pair in pairs:
        sides = (("source", pair.source, pair.source_diff), ("target", pair.target, pair.target_diff))
        if (loss := _loss(sides, found, lost)) is not None:
            dropped.append(Dropped(sample_id=pair.source.sample_id, reason=loss[0], detail=loss[1]))
        else:
            rows.append(_row(pair, found, config))
    return rows, dropped


def _loss(
    sides: Sequence[tuple[str, StoredImage, str]], found: Mapping[str, _Seen], lost: Mapping[str, Dropped]
) -> tuple[str, str] | None:
    for side, image, _ in sides:
        if (entry := lost.get(image.sample_id)) is not None:
            return f"{side}_{entry.reason}", f"{image.sample_id}: {entry.detail}"
    for side, image, prompt in sides:
        mask = found[image.sample_id].masks[prompt]
        if mask.area == 0:
            return f"empty_{side}_mask", f"{prompt!r} reaches a probability of {mask.highest:.3f}"
    return None


def _row(pair: _Pair, found: Mapping[str, _Seen], config: MaskConfig) -> dict[str, Any]:
    source, target = found[pair.source.sample_id], found[pair.target.sample_id]
    masks = {"source": source.masks[pair.source_diff], "target": target.masks[pair.target_diff]}
    inside = {side: read_mask(mask.png, threshold=config.threshold) for side, mask in masks.items()}
    row: dict[str, Any] = {"sample_id": pair.source.sample_id, "target_id": pair.target.sample_id}
    for side, mask in masks.items():
        row |= {f"{side}_mask_png": mask.png, f"{side}_mask_mean": mask.mean, f"{side}_mask_max": mask.highest}
        row |= {f"{side}_mask_area": mask.area, f"{side}_mask_border": mask.border}
    row["mask_iou"] = mask_iou(inside["source"], inside["target"])
    row["outside_similarity"] = outside_similarity(
        source.blurred, target.blurred, source_mask=inside["source"], target_mask=inside["target"]
    )
    return row


def _stopping_gate(row: Mapping[str, Any], gates: MaskGates) -> Dropped | None:
    """Return the first gate that stops a pair, or None."""
    checks = [
        (f"{side}_mask_{what}", f"{side}_{reason}", limit, is_floor)
        for side in ("source", "target")
        for what, reason, limit, is_floor in (
            ("area", "mask_too_small", gates.min_area, True),
            ("area", "mask_too_large", gates.max_area, False),
            ("max", "mask_uncertain", gates.min_probability, True),
            ("border", "mask_at_border", gates.max_border, False),
        )
    ]
    checks += [
        ("mask_iou", "masks_apart", gates.min_mask_iou, True),
        ("outside_similarity", "outside_differs", gates.min_outside_similarity, True),
    ]
    for column, reason, limit, is_floor in checks:
        if limit is None:
            continue
        stored_limit = float(np.float32(limit))  # the table holds single precision, and a limit itself passes
        if row[column] < stored_limit if is_floor else row[column] > stored_limit:
            sign = "<" if is_floor else ">"
            return Dropped(
                sample_id=row["sample_id"], reason=reason, detail=f"{column} {row[column]:.4f} {sign} {limit}"
            )
    return None


def _work(job: Job) -> ShardReport:
    config = job.config(MaskConfig)
    return mask_shard(
        job.reports["retrieve"],
        config,
        job.store,
        load_segmenter(config.model),
        swap=job.reports["swap"],
        images=load_image_index(job.store, job.corpus["download"]),
    )


STAGE: Final = Stage(
    name="mask",
    version=VERSION,
    summary="source and target masks with their scores",
    unit="pairs",
    config=MaskConfig,
    work=_work,
    tables=(MASK,),
    needs=("retrieve", "swap"),
    corpus=("download",),
    weights=lambda config: load_segmenter(config.model).fingerprint,
)
