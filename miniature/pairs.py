"""True editing pairs: the same scene with one noun or one colour changed, in words, instructions and pixels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from miniature.vocabulary import COLOURS, GROUP_OF, NOUN_GROUPS, is_held_out, with_article
from miniature.world import Scene, repaint


@dataclass(frozen=True, kw_only=True, slots=True)
class TruePair:
    """A source scene, the scene an ideal edit would give, and the edit in words."""

    source: Scene
    target: Scene
    position: int
    """Which object of the scene changes."""
    kind: Literal["noun", "colour"]
    swapped_from: str
    swapped_to: str

    @property
    def edit_prompt(self) -> str:
        """The caption of the target."""
        return self.target.caption

    @property
    def source_diff(self) -> str:
        """The difference prompt of the source (Section 3.4): the noun, or the adjective with its noun."""
        return self._difference(self.source)

    @property
    def target_diff(self) -> str:
        """The difference prompt of the target."""
        return self._difference(self.target)

    @property
    def instruction(self) -> str:
        """The edit as InstructPix2Pix is told: "replace the bus with a train", "make the bus blue"."""
        thing = self.source.objects[self.position]
        if self.kind == "noun":
            return f"replace the {thing.noun} with {with_article(self.swapped_to)}"
        return f"make the {thing.noun} {self.swapped_to}"

    def _difference(self, scene: Scene) -> str:
        thing = scene.objects[self.position]
        return thing.noun if self.kind == "noun" else thing.phrase


def true_pair(
    scene: Scene,
    rng: np.random.Generator,
    *,
    kind: Literal["noun", "colour"] | None = None,
    only_seen: bool = False,
) -> TruePair:
    """Draw an edit of ``scene``: its noun becomes a co-hyponym, or its colour another colour.

    Args:
        scene: the source.
        rng: decides the object, the kind (half and half unless given) and the new word.
        kind: what changes.
        only_seen: never make a combination that is held out from training.

    Raises:
        ValueError: no edit of the asked kind is left (only in scenes of two objects of the same small group).
    """
    position = int(rng.integers(len(scene.objects)))
    thing = scene.objects[position]
    drawn = kind or ("noun", "colour")[int(rng.integers(2))]
    choices = _choices(scene, position, drawn, only_seen=only_seen)
    if not choices and kind is None:
        drawn = "colour" if drawn == "noun" else "noun"
        choices = _choices(scene, position, drawn, only_seen=only_seen)
    if not choices:
        raise ValueError(f"no {drawn} is left to turn the {thing.phrase} of “{scene.caption}” into")
    swapped_to = choices[int(rng.integers(len(choices)))]
    return TruePair(
        source=scene,
        target=repaint(scene, position, **{drawn: swapped_to}),
        position=position,
        kind=drawn,
        swapped_from=thing.noun if drawn == "noun" else thing.colour,
        swapped_to=swapped_to,
    )


def _choices(scene: Scene, position: int, kind: Literal["noun", "colour"], *, only_seen: bool) -> list[str]:
    thing = scene.objects[position]
    if kind == "noun":
        taken = {other.noun for other in scene.objects}
        pool = [(noun, thing.colour) for noun in NOUN_GROUPS[GROUP_OF[thing.noun]] if noun not in taken]
    else:
        pool = [(thing.noun, colour) for colour in COLOURS if colour != thing.colour]
    part = 0 if kind == "noun" else 1
    return [combination[part] for combination in pool if not (only_seen and is_held_out(*combination))]
