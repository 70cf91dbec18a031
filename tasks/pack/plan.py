"""The first half of stage 8: which pairs go into which tar of which split, decided over the whole dataset at once."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
from pydantic import Field

from iedit_model.configuration import configuration
from storage import (
    SAMPLE_ID,
    SAMPLE_PARTS,
    Dropped,
    EmptyVersionError,
    ShardReport,
    ShardStore,
    TableSchema,
    col,
    in_manifest,
)
from storage.tables import compute
from tasks.corpus import Ids, packed_ids
from tasks.embed.stage import read_embeds
from tasks.pack.near_duplicates import CorpusImages, DuplicateConfig, Keys, duplicate_groups
from tasks.pack.rows import PackInputError, PackInputs, id_at, places_of, read_copies, read_images, read_pairs
from tasks.pack.splits import SPLITS, Assignment, Int64s, SplitConfig, assign_splits
from tasks.stage import Job, Output, Stage, Workspace

if TYPE_CHECKING:
    import pyarrow as pa


_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")
_NUMBER = re.compile(r"\d+")


def edit_template(caption: str, edit_prompt: str) -> str:
    """Return what both texts share at their beginnings and ends, with ``_`` in between.

    Case, spacing, numbers, final full stops and the choice of "a" or "an" make no difference.
    """
    old, new = _words(caption), _words(edit_prompt)
    shorter = min(len(old), len(new))
    start = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    end = next((i for i in range(shorter - start) if old[-1 - i] != new[-1 - i]), shorter - start)
    return " ".join((*old[:start], "_", *old[len(old) - end :]))


def text_key(text: str) -> int:
    """Return 64 bits that are equal for texts which say the same word for word; differences as for templates."""
    return template_key(" ".join(_words(text)))


def template_key(template: str) -> int:
    """Return 64 bits of a template."""
    digest = hashlib.blake2b(template.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _words(text: str) -> list[str]:
    words = [_NUMBER.sub("0", word) for word in _WORD.findall(text.casefold())]
    while words and words[-1] == ".":
        words.pop()
    return ["a" if word == "an" else word for word in words]


VERSION: Final = 2
PLAN_SHARD: Final = "plan"
"""Name of the shard that says what goes where; all others are named after their tars."""

_KEYS: Final = ("source image", "target image", "caption", "edit prompt")
_TARGET_COLUMNS: Final = ("url", "alt_text", "caption", "sha256", "stored_sha256")
_STORED_COLUMNS: Final = ("image_shard", "image_offset", "image_size")


@configuration
class PackConfig:
    """How the dataset is divided and packed; every field but ``read_threads`` is part of the fingerprint."""

    samples_per_tar: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Samples in each tar but the last of a split."""
    read_threads: Annotated[int, Field(ge=0, le=256)] = field(default=2, metadata={"fingerprint": False})
    """Threads that read and check images while a tar is written; more for a store far away, 0 reads in between."""
    splits: SplitConfig = field(default_factory=SplitConfig)
    duplicates: DuplicateConfig = field(default_factory=DuplicateConfig)


_TARGET: Final = in_manifest(
    col("target_url", "string", "Address of the target image."),
    col("target_alt_text", "string", "Text that the page gives for the target image.", nullable=True),
    col("target_caption", "string", "One plain sentence about the target image."),
    col("target_sha256", "string", "Hash of the target's original bytes.", "64 hex characters"),
    col("target_stored_sha256", "string", "Hash of the target's stored image.", "64 hex characters"),
    stage="retrieve",
)

_PACKED: Final = in_manifest(
    col("split", "string", "Part of the dataset.", allowed=("train", "val", "test")),
    col("group_id", "string", "Group of related samples; no group crosses a split."),
    col("tar", "string", "Tar that holds the sample, relative to the root of the store."),
    col("tar_offset", "int64", "Where the sample's first header begins in the tar.", "bytes"),
    col("tar_size", "int64", "Length of the sample's members in the tar, headers included.", "bytes"),
    *(
        col(f"{part}_member_sha256", "string", f"Hash of the sample's {part} member.", "64 hex characters")
        for part in SAMPLE_PARTS
    ),
)


PACK: Final = TableSchema(
    name="pack",
    description="One row per packed sample: what packing adds to the manifest.",
    columns=(SAMPLE_ID, *_TARGET, *_PACKED),
)

PACK_PLAN: Final = TableSchema(
    name="pack_plan",
    description="One row per pair that is to be packed: where it goes, and what is needed of its target's image.",
    columns=(
        SAMPLE_ID,
        col("shard", "string", "Shard of the stages that the sample was read from."),
        col("tar", "string", "Name of the tar that takes the sample."),
        col("position", "int64", "Position of the sample among all of its split.", "from 0"),
        col("split", "string", "Part of the dataset.", allowed=SPLITS),
        col("group_id", "string", "Group of related samples; no group crosses a split."),
        *_TARGET,
        col("target_image_shard", "string", "Download shard whose tar holds the target image."),
        col("target_image_offset", "int64", "Where the target image begins in that tar.", "bytes"),
        col("target_image_size", "int64", "Length of the target image.", "bytes"),
    ),
)


def plan_pack(inputs: PackInputs, config: PackConfig, store: ShardStore) -> ShardReport:
    """Decide the splits and the tars of all pairs, or return the finished report.

    Nothing but the samples and the seed decides: neither the order of the reports nor how the samples were divided into
    shards. In memory are some hundred bytes per pair and, for a moment, the embeddings of the images of pairs.

    Returns:
        The report of the shard ``plan``. It counts the pairs that end here: ``split_conflict``, for one of which the
        image, text or near-duplicate stands on another side. All others come in again with their tars
        (``tar_names``), so that the reports of this stage add up.

    Raises:
        EmptyVersionError: there is no pair.
        PackInputError: the tables do not fit together.
    """

    def work(_: Workspace) -> Output:
        return _planned(inputs, config, store)

    return STAGE.shard(PLAN_SHARD, store, work, config=config, inputs=inputs.digests())


def _planned(inputs: PackInputs, config: PackConfig, store: ShardStore) -> Output:
    pairs = read_pairs(inputs, store)
    if not pairs.num_rows:
        raise EmptyVersionError(f"no pair is left to pack; {_where_all_went(inputs)}")
    sources, targets = (packed_ids(pairs[name].to_pylist()) for name in ("sample_id", "target_id"))
    ids = np.unique(np.concatenate([sources, targets]))
    images = read_images(inputs, store, ids)
    groups = _image_groups(inputs, config.duplicates, store, ids, images)
    positions = np.searchsorted(ids, targets)
    keys = _leakage_keys(pairs, groups[np.searchsorted(ids, sources)], groups[positions])
    _, kinds = np.unique(pairs["relation"].to_pylist(), return_inverse=True)
    assignment = assign_splits(sources, _templates(pairs), keys, config.splits, kinds=kinds)
    table = _plan_table(pairs, images.take(positions), sources, assignment, config.samples_per_tar)
    counts = dict(zip(*np.unique(table["split"].to_numpy(zero_copy_only=False), return_counts=True), strict=True))
    return Output(
        num_in=pairs.num_rows - table.num_rows,
        num_out=0,
        table=table,
        schema=PACK_PLAN,
        dropped=list(_conflicts(sources, assignment)),
        extra={split: int(counts.get(split, 0)) for split in SPLITS} | {"samples_per_tar": config.samples_per_tar},
    )


def dropped_by(*reports: ShardReport) -> Counter[str]:
    """Return how many samples were dropped for each reason."""
    return sum((Counter(report.dropped) for report in reports), Counter[str]())


def _where_all_went(inputs: PackInputs) -> str:
    """Return how many samples each stage passed on and why it dropped the others, up to the one that passed on none."""
    steps = []
    for stage, reports in inputs.stages.items():
        dropped = dropped_by(*reports)
        num_in, num_out = sum(report.num_in for report in reports), sum(report.num_out for report in reports)
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.most_common())
        steps.append(f"{stage}: {num_out:,} of {num_in:,}" + f" ({reasons})" * bool(reasons))
        if not num_out:
            break
    return f"it was lost on the way: {'; '.join(steps)}" if steps else "no stage had a shard"


def tar_names(plan: ShardReport) -> tuple[str, ...]:
    """Return the names of all tars that a plan asks for: ``train-00000``, ``train-00001``, ..., ``test-00000``."""
    size = int(plan.extra["samples_per_tar"] or 1)
    return tuple(
        tar_name(split, number) for split in SPLITS for number in range(-(-int(plan.extra[split] or 0) // size))
    )


def tar_name(split: str, number: int) -> str:
    """Return the name of a tar."""
    return f"{split}-{number:05d}"


def _templates(pairs: "pa.Table") -> Keys:
    texts = zip(pairs["caption"].to_pylist(), pairs["edit_prompt"].to_pylist(), strict=True)
    return np.array([template_key(edit_template(*both)) for both in texts], dtype=np.uint64)


def _leakage_keys(pairs: "pa.Table", source_groups: Int64s, target_groups: Int64s) -> Int64s:
    """Return the leakage keys of each pair (n, 4), in the order of ``_KEYS``: images by group, texts by their words."""
    texts = [text_key(text) for name in ("caption", "edit_prompt") for text in pairs[name].to_pylist()]
    _, numbers = np.unique(np.array(texts, dtype=np.uint64), return_inverse=True)
    # Below zero, so that no text is taken for a image.
    captions, prompts = (-1 - numbers).reshape(2, -1)
    return np.stack([source_groups, target_groups, captions, prompts], axis=1)


def _image_groups(
    inputs: PackInputs, config: DuplicateConfig, store: ShardStore, ids: Ids, images: "pa.Table"
) -> Int64s:
    images = CorpusImages(
        keys=tuple(_hash_keys(images[name].to_pylist()) for name in ("sha256", "stored_sha256")),
        phashes=images["phash"].to_numpy().astype(np.int64),
        embeds=_embeds(inputs, store, ids) if config.needs_embeds else None,
    )
    return duplicate_groups(images, config, copies=read_copies(inputs, store, ids))


def _hash_keys(digests: Sequence[str]) -> Keys:
    return np.array([int(digest[:16], 16) for digest in digests], dtype=np.uint64)


def _embeds(inputs: PackInputs, store: ShardStore, ids: Ids) -> Any:
    """Return the image embeddings (n, d) of the images ``ids``."""
    embeds_of = inputs.stages.get("embed", ())
    if not embeds_of:
        raise PackInputError(
            "the reports of the embed stage are needed to tell near-duplicates from images with close hashes: give "
            "them, set pack.duplicates.max_phash_distance to null, or min_image_similarity to -1"
        )
    embeds, missing = np.zeros((len(ids), 1), np.float16), np.ones(len(ids), bool)
    for report in embeds_of:
        rows = read_embeds(store, report, "image_embeds")
        vectors = rows.held("image_embeds")
        if missing.all():
            embeds = np.zeros((len(ids), vectors.shape[1]), np.float16)
        at = places_of(ids, rows.ids)
        embeds[at[at >= 0]] = vectors[at >= 0]
        missing[at[at >= 0]] = False
    if missing.any():
        raise PackInputError(
            f"the image {id_at(ids, int(np.argmax(missing)))} of a pair is in no table of the stage embed"
        )
    return embeds


def _plan_table(
    pairs: "pa.Table", images: "pa.Table", sources: Ids, assignment: Assignment, samples_per_tar: int
) -> "pa.Table":
    """Return the rows of ``PACK_PLAN`` for the pairs that are kept; ``images`` are those of the targets."""
    import pyarrow as pa

    kept = np.flatnonzero(assignment.splits >= 0)
    splits = assignment.splits[kept]
    pairs, images = pairs.take(kept), images.take(kept)
    position = np.zeros(len(kept), np.int64)
    for code in range(len(SPLITS)):
        rows = np.flatnonzero(splits == code)
        position[rows[_input_order(pairs.take(rows))]] = np.arange(len(rows))
    names = np.array(SPLITS)[splits]
    tars = [tar_name(split, int(number)) for split, number in zip(names, position // samples_per_tar, strict=True)]
    columns = {
        "sample_id": pairs["sample_id"],
        "shard": pairs["shard"],
        "tar": pa.array(tars, pa.string()),
        "position": pa.array(position),
        "split": pa.array(names, pa.string()),
        "group_id": pa.array(sources[assignment.clusters[kept]].astype(str), pa.string()),
        **{f"target_{name}": images[name] for name in (*_TARGET_COLUMNS, *_STORED_COLUMNS)},
    }
    return pa.table({name: columns[name] for name in PACK_PLAN.names})


def _input_order(pairs: "pa.Table") -> Int64s:
    """Return the rows in the order of the metadata, in which the shards of all stages were cut.

    So a tar needs the tables of few shards, and how many samples a shard has does not show in the tars.
    """
    keys = [(name, "ascending") for name in ("source_file", "source_row", "sample_id")]
    return compute().sort_indices(pairs, sort_keys=keys).to_numpy()


def _conflicts(sources: Ids, assignment: Assignment) -> Iterator[Dropped]:
    for row in np.flatnonzero(assignment.splits < 0).tolist():
        wanted, key = SPLITS[assignment.wanted[row]], _KEYS[assignment.conflicts[row]]
        detail = f"its template is in {wanted}, its {key} in another split"
        yield Dropped(sample_id=id_at(sources, row), reason="split_conflict", detail=detail)


def _work(job: Job) -> ShardReport:
    from tasks.pack.stage import pack_shard  # which is made of this module

    inputs = PackInputs(job.corpus)
    return pack_shard(job.reports["pack"], job.shard, inputs, job.config(PackConfig), job.store)


def plan_job(job: Job) -> ShardReport:
    """Decide the splits and tars of all pairs of a job; its shards are then ``tar_names`` of the report."""
    return plan_pack(PackInputs(job.corpus), job.config(PackConfig), job.store)


STAGE: Final = Stage(
    name="pack",
    version=VERSION,
    summary="WebDataset tars, their rows of the manifest, and the shard `plan` that says what goes where",
    unit="pairs",
    config=PackConfig,
    work=_work,
    tables=(PACK, PACK_PLAN),
    needs=("pack",),
)
