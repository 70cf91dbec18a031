"""Alt texts: pure functions of scene and generator, noisy in known ways."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniature.alt_text import ALT_KIND_SHARES, MOST_CHARACTERS, AltKind, alt_text
from miniature.translations import FOREIGN_COLOURS, FOREIGN_LANGUAGES, FOREIGN_NOUNS
from miniature.vocabulary import COLOURS, NOUNS
from miniature.world import World

WORLD = World(5)
NAMING_KINDS: tuple[AltKind, ...] = ("plain", "shop", "catalogue", "shouting", "social", "markup", "long", "file_name")


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, 10**6), seed=st.integers(0, 2**32))
def test_the_same_scene_and_seed_give_the_same_text(index: int, seed: int) -> None:
    first, second = (alt_text(WORLD.scene(index), np.random.default_rng(seed)) for _ in range(2))
    assert first == second
    assert len(first.text) <= MOST_CHARACTERS
    first.text.encode()


@pytest.mark.parametrize("kind", NAMING_KINDS)
def test_a_text_that_is_said_to_name_the_scene_names_it(kind: AltKind) -> None:
    for index in range(60):
        scene = WORLD.scene(index)
        text = alt_text(scene, np.random.default_rng(index), kind=kind)
        assert text.names_scene
        assert scene.objects[0].noun in text.text.lower()


def test_an_unrelated_or_empty_text_names_nothing_of_the_vocabulary() -> None:
    for index in range(200):
        for kind in ("unrelated", "empty"):
            text = alt_text(WORLD.scene(index), np.random.default_rng(index), kind=kind)
            assert not text.names_scene
            assert not set(NOUNS) & set(text.text.lower().split())


def test_a_foreign_text_holds_the_translated_words_of_its_language() -> None:
    seen = set()
    for index in range(60):
        scene = WORLD.scene(index)
        text = alt_text(scene, np.random.default_rng(index), kind="foreign")
        column = FOREIGN_LANGUAGES.index(text.language)
        seen.add(text.language)
        assert FOREIGN_NOUNS[scene.objects[0].noun][column] in text.text
        assert FOREIGN_COLOURS[scene.objects[0].colour][column] in text.text
    assert seen == set(FOREIGN_LANGUAGES)


def test_every_word_of_the_vocabulary_is_translated() -> None:
    assert set(FOREIGN_NOUNS) == set(NOUNS)
    assert set(FOREIGN_COLOURS) == set(COLOURS)


def test_kinds_come_as_often_as_their_shares_say() -> None:
    scene, number = WORLD.scene(0), 3_000
    counts = Counter(alt_text(scene, np.random.default_rng(seed)).kind for seed in range(number))
    assert sum(ALT_KIND_SHARES.values()) == pytest.approx(1)
    for kind, share in ALT_KIND_SHARES.items():
        # Five standard deviations of a binomial count.
        assert abs(counts[kind] - share * number) < 5 * (number * share * (1 - share)) ** 0.5, kind
    assert set(counts) == set(ALT_KIND_SHARES)


def test_texts_are_as_varied_as_promised() -> None:
    def draw(kind: AltKind) -> list[str]:
        return [alt_text(WORLD.scene(i), np.random.default_rng(i), kind=kind).text for i in range(40)]

    assert all(text == text.upper() for text in draw("shouting"))
    assert min(len(text) for text in draw("long")) > 300
    assert all(len(text.strip()) <= 8 for text in draw("empty"))
    assert "" in draw("empty")
    assert all("<" in text and "&" in text and '"' in text for text in draw("markup"))
