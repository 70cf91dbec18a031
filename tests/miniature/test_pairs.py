"""True editing pairs and the two evaluation sets that are drawn from them."""

from collections import Counter

import numpy as np
import pytest

from miniature.evalsets import EVALUATION_SEED, generated_edits, real_pairs
from miniature.pairs import true_pair
from miniature.vocabulary import GROUP_OF, NOUN_GROUPS, is_held_out
from miniature.world import World


def test_an_edit_changes_one_word_of_the_caption_and_only_pixels_of_that_object():
    rng = np.random.default_rng(0)
    for index in range(120):
        pair = true_pair(World(11, two_object_share=0.4).scene(index), rng)
        source, target = (scene.caption.replace(" an ", " a ").split() for scene in (pair.source, pair.target))
        source, target = (["a" if word == "an" else word for word in words] for words in (source, target))
        assert [(a, b) for a, b in zip(source, target, strict=True) if a != b] == [(pair.swapped_from, pair.swapped_to)]
        touched = pair.source.masks()[pair.position] | pair.target.masks()[pair.position]
        padded = np.pad(touched, 1)
        shifted = [np.roll(padded, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        grown = np.any(shifted, axis=0)[1:-1, 1:-1]
        before, after = (np.asarray(scene.render(), int) for scene in (pair.source, pair.target))
        assert not (np.abs(before - after) > 24)[~grown].any()


def test_a_noun_becomes_a_member_of_its_own_group():
    rng = np.random.default_rng(1)
    for index in range(200):
        pair = true_pair(World(12).scene(index), rng, kind="noun")
        assert GROUP_OF[pair.swapped_from] == GROUP_OF[pair.swapped_to]
        assert pair.swapped_from != pair.swapped_to
        assert pair.instruction.startswith(f"replace the {pair.swapped_from} with a")
        assert pair.source_diff == pair.swapped_from


def test_training_pairs_never_make_a_held_out_combination():
    rng = np.random.default_rng(2)
    for index in range(400):
        pair = true_pair(World(13).scene(index), rng, only_seen=True)
        assert not any(is_held_out(thing.noun, thing.colour) for thing in pair.target.objects)


def test_a_scene_whose_group_is_used_up_gets_an_edit_of_the_other_kind():
    """Two of the three insects in one picture, and the third held out in that colour: no noun is left."""
    scene = next(
        scene
        for scene in (World(0, two_object_share=1.0).scene(index) for index in range(200_000))
        if {GROUP_OF[thing.noun] for thing in scene.objects} == {"insect"}
        and all(
            is_held_out(noun, scene.objects[0].colour)
            for noun in NOUN_GROUPS["insect"]
            if noun not in {thing.noun for thing in scene.objects}
        )
    )
    kinds = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        pair = true_pair(scene, rng, only_seen=True)
        if pair.position == 0:
            kinds.add(pair.kind)
    assert kinds == {"colour"}
    first_object = next(seed for seed in range(60) if int(np.random.default_rng(seed).integers(2)) == 0)
    with pytest.raises(ValueError, match="no noun is left"):
        true_pair(scene, np.random.default_rng(first_object), kind="noun", only_seen=True)


def test_difference_prompts_carry_the_noun_that_the_adjective_describes():
    rng = np.random.default_rng(3)
    pair = true_pair(World(14).scene(0), rng, kind="colour")
    noun = pair.source.objects[pair.position].noun
    assert pair.source_diff == f"{pair.swapped_from} {noun}"
    assert pair.target_diff == f"{pair.swapped_to} {noun}"


def test_the_real_set_has_52_different_edits_of_30_pictures():
    pairs = real_pairs()
    assert len(pairs) == 52
    assert {index for index, _ in pairs} == set(range(30))
    assert len({(index, pair.edit_prompt) for index, pair in pairs}) == 52
    assert Counter(pair.kind for _, pair in pairs) == {"noun": 26, "colour": 26}
    assert all(pair.source == World(EVALUATION_SEED).scene(index) for index, pair in pairs)


def test_the_generated_set_has_70_different_edits_of_20_prompts():
    edits = generated_edits()
    assert len(edits) == 70
    assert len({edit.source_prompt for edit in edits}) == 20
    assert len({(edit.source_prompt, edit.edit_prompt) for edit in edits}) == 70
    assert all(edit.word in edit.source_prompt.split() for edit in edits)
    assert all(edit.source_prompt != edit.edit_prompt for edit in edits)
