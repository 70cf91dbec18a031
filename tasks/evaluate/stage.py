"""Stage 10, evaluate: a method and pairs of an evaluation set -> edited images, then their scores.

Both halves work on a shard: a shard of the set's pairs with all seeds. The images are kept, so that another metric
costs no new edit. What a method cannot edit (an automatic mask that comes out empty) is dropped with its reason and
stays a row without values in the results.
"""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from iedit_model.configuration import configuration
from iedit_model.editing.editor import Editor, EditRequest, EditResult
from iedit_model.errors import ConfigError, EditError, MaskError
from iedit_model.imaging.encode import encode_image
from storage import Dropped, ShardReport, ShardStore, digest_of, fingerprint, parquet_bytes, sample_seed
from tasks.evaluate.networks import Scored, ScoringConfig, ScoringNetworks, feature_rows, score_batch
from tasks.evaluate.results import EDITS, FEATURES, FEATURES_SUFFIX, scores_schema
from tasks.evaluate.sets.evalset import EvalPair, EvalSet, pair_digest
from tasks.evaluate.sets.pixels import Frame, framed, mask_bytes, set_image

if TYPE_CHECKING:
    from PIL.Image import Image

STAGE, VERSION = "evaluate", 1


@configuration
class EditingConfig:
    """How a set is edited; the same for all methods of a table."""

    size_px: Annotated[int, Field(ge=8, le=4096)]
    """Side of the square in which all methods edit and all metrics are taken."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    """Edits of each pair; each method gets the same noise under the same seed."""
    give_masks: bool = False
    """Whether the method is given the set's masks, which the paper grants to DALL-E 2 alone; state it with the
    result."""
    batch_size: PositiveInt = 32
    """Requests handed to a method at once."""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}, expected different numbers")


def pair_shards(evalset: EvalSet, *, pairs_per_shard: int) -> list[tuple[EvalPair, ...]]:
    """Return the pairs of a set cut into shards, in order.

    Raises:
        ConfigError: the shards would be empty.
    """
    if pairs_per_shard < 1:
        raise ConfigError(f"pairs_per_shard is {pairs_per_shard}, expected at least 1")
    return [evalset.pairs[start : start + pairs_per_shard] for start in range(0, len(evalset.pairs), pairs_per_shard)]


def edit_shard(
    evalset: EvalSet,
    pairs: Sequence[EvalPair],
    config: EditingConfig,
    store: ShardStore,
    editor: Editor,
    *,
    shard: str,
) -> ShardReport:
    """Edit a shard of a set with all seeds, or return the finished report.

    Args:
        evalset: the set.
        pairs: which of its pairs.
        config: size, seeds and masks.
        store: where the edited images go.
        editor: the method.
        shard: name of the shard: ``00000``.

    Returns:
        The report; ``extra["seconds_per_edit"]`` is the mean wall time. Dropped are edits for which the method says
        that it cannot (``empty_mask``, ``refused``).

    Raises:
        EvalSetError: an image or mask of the set cannot be used.
        MemoryLimitError: not even one image fits into memory.
    """
    name = fingerprint(
        stage=f"{STAGE}-edits",
        version=VERSION,
        config=config,
        inputs=(pairs_digest(pairs),),
        weights_digest=editor.fingerprint,
    )
    target = store.target(STAGE, f"edits-{shard}", name)
    if (done := target.finished()) is not None:
        return done
    started = time.monotonic()
    rows: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    seconds = 0.0
    for batch in _batches(_requests(evalset, pairs, config), config.batch_size):
        for (pair, seed, request), result in zip(batch, _edited(editor, [one[2] for one in batch]), strict=True):
            if isinstance(result, Exception):
                reason = "empty_mask" if isinstance(result, MaskError) else "refused"
                dropped.append(Dropped(sample_id=f"{pair.pair_id}/{seed}", reason=reason, detail=str(result)[:500]))
                continue
            seconds += result.seconds
            rows.append(_edit_row(pair, seed, request, result))
    return target.commit(
        num_in=len(pairs) * len(config.seeds),
        seconds=time.monotonic() - started,
        table=EDITS.table(rows),
        schema=EDITS,
        dropped=dropped,
        # Times differ from run to run, so that they are no part of the images' digest.
        extra={"seconds_per_edit": seconds / len(rows) if rows else 0.0},
    )


def score_shard(
    edits: ShardReport,
    evalset: EvalSet,
    config: ScoringConfig,
    store: ShardStore,
    networks: ScoringNetworks,
    *,
    size_px: int,
) -> ShardReport:
    """Score the edited images of a shard, or return the finished report.

    Args:
        edits: report of ``edit_shard``.
        evalset: the set that was edited.
        config: the metrics' settings.
        store: where both lie.
        networks: ``load_networks(config)``.
        size_px: as in ``edit_shard``.

    Returns:
        The report of the scores (``scores_schema``) with the features beside them (``features.parquet``).

    Raises:
        EvalSetError: an image or mask of the set cannot be used.
        MetricInputError: an edited image is not what the metrics can take.
    """
    table = store.read_table(edits).to_pylist()
    known = {pair.pair_id: pair for pair in evalset.pairs}
    used = [known[pair_id] for pair_id in sorted({row["pair_id"] for row in table})]
    name = fingerprint(
        stage=f"{STAGE}-scores",
        version=VERSION,
        config=config,
        inputs=(edits.digest, pairs_digest(used), str(size_px)),
        weights_digest=networks.fingerprint,
    )
    target = store.target(STAGE, edits.shard.replace("edits-", "scores-", 1), name)
    if (done := target.finished()) is not None:
        return done
    started = time.monotonic()
    frames = _frames(evalset, used, size_px)
    seconds = float(edits.extra.get("seconds_per_edit") or 0.0)
    rows: list[dict[str, Any]] = []
    features: list[dict[str, Any]] = []
    for batch in _batches(iter(table), config.batch_size):
        scored = [
            Scored(
                pair=known[row["pair_id"]],
                seed=row["seed"],
                frame=frames[row["pair_id"]],
                edited=set_image(row["edited_image"], name=f"the edit of {row['pair_id']}"),
            )
            for row in batch
        ]
        values = score_batch(scored, networks)
        features += feature_rows(scored, values, networks)
        for row, metrics in zip(batch, values.metrics, strict=True):
            keys = {name: row[name] for name in ("pair_id", "image_id", "seed", "num_unet_evaluations")}
            rows.append({**keys, "seconds": seconds, "mask_known": frames[row["pair_id"]].mask_known, **metrics})
    schema = scores_schema(sorted({name for row in rows for name in row} - set(scores_schema(()).names)))
    return target.commit(
        num_in=len(table),
        seconds=time.monotonic() - started,
        table=schema.table(rows),
        schema=schema,
        blobs={FEATURES_SUFFIX: parquet_bytes(FEATURES.table(features), FEATURES)},
    )


def reference_shard(
    evalset: EvalSet, config: ScoringConfig, store: ShardStore, networks: ScoringNetworks, *, size_px: int
) -> ShardReport:
    """Take the features of a set's source images, each image once, or return the finished report.

    They are the reference set of FID, KID and CMMD: the paper does not name its own, and low values of a method that
    hardly edits point at the sources.
    """
    first = list({pair.image_id: pair for pair in reversed(evalset.pairs)}.values())[::-1]
    name = fingerprint(
        stage=f"{STAGE}-reference",
        version=VERSION,
        config=config,
        inputs=(digest_of(*(part for pair in first for part in (pair.image_id, pair.image_sha256))), str(size_px)),
        weights_digest=networks.fingerprint,
    )
    target = store.target(STAGE, "reference", name)
    if (done := target.finished()) is not None:
        return done
    started = time.monotonic()
    rows: list[dict[str, Any]] = []
    for batch in _batches(iter(first), config.batch_size):
        frames = [framed(evalset.image(pair), None, size_px=size_px) for pair in batch]
        scored = [
            Scored(pair=pair, seed=0, frame=frame, edited=frame.image)
            for pair, frame in zip(batch, frames, strict=True)
        ]
        rows += feature_rows(scored, None, networks)
    return target.commit(
        num_in=len(first),
        num_out=len(first),
        seconds=time.monotonic() - started,
        blobs={FEATURES_SUFFIX: parquet_bytes(FEATURES.table(rows), FEATURES)},
    )


def pairs_digest(pairs: Sequence[EvalPair]) -> str:
    """Return 64 hex characters over the content of some pairs."""
    return digest_of(*(pair_digest(pair) for pair in pairs))


def request_of(pair: EvalPair, frame: Frame, *, seed: int, give_mask: bool) -> EditRequest:
    """Return the request of a pair: the same words and noise for every method."""
    mask = frame.mask.astype(np.float32) if give_mask and frame.mask_known and frame.mask.any() else None
    return EditRequest(
        image=frame.image,
        edit_prompt=pair.edit_prompt,
        source_prompt=pair.source_prompt,
        word=pair.word,
        replacement=pair.replacement,
        instruction=pair.instruction,
        mask=mask,
        seed=sample_seed(seed, STAGE, pair.pair_id),
    )


def _requests(
    evalset: EvalSet, pairs: Sequence[EvalPair], config: EditingConfig
) -> Iterator[tuple[EvalPair, int, EditRequest]]:
    for pair in pairs:
        frame = evalset.frame(pair, size_px=config.size_px)
        for seed in config.seeds:
            yield pair, seed, request_of(pair, frame, seed=seed, give_mask=config.give_masks)


def _edited(editor: Editor, requests: Sequence[EditRequest]) -> list[EditResult | Exception]:
    """Return a result or the method's own error for each request."""
    try:
        return list(editor.edit(requests))
    except (MaskError, EditError) as error:
        if len(requests) == 1:
            return [error]
    # One of them cannot be edited: alone, the others can.
    return [found for request in requests for found in _edited(editor, [request])]


def _edit_row(pair: EvalPair, seed: int, request: EditRequest, result: EditResult) -> dict[str, Any]:
    edited: Image = result.image
    if edited.size != request.image.size:
        raise ConfigError(f"a method returned {edited.size} pixels for {request.image.size}: it must keep the size")
    return {
        "pair_id": pair.pair_id,
        "image_id": pair.image_id,
        "seed": seed,
        "num_unet_evaluations": result.num_unet_evaluations,
        "edited_image": encode_image(edited),
        "used_mask": None if result.mask is None else mask_bytes(result.mask >= 0.5),
    }


def _frames(evalset: EvalSet, pairs: Sequence[EvalPair], size_px: int) -> dict[str, Frame]:
    return {pair.pair_id: evalset.frame(pair, size_px=size_px) for pair in pairs}


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
