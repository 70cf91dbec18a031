"""The tagger against captions tagged by hand, of which it was tuned on one half only, and against text of any kind."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.swap.tagger import Tag, load_tagger

CAPTIONS = Path(__file__).parents[2] / "assets" / "tagged_captions.jsonl"
ROWS = [json.loads(line) for line in CAPTIONS.read_text(encoding="utf-8").splitlines()]
COUNTED = ("NOUN", "ADJ")


def _scores(split: str) -> dict[tuple[str, str], float]:
    right, gold, found = Counter[str](), Counter[str](), Counter[str]()
    for row in ROWS:
        if row["split"] == split:
            for allowed, token in zip(row["tags"], load_tagger()(row["caption"]), strict=True):
                readings = allowed.split("|")
                if len(readings) == 1:
                    gold[allowed] += 1
                    right[allowed] += token.tag == allowed
                if (len(readings) == 1 or token.tag not in readings) and (token.tag, allowed) != ("NOUN", "PROPN"):
                    found[token.tag] += 1
    return {(tag, what): right[tag] / total[tag] for tag in COUNTED for what, total in (("P", found), ("R", gold))}


def test_the_captions_tagged_by_hand_are_many_and_whole() -> None:
    splits = Counter(row["split"] for row in ROWS)
    assert splits["dev"] >= 120
    assert splits["test"] >= 120
    assert len({row["caption"] for row in ROWS}) == len(ROWS)
    assert len({row["domain"] for row in ROWS}) >= 10
    tags = set(get_args(Tag))
    for row in ROWS:
        assert len(row["tokens"]) == len(row["tags"])
        assert "".join(row["tokens"]) == row["caption"].replace(" ", "")
        assert all(set(allowed.split("|")) <= tags for allowed in row["tags"])


@pytest.mark.parametrize(
    ("split", "least"),
    # The figures that were measured stand in docs/decisions/0003; one noun is about .002 and one adjective .008.
    [("dev", (0.98, 0.98, 0.97, 0.97)), ("test", (0.975, 0.98, 0.93, 0.93))],
)
def test_nouns_and_adjectives_are_found_as_well_as_was_measured(
    split: str, least: tuple[float, float, float, float]
) -> None:
    scores = _scores(split)
    keys = [(tag, what) for tag in COUNTED for what in ("P", "R")]
    for key, bound in zip(keys, least, strict=True):
        assert scores[key] >= bound, (key, scores[key])


@pytest.mark.parametrize(
    ("caption", "word", "tag"),
    [
        ("an orange on a plate", "orange", "NOUN"),
        ("an orange car on a road", "orange", "ADJ"),
        ("a woman in a park", "park", "NOUN"),
        ("two men play soccer", "play", "VERB"),
        ("a man can be seen", "can", "AUX"),
        ("a can of beans", "can", "NOUN"),
        ("a building next to a road", "building", "NOUN"),
        ("men building a wall", "building", "VERB"),
        ("the bus is red", "red", "ADJ"),
        ("a light blue shirt", "light", "ADJ"),
        ("a living room with a couch", "living", "NOUN"),
        ("a woman's hat", "woman's", "NOUN"),
        ("a photo of Paris at night", "Paris", "PROPN"),
        ("A Red Bus On A White Road", "Bus", "NOUN"),
    ],
)
def test_words_of_several_readings_are_told_apart(caption: str, word: str, tag: str) -> None:
    assert next(token.tag for token in load_tagger()(caption) if token.text == word) == tag


@given(st.one_of(st.text(max_size=200), st.text(alphabet="ab 's-\u2019\u0301_1,.\n\u202e😀שلا", max_size=80)))
@example("''s s' 's - -- \u2019s")
@example("\ud800 \x00 \ufeff")
@settings(max_examples=300, deadline=None)
def test_any_text_falls_into_tokens_that_cover_it(text: str) -> None:
    tokens = load_tagger()(text)
    end = 0
    for token in tokens:
        assert text[end : token.start].strip() == ""
        assert token.start < token.end
        assert token.text == text[token.start : token.end]
        assert token.tag in get_args(Tag)
        end = token.end
    assert text[end:].strip() == ""


def test_a_caption_is_tagged_alike_whatever_came_before_and_in_any_thread() -> None:
    captions = [row["caption"] for row in ROWS]
    tagger = load_tagger()
    forward = {caption: tagger(caption) for caption in captions}
    assert {caption: tagger(caption) for caption in reversed(captions)} == forward
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tagger, captions)) == list(forward.values())


def test_long_text_takes_time_in_proportion() -> None:
    words = "a red bus and " * 20_000
    tags = [token.tag for token in load_tagger()(words)]
    assert tags[:4] * 20_000 == tags


@pytest.mark.parametrize(("word", "known"), [("bus", True), ("buses", True), ("the", True), ("woman's", True)])
def test_english_words_are_known(word: str, known: bool) -> None:
    assert load_tagger().knows(word) is known


@pytest.mark.parametrize("word", ["una", "voiture", "на", "xqzt", "el", "un", "z" * 500])
def test_other_words_are_not_known(word: str) -> None:
    assert load_tagger().knows(word) is False
