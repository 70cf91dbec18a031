"""The album of a report: sources, masks and edited images of some pairs, each once, as data URLs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from iedit_model.imaging.encode import SMALL_PX, image_url
from iedit_model.imaging.sheet import mask_overlay
from storage import ShardStore
from tasks.evaluate.errors import MissingScoresError
from tasks.evaluate.results import NOT_TRAINED, MethodScores
from tasks.evaluate.sets.pixels import set_image

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class PairKey:
    """One seed of one pair."""

    evalset: str
    pair_id: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class ShownPair:
    """One pair with its images, by their numbers in the album."""

    key: PairKey
    source_prompt: str
    edit_prompt: str
    word: str | None
    source: int
    mask: int | None
    edited: Mapping[str, int]
    """Method -> its image; missing where it failed."""


@dataclass(frozen=True, kw_only=True)
class Album:
    """All images of a page."""

    images: tuple[str, ...]
    """``data:`` URLs."""
    pairs: Mapping[PairKey, ShownPair]
    is_small: bool
    """Whether the images have so few pixels that each should be seen."""


def make_album(
    store: ShardStore,
    runs: Sequence[MethodScores],
    wanted: Iterable[PairKey],
    *,
    size_px: int,
    thumb_px: int = 256,
) -> Album:
    """Read the images of some pairs.

    Of several training seeds the first is shown.

    Args:
        store: where the edited images lie.
        runs: the methods.
        wanted: which pairs and seeds.
        size_px: the evaluation's frame.
        thumb_px: longest side on the page.

    Raises:
        MissingScoresError: a pair is in no set.
    """
    keys = list(dict.fromkeys(wanted))
    sets = {run.evalset.info.name: run.evalset for run in runs}
    edited = _edited_images(store, _shown_runs(runs), set(keys))
    images: list[str] = []
    pairs: dict[PairKey, ShownPair] = {}

    def add(image: "Image") -> int:
        images.append(image_url(image, thumb_px=thumb_px))
        return len(images) - 1

    frames: dict[tuple[str, str], tuple[int, int | None]] = {}
    for key in keys:
        if key.evalset not in sets:
            raise MissingScoresError(f"the set {key.evalset!r} was not evaluated")
        pair = sets[key.evalset].pair(key.pair_id)
        image_key = (key.evalset, key.pair_id)
        if image_key not in frames:
            frame = sets[key.evalset].frame(pair, size_px=size_px)
            frames[image_key] = (
                add(frame.image),
                add(mask_overlay(np.where(frame.mask, 255, 0).astype(np.uint8))) if frame.mask_known else None,
            )
        pairs[key] = ShownPair(
            key=key,
            source_prompt=pair.source_prompt,
            edit_prompt=pair.edit_prompt,
            word=pair.word,
            source=frames[image_key][0],
            mask=frames[image_key][1],
            edited={method: add(set_image(data, name=method)) for method, data in edited.get(key, {}).items()},
        )
    return Album(images=tuple(images), pairs=pairs, is_small=size_px <= SMALL_PX)


def _shown_runs(runs: Sequence[MethodScores]) -> list[MethodScores]:
    first: dict[tuple[str, str], MethodScores] = {}
    for run in sorted(runs, key=lambda run: (run.train_seed != NOT_TRAINED, run.train_seed)):
        first.setdefault((run.evalset.info.name, run.method), run)
    return list(first.values())


def _edited_images(
    store: ShardStore, runs: Sequence[MethodScores], keys: set[PairKey]
) -> dict[PairKey, dict[str, bytes]]:
    import pyarrow.compute as pc

    found: dict[PairKey, dict[str, bytes]] = {}
    for run in runs:
        name = run.evalset.info.name
        pair_ids = sorted({key.pair_id for key in keys if key.evalset == name})
        for report in run.edits:
            table = store.read_table(
                report, columns=("pair_id", "seed", "edited_image"), where=pc.field("pair_id").isin(pair_ids)
            )
            for row in table.to_pylist():
                key = PairKey(evalset=name, pair_id=row["pair_id"], seed=row["seed"])
                if key in keys:
                    found.setdefault(key, {})[run.method] = row["edited_image"]
    return found
