"""What edits are compared with that no model makes: the untouched source, and the picture an ideal edit gives."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from _edit_cases import NUM_TUNING, TUNING_SEED, EditCase, SetName

from miniature.evalsets import real_pairs
from miniature.pairs import TruePair, true_pair
from miniature.world import World

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES: Final = ("source", "target")
"""Names under which their scores stand."""


class OtherPairsError(Exception):
    """The pairs drawn here are not those of the cases, so that their targets are none of the cases' either."""


def pictures_of(name: str, evalset: SetName, cases: Sequence[EditCase]) -> "list[Image] | None":
    """Return a picture a case, or None where nobody knows an ideal edit: the base model drew that set's sources.

    Args:
        name: one of ``PICTURES``.
        evalset: which set the cases are.
        cases: all of them, in their order.

    Raises:
        OtherPairsError: the set's pairs are drawn in another way than they were for the cases.
    """
    if name == "source":
        return [case.image for case in cases]
    if evalset == "generated":
        return None
    pairs = _tuning_pairs() if evalset == "tuning" else [pair for _, pair in real_pairs()]
    if [pair.edit_prompt for pair in pairs] != [case.edit_prompt for case in cases]:
        raise OtherPairsError(f"the set {evalset!r} has other edit prompts than its pairs: draw both in one way")
    return [pair.target.render() for pair in pairs]


def _tuning_pairs() -> list[TruePair]:
    world, rng = World(TUNING_SEED), np.random.default_rng(TUNING_SEED)
    return [
        true_pair(world.scene(number), rng, kind="colour" if number % 2 else "noun") for number in range(NUM_TUNING)
    ]
