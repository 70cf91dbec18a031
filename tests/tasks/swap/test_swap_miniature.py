"""The miniature's captions as the acceptance case: nearly each finds a sensible swap inside the miniature's words."""

import functools
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from miniature.vocabulary import BACKGROUNDS, COLOURS, GROUP_OF, NOUNS
from miniature.world import World
from tasks.swap.swapper import Swap, SwapConfig, SwapDrop, Swapper
from tasks.swap.words import count_terms

WORDINGS = 6


@functools.cache
def _captions() -> tuple[str, ...]:
    world = World(5, share="all")
    return tuple(world.scene(place).captions()[place % WORDINGS] for place in range(900))


@functools.cache
def _results(levels: int) -> tuple[Swap | SwapDrop, ...]:
    swapper = Swapper(SwapConfig(min_corpus_count=1, max_levels=levels), count_terms(_captions()))
    return tuple(swapper(caption, seed=place) for place, caption in enumerate(_captions()))


def _swaps(levels: int) -> list[Swap]:
    return [one for one in _results(levels) if isinstance(one, Swap)]


def test_the_vocabulary_of_its_captions_is_its_own_words() -> None:
    counts = count_terms(_captions())
    assert {key.removesuffix(".n") for key in counts if key.endswith(".n")} == set(NOUNS)
    # Backgrounds are not to be seen, so that gray, which no object has, is no word of the corpus.
    assert {key.removesuffix(".a") for key in counts if key.endswith(".a")} == set(COLOURS)
    assert "gray" in BACKGROUNDS


@pytest.mark.parametrize(("levels", "least"), [(2, 0.97), (3, 0.98)])
def test_nearly_every_caption_finds_a_swap(levels: int, least: float) -> None:
    assert len(_swaps(levels)) >= least * len(_captions())


@pytest.mark.parametrize("levels", [2, 3])
def test_both_words_are_the_miniatures_and_of_one_kind(levels: int) -> None:
    nouns = [one for one in _swaps(levels) if one.pos == "noun"]
    assert len(nouns) > 300
    # Fruit and vegetables are one group to WordNet; every other swap stays in its group.
    kitchen = {"fruit": "food", "vegetable": "food"}
    for one in nouns:
        groups = [kitchen.get(GROUP_OF[word], GROUP_OF[word]) for word in (one.swapped_from, one.swapped_to)]
        assert groups[0] == groups[1], one
        assert (one.source_diff, one.target_diff) == (one.swapped_from, one.swapped_to)
    for one in _swaps(levels):
        if one.pos == "adjective":
            assert {one.swapped_from, one.swapped_to} <= set(COLOURS)
            noun = one.source_diff.removeprefix(f"{one.swapped_from} ")
            assert noun in NOUNS
            assert one.target_diff == f"{one.swapped_to} {noun}"


def test_a_background_is_never_what_changes() -> None:
    for one in _swaps(2):
        before, after = one.caption.split(), one.edit_prompt.split()
        if "background" in before:
            assert after[-2:] == before[-2:]


def test_nearly_all_nouns_and_all_colours_are_swapped() -> None:
    nouns = Counter(one.swapped_from for one in _swaps(3) if one.pos == "noun")
    colours = Counter(one.swapped_from for one in _swaps(3) if one.pos == "adjective")
    assert set(colours) == set(COLOURS)
    assert len(nouns) >= len(NOUNS) - 5, set(NOUNS) - set(nouns)


@pytest.mark.parametrize(
    ("noun", "near"),
    [
        ("boot", {"shoe"}),  # no part of a car
        ("drum", {"guitar", "accordion", "trumpet", "violin"}),  # no barrel
        ("cup", {"vase", "teapot", "bucket"}),  # no plant organ, and no neighbour of cars
        ("beetle", {"bee", "butterfly"}),  # no hammer
        ("train", {"bus"}),  # no part of a dress
        ("coat", {"shirt", "dress", "hat", "sock"}),  # no fur, no paint
        ("bee", {"beetle", "butterfly"}),  # no meeting
        ("swan", {"duck", "penguin", "owl"}),
        ("duck", {"swan", "penguin"}),  # no cloth
        ("cherry", {"apple", "pear", "banana", "lemon", "strawberry", "pineapple"}),  # no wood
    ],
)
def test_the_meant_sense_is_found(noun: str, near: set[str]) -> None:
    config = SwapConfig(min_corpus_count=1, max_levels=3, adjective_weight=0)
    swapper = Swapper(config, count_terms(_captions()))
    drawn = [swapper(f"a {noun} on a white background", seed=seed) for seed in range(40)]
    assert all(isinstance(one, Swap) for one in drawn)
    assert {one.swapped_to for one in drawn if isinstance(one, Swap)} <= near


def test_another_process_with_another_hash_seed_gets_the_same_prompts() -> None:
    code = (
        "import json, sys\n"
        "from tasks.swap.swapper import Swap, SwapConfig, Swapper\n"
        "from tasks.swap.words import count_terms\n"
        "captions = json.load(sys.stdin)\n"
        "swapper = Swapper(SwapConfig(min_corpus_count=1, max_levels=2), count_terms(captions[::-1]))\n"
        "results = {place: swapper(captions[place], seed=place) for place in reversed(range(len(captions)))}\n"
        "free = Swapper(SwapConfig())\n"
        "print(json.dumps([[results[p].edit_prompt if isinstance(results[p], Swap) else results[p].reason,\n"
        "    getattr(free('a dog and a boat', seed=p), 'edit_prompt', '')] for p in range(len(captions))]))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(_captions()),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    free = Swapper(SwapConfig())
    here = [
        [
            one.edit_prompt if isinstance(one, Swap) else one.reason,
            getattr(free("a dog and a boat", seed=p), "edit_prompt", ""),
        ]
        for p, one in enumerate(_results(2))
    ]
    assert json.loads(done.stdout) == here
