"""Whether a found pair is right: the two scenes against what caption and edit prompt say. The miniature knows both."""

import re
from dataclasses import dataclass

from miniature.errors import MiniatureError
from miniature.world import Scene, SceneObject

_THING = re.compile(r"\ban? (\w+) (\w+)")
_GROUND = re.compile(r"^(.*) on an? (\w+) background$")

Phrase = tuple[str, str]
"""Colour and noun."""


class PromptError(MiniatureError):
    """Two texts that are not a caption of the world and the same caption with one word exchanged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTruth:
    """What is true of one pair; the swapped thing is the one whose phrase differs between caption and edit prompt."""

    noun: bool
    """The target shows a thing with the swapped thing's new noun."""
    colour: bool
    """The target shows a thing in the swapped thing's new colour."""
    thing: bool
    """The target shows the swapped thing as the edit prompt has it: this noun in this colour, one thing."""
    whole: bool
    """The target shows all things of the edit prompt and no other."""
    same_content: bool
    """The target shows the source's things again, so that nothing is edited."""
    same_ground: bool
    """Both grounds have the same colour word."""
    same_spot: bool
    """The swapped thing stands where the source has it: same layout, same place in it."""
    source_position: int | None
    """Which of the source's objects is swapped; None if the caption is wrong about it."""
    target_position: int | None
    """Which of the target's objects is the new thing; None if it is not there."""

    @property
    def shown(self) -> bool:
        """The target is what the edit prompt says: its things and its ground."""
        return self.whole and self.same_ground

    @property
    def aligned(self) -> bool:
        """``shown`` and at the same spot: up to a pixel of jitter what an ideal edit would give."""
        return self.shown and self.same_spot


def judge_pair(*, source: Scene, target: Scene, caption: str, edit_prompt: str) -> PairTruth:
    """Return what is true of a pair.

    Args:
        source: what the source picture shows.
        target: what the target picture shows.
        caption: plain caption of the source, as ``Scene.caption`` words it; a captioner's, so that it may be wrong.
        edit_prompt: the caption with one noun or one object's colour exchanged.

    Raises:
        PromptError: the two texts are not of that kind.
    """
    old, new = _things(caption), _things(edit_prompt)
    swapped = [place for place, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]]
    if len(old) != len(new) or len(swapped) != 1:
        raise PromptError(f"{edit_prompt!r} is not {caption!r} with one thing exchanged")
    [place] = swapped
    colour, noun = new[place]
    shown = _phrases(target.objects)
    source_position, target_position = _position(source, old[place]), _position(target, new[place])
    return PairTruth(
        noun=any(noun == other for _, other in shown),
        colour=any(colour == other for other, _ in shown),
        thing=target_position is not None,
        whole=sorted(shown) == sorted(new),
        same_content=sorted(shown) == sorted(_phrases(source.objects)),
        same_ground=source.background == target.background,
        same_spot=source.layout == target.layout and source_position == target_position is not None,
        source_position=source_position,
        target_position=target_position,
    )


def _things(text: str) -> list[Phrase]:
    parts = _GROUND.match(text)
    things = _THING.findall(parts.group(1)) if parts else []
    if not things:
        raise PromptError(f"{text!r} is no plain caption of the world, like 'a red bus on a white background'")
    return things


def _phrases(things: tuple[SceneObject, ...]) -> list[Phrase]:
    return [(thing.colour, thing.noun) for thing in things]


def _position(scene: Scene, phrase: Phrase) -> int | None:
    phrases = _phrases(scene.objects)
    return phrases.index(phrase) if phrase in phrases else None
