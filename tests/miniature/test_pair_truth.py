"""The judge of found pairs: true pairs of the world are right in all respects, and each way to be wrong shows."""

from dataclasses import replace

import numpy as np
import pytest

from miniature.pair_truth import PairTruth, PromptError, judge_pair
from miniature.pairs import TruePair, true_pair
from miniature.world import LAYOUTS, Scene, World, place, repaint

WORLD = World(9, two_object_share=0.4)
STILL = np.zeros(3)


def _pairs(count: int = 300) -> list[TruePair]:
    return [true_pair(WORLD.scene(index), np.random.default_rng(index)) for index in range(count)]


def _judge(pair: TruePair, target: Scene | None = None) -> PairTruth:
    return judge_pair(
        source=pair.source, target=target or pair.target, caption=pair.source.caption, edit_prompt=pair.edit_prompt
    )


def test_true_pairs_are_right_in_all_respects() -> None:
    for pair in _pairs():
        truth = _judge(pair)
        assert truth.aligned
        assert truth.noun
        assert truth.colour
        assert truth.thing
        assert not truth.same_content
        assert truth.source_position == truth.target_position == pair.position


def test_the_source_again_is_no_edit() -> None:
    for pair in _pairs():
        truth = _judge(pair, pair.source)
        assert truth.same_content
        assert not truth.thing
        assert not truth.aligned
        assert truth.target_position is None
        new_words = {pair.target.objects[pair.position].noun, pair.target.objects[pair.position].colour}
        old_words = {word for thing in pair.source.objects for word in (thing.noun, thing.colour)}
        assert (truth.noun and truth.colour) == (new_words <= old_words)
        assert (truth.noun, truth.colour) != (False, False)


def test_a_noun_edit_of_the_right_noun_in_another_colour_has_the_noun_alone() -> None:
    for pair in _pairs():
        if pair.kind == "noun" and len(pair.source.objects) == 1:
            other = "blue" if pair.target.objects[0].colour != "blue" else "red"
            truth = _judge(pair, repaint(pair.target, 0, colour=other))
            assert (truth.noun, truth.colour, truth.thing, truth.whole) == (True, False, False, False)
            assert truth.same_ground


def test_noun_and_colour_on_two_things_are_not_the_thing() -> None:
    bus, dog = (place("bus", "blue", LAYOUTS["two"][0], STILL), place("dog", "red", LAYOUTS["two"][1], STILL))
    target = Scene(objects=(bus, dog), background="white", style="plain", layout="two", texture_seed=0)
    source = replace(target, objects=(place("bus", "green", LAYOUTS["large"][0], STILL),), layout="large")
    truth = judge_pair(
        source=source, target=target, caption=source.caption, edit_prompt="a red bus on a white background"
    )
    assert (truth.noun, truth.colour, truth.thing) == (True, True, False)


@pytest.mark.parametrize("change", [{"background": "pink"}, {"layout": "left"}])
def test_ground_and_spot_are_judged_apart_from_the_content(change: dict[str, str]) -> None:
    pair = next(pair for pair in _pairs() if pair.source.layout == "large" and pair.source.background == "white")
    truth = _judge(pair, replace(pair.target, **change))
    assert truth.whole
    assert truth.same_ground == ("background" not in change)
    assert truth.same_spot == ("layout" not in change)
    assert truth.shown == truth.same_ground
    assert not truth.aligned


def test_the_things_of_a_target_may_stand_in_another_order_but_then_not_at_the_same_spot() -> None:
    pair = next(pair for pair in _pairs() if len(pair.source.objects) == 2)
    truth = _judge(pair, replace(pair.target, objects=pair.target.objects[::-1]))
    assert truth.whole
    assert not truth.same_spot


def test_a_wrong_caption_has_no_source_position_and_is_never_aligned() -> None:
    pair = next(pair for pair in _pairs() if len(pair.source.objects) == 1 and pair.kind == "colour")
    wrong = repaint(pair.source, 0, noun="teapot" if pair.source.objects[0].noun != "teapot" else "cup")
    truth = judge_pair(source=wrong, target=pair.target, caption=pair.source.caption, edit_prompt=pair.edit_prompt)
    assert truth.whole
    assert truth.source_position is None
    assert not truth.aligned


@pytest.mark.parametrize(
    ("caption", "edit_prompt"),
    [
        ("a red bus on a white background", "a red bus on a white background"),
        ("a red bus on a white background", "a blue car and a red hat on a white background"),
        ("a red bus and a blue dog on a pink background", "a red car and a black dog on a pink background"),
        ("a red bus", "a blue bus"),
        ("", "a blue bus on a white background"),
    ],
)
def test_other_texts_are_refused(caption: str, edit_prompt: str) -> None:
    scene = WORLD.scene(0)
    with pytest.raises(PromptError):
        judge_pair(source=scene, target=scene, caption=caption, edit_prompt=edit_prompt)
