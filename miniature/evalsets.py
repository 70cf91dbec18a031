"""The two held-out evaluation sets of the miniature: 52 edits of 30 "real" pictures, 70 edits of 20 generated ones.

The counts are the paper's (Section 4.1). The real set is drawn with its true masks from scenes that training never
saw; of the generated set only the words are fixed here, since its pictures come from the model under test.
"""

from dataclasses import dataclass
from itertools import cycle

import numpy as np

from miniature.pairs import TruePair, true_pair
from miniature.world import Scene, World

EVALUATION_SEED = 2
NUM_REAL_IMAGES, NUM_REAL_PAIRS = 30, 52
NUM_GENERATED_IMAGES, NUM_GENERATED_PAIRS = 20, 70


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedEdit:
    """One edit of a picture that a model draws from ``source_prompt``."""

    image_index: int
    source_prompt: str
    edit_prompt: str
    word: str
    """The noun of the thing to edit, as the source shows it."""


def real_pairs() -> list[tuple[int, TruePair]]:
    """Return 52 (image index, edit) of 30 scenes, a fifth of them with two objects; every edit differs."""
    world = World(EVALUATION_SEED)
    return _draw_edits([world.scene(index) for index in range(NUM_REAL_IMAGES)], NUM_REAL_PAIRS)


def generated_edits() -> list[GeneratedEdit]:
    """Return 70 edits in words of 20 source prompts with one object each."""
    world = World(EVALUATION_SEED, two_object_share=0.0)
    scenes = [world.scene(1000 + index) for index in range(NUM_GENERATED_IMAGES)]
    return [
        GeneratedEdit(
            image_index=index,
            source_prompt=pair.source.caption,
            edit_prompt=pair.edit_prompt,
            word=pair.source.objects[pair.position].noun,
        )
        for index, pair in _draw_edits(scenes, NUM_GENERATED_PAIRS)
    ]


def _draw_edits(scenes: list[Scene], count: int) -> list[tuple[int, TruePair]]:
    """Go round the scenes, a new edit each time, noun and colour in turn."""
    rng = np.random.default_rng(EVALUATION_SEED)
    edits: list[tuple[int, TruePair]] = []
    seen: set[tuple[int, str]] = set()
    kinds = cycle(("noun", "colour", "colour", "noun"))
    for index in cycle(range(len(scenes))):
        if len(edits) == count:
            return sorted(edits, key=lambda edit: edit[0])
        pair = true_pair(scenes[index], rng, kind=next(kinds))
        if (index, pair.edit_prompt) not in seen:
            seen.add((index, pair.edit_prompt))
            edits.append((index, pair))
    return edits
