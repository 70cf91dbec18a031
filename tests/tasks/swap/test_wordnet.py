"""WordNet as plain data agrees with NLTK's own answers, in any order and from any thread."""

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tasks.swap.wordlists import WRONG_LINKS
from tasks.swap.wordnet import Pos, WordNet, _open_reader, _read_counts, cache_folder, find_wordnet, load_wordnet
from tests.builders.wordnet import open_wordnet
from tests.references.wordnet_relations import above

NOUNS = ("bus", "cat", "glass", "orange", "fire_truck", "woman", "turkey", "church", "apple", "polar_bear")
ADJECTIVES = ("red", "large", "old", "striped", "light", "wooden", "happy")
EVERY: tuple[tuple[str, Pos], ...] = (*((n, "n") for n in NOUNS), *((a, "a") for a in ADJECTIVES))


@functools.cache
def _counts_by_key() -> dict[str, int]:
    """Read cntlist.rev: sense key -> tagged count; its sense numbers are of an older WordNet, its keys are right."""
    lines = (find_wordnet(cache_folder()) / "cntlist.rev").read_text(encoding="utf-8").splitlines()
    return {key: int(count) for key, _, count in (line.split() for line in lines)}


def _count(lemma: str, synset: Any) -> int:
    """Count by the keys that WordNet's format allows for a lemma of a synset, the head of a satellite included."""
    word = next(one for one in synset.lemmas() if one.name().lower() == lemma)
    keys = {word.key()}
    for head in synset.similar_tos() if synset.pos() == "s" else ():
        start = word.key().split(":")[:3]
        keys |= {":".join([*start, h.name().lower(), f"{h._lex_id:02d}"]) for h in head.lemmas()}
    return max(_counts_by_key().get(key, 0) for key in keys)


@pytest.mark.parametrize(("lemma", "pos"), EVERY)
def test_senses_come_in_nltks_order_with_the_counts_of_their_keys(lemma: str, pos: Pos) -> None:
    wordnet, synsets = load_wordnet(), open_wordnet().synsets(lemma, pos)
    ranked = wordnet.ranked_senses(lemma, pos)
    assert [one.sense.name for one in ranked] == [synset.name() for synset in synsets]
    counts = [_count(lemma, synset) for synset in synsets]
    assert wordnet.count(lemma, pos) == sum(counts)
    weights = [count + 1 / rank for rank, count in enumerate(counts, 1)]
    assert [one.share for one in ranked] == pytest.approx([weight / sum(weights) for weight in weights])


@pytest.mark.parametrize(("lemma", "pos"), EVERY)
def test_a_sense_holds_what_nltk_says(lemma: str, pos: Pos) -> None:
    reader = open_wordnet()
    for one in load_wordnet().ranked_senses(lemma, pos):
        synset = reader.synset(one.sense.name)
        assert one.sense.lexname == synset.lexname()
        assert list(one.sense.lemmas) == synset.lemma_names()
        assert one.sense.is_instance == bool(synset.instance_hypernyms())
        assert one.sense.attributes == {noun.name() for noun in synset.attributes()}
        antonyms = {(o.name(), a.name(), a.synset().name()) for o in synset.lemmas() for a in o.antonyms()}
        assert set(one.sense.antonyms) == antonyms
        assert one.sense.usable <= {name for name in synset.lemma_names() if name == name.lower()}


@pytest.mark.parametrize("name", ["dog.n.01", "bus.n.01", "apple.n.01", "red.s.01", "large.a.01", "cup.n.01"])
def test_relations_are_nltks_in_sorted_order(name: str) -> None:
    wordnet, synset = load_wordnet(), open_wordnet().synset(name)
    for relation in ("hypernyms", "hyponyms", "similar_tos", "instance_hypernyms"):
        assert wordnet.related(name, relation) == tuple(sorted(s.name() for s in getattr(synset, relation)()))


@pytest.mark.parametrize("name", ["dog.n.01", "bus.n.01", "apple.n.01", "teapot.n.01", "king.n.01"])
def test_climbing_meets_each_hypernym_once_at_its_shortest_distance(name: str) -> None:
    shortest: dict[str, int] = {}
    for synset, steps in open_wordnet().synset(name).hypernym_distances():
        shortest[synset.name()] = min(steps, shortest.get(synset.name(), steps))
    del shortest[name]
    climbed = list(load_wordnet().climb(name, levels=30))
    assert {up: steps for steps, up in climbed} == shortest
    assert len(climbed) == len(shortest)


def test_descending_stops_at_the_level_asked_for() -> None:
    feline = open_wordnet().synset("feline.n.01")
    expected = set(feline.hyponyms()) | {low for one in feline.hyponyms() for low in one.hyponyms()}
    assert {name for _, name in load_wordnet().descend("feline.n.01", levels=2)} == {s.name() for s in expected}


def test_a_misleading_link_is_not_climbed() -> None:
    ((low, up),) = WRONG_LINKS
    reader = open_wordnet()
    assert reader.synset(up) in above(reader.synset(low))
    assert up not in [name for _, name in load_wordnet().climb(low, levels=30)]


def test_words_that_wordnet_marks_are_not_usable() -> None:
    reader, wordnet = open_wordnet(), load_wordnet()
    marks = ("ethnic_slur.n.01", "disparagement.n.01", "obscenity.n.02", "trademark.n.02", "archaism.n.01")
    marked = [synset for mark in marks for synset in reader.synset(mark).in_usage_domains() if synset.pos() in "nas"]
    assert len(marked) > 80
    for synset in marked:
        assert not wordnet.sense(synset.name()).usable, synset


def test_names_are_not_usable() -> None:
    wordnet = load_wordnet()
    assert wordnet.sense("turkey.n.02").lemmas[0] == "Turkey"
    assert not wordnet.sense("turkey.n.02").usable
    assert "turkey" in wordnet.sense("turkey.n.01").usable


@pytest.mark.parametrize(
    ("word", "pos", "lemma"),
    [
        ("buses", "n", "bus"),
        ("women", "n", "woman"),
        ("fire_trucks", "n", "fire_truck"),
        ("geese", "n", "goose"),
        ("tallest", "a", "tall"),
        ("xyzzy", "n", None),
        ("a" * 10_000, "n", None),
    ],
)
def test_base_forms(word: str, pos: Pos, lemma: str | None) -> None:
    assert load_wordnet().base_form(word, pos) == lemma


def test_threads_get_the_answers_of_one_thread() -> None:
    root = find_wordnet(cache_folder())
    fresh = WordNet(_open_reader(root), _read_counts(root))
    names = [one.sense.name for lemma in NOUNS for one in load_wordnet().ranked_senses(lemma, "n")]

    def look(start: int) -> list[object]:
        order = names[start:] + names[:start]
        found: dict[str, object] = {name: (list(fresh.climb(name, levels=4)), fresh.sense(name)) for name in order}
        found |= {name: (found[name], list(fresh.descend(name, levels=2))) for name in order}
        return [found[name] for name in names]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(look, range(8)))
    assert all(one == answers[0] for one in answers)
    known = load_wordnet()
    expected = [
        (([*known.climb(name, levels=4)], known.sense(name)), list(known.descend(name, levels=2))) for name in names
    ]
    assert answers[0] == expected


def test_it_is_loaded_once_a_process() -> None:
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load_wordnet(), range(8)))
    assert all(one is two for one, two in itertools.pairwise(loaded))
