"""Edit prompts: golden cases, the relations as NLTK sees them, refusals, and text of any kind."""

import functools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iedit_model.errors import ConfigError
from iedit_model.inflection import indefinite_article
from tasks.swap.swapper import Swap, SwapConfig, SwapDrop, Swapper, swap_caption
from tasks.swap.words import count_terms
from tests.builders.wordnet import open_wordnet
from tests.references.wordnet_relations import (
    are_antonyms,
    are_cohyponyms,
    are_sibling_satellites,
    share_a_synset,
)

CAPTIONS = Path(__file__).parents[2] / "assets" / "tagged_captions.jsonl"
ALL = [json.loads(line)["caption"] for line in CAPTIONS.read_text(encoding="utf-8").splitlines()]
NOUN_ONLY: dict[str, Any] = {"noun_weight": 1.0, "adjective_weight": 0.0}
ADJECTIVE_ONLY: dict[str, Any] = {"noun_weight": 0.0, "adjective_weight": 1.0}


def _swap(caption: str, words: str, seed: int = 0, **settings: Any) -> Swap | SwapDrop:
    """Swap with the words as the whole vocabulary, each counted once."""
    config = SwapConfig(min_corpus_count=1, max_levels=3, **settings)
    return swap_caption(caption, seed=seed, config=config, vocabulary=Counter(words.split()))


def _swapped(caption: str, words: str, **settings: Any) -> Swap:
    result = _swap(caption, words, **settings)
    assert isinstance(result, Swap), result
    return result


def test_the_papers_example() -> None:
    result = _swapped("a blue and orange bus on white background", "bus.n train.n", **NOUN_ONLY)
    assert result == Swap(
        caption="a blue and orange bus on white background",
        edit_prompt="a blue and orange train on white background",
        swapped_from="bus",
        swapped_to="train",
        relation="cohyponym",
        pos="noun",
        source_synset="bus.n.01",
        target_synset="train.n.01",
        level=1,
        source_diff="bus",
        target_diff="train",
    )


def test_the_papers_red_dress() -> None:
    result = _swapped("a red dress hanging on a wall", "red.a blue.a dress.n", **ADJECTIVE_ONLY)
    assert result.edit_prompt == "a blue dress hanging on a wall"
    assert (result.relation, result.pos, result.level) == ("sibling_satellite", "adjective", 1)
    assert (result.source_synset, result.target_synset) == ("red.s.01", "blue.s.01")
    assert (result.source_diff, result.target_diff) == ("red dress", "blue dress")


@pytest.mark.parametrize(
    ("caption", "words", "prompt"),
    [
        # antonyms
        ("a large dog", "small.a little.n", "a small dog"),
        ("a white cat", "black.a", "a black cat"),
        ("an old man on a bench", "young.a new.a", "a young man on a bench"),
        ("an old car on a road", "young.a new.a", "a new car on a road"),
        ("a short man", "tall.a long.a", "a tall man"),
        ("a short dress", "tall.a long.a", "a long dress"),
        ("a light blue shirt", "dark.a heavy.a", "a dark blue shirt"),
        ("a huge dog", "small.a", "a small dog"),
        ("the shirt is wet", "dry.a", "the shirt is dry"),
        # satellites of one head, the article with them
        ("a red bus", "orange.a", "an orange bus"),
        ("an orange bus", "red.a", "a red bus"),
        ("a striped shirt", "floral.a", "a floral shirt"),
        ("two red buses", "yellow.a", "two yellow buses"),
        # case, punctuation and white space stay
        ("A RED BUS!", "blue.a", "A BLUE BUS!"),
        ("Red bus, on a road.", "blue.a", "Blue bus, on a road."),
        ("A Red Bus On A Road", "blue.a", "A Blue Bus On A Road"),
        ("  a\tred \n bus ", "blue.a", "  a\tblue \n bus "),
        ('a "red" bus', "orange.a", 'an "orange" bus'),
        ("A red bus", "orange.a", "An orange bus"),
        ("😀 a red bus — naïve café", "blue.a", "😀 a blue bus — naïve café"),
    ],
)
def test_adjectives(caption: str, words: str, prompt: str) -> None:
    assert _swapped(caption, words, **ADJECTIVE_ONLY).edit_prompt == prompt


@pytest.mark.parametrize(
    ("caption", "words", "prompt"),
    [
        # antonyms, of the sense itself or of one nearly as usual
        ("two women on a bench", "man.n", "two men on a bench"),
        ("a boy with a hat", "girl.n", "a girl with a hat"),
        ("a girl with a hat", "boy.n", "a boy with a hat"),
        # plurals
        ("a flock of sheep on a hill", "goat.n", "a flock of goats on a hill"),
        ("goats on a hill", "sheep.n", "sheep on a hill"),
        ("three geese over a lake", "duck.n", "three ducks over a lake"),
        ("three ducks over a lake", "goose.n", "three geese over a lake"),
        ("two rats in a cage", "mouse.n", "two mice in a cage"),
        ("a set of axes", "knife.n", "a set of knives"),
        ("foxes in the snow", "wolf.n", "wolves in the snow"),
        ("people and cars", "bus.n truck.n", "people and trucks"),
        ("shirts on a bed", "trouser.n", "trousers on a bed"),
        ("a man in black pants", "shirt.n", "a man in black shirts"),
        ("bread on a table", "rice.n", "rice on a table"),
        # articles
        ("a pear on a table", "apple.n", "an apple on a table"),
        ("an apple on a table", "pear.n", "a pear on a table"),
        ("AN APPLE ON A TABLE", "pear.n", "A PEAR ON A TABLE"),
        # lemmas of several words
        ("a fire truck on a road", "pickup_truck.n", "a pickup truck on a road"),
        ("a bus by a polar bear", "brown_bear.n", "a bus by a brown bear"),
        ("two polar bears", "lion.n", "two lions"),
        ("Fire Truck On A Road", "pickup_truck.n", "Pickup Truck On A Road"),
        ("a lion on a rock", "polar_bear.n", "a polar bear on a rock"),
        # the meant sense
        ("a boot on a chair", "shoe.n", "a shoe on a chair"),
        ("a drum on a stage", "guitar.n", "a guitar on a stage"),
        ("a cup on a shelf", "bowl.n mug.n bicycle.n car.n", "a bowl on a shelf"),
        ("a mug on a shelf", "cup.n fool.n", "a cup on a shelf"),
    ],
)
def test_nouns(caption: str, words: str, prompt: str) -> None:
    assert _swapped(caption, words, **NOUN_ONLY).edit_prompt == prompt


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a dog on a rug", "poodle.n animal.n canine.n hound.n"),  # hyponyms and hypernyms
        ("a bus on a road", "coach.n motorbus.n"),  # synonyms
        ("a sofa in a room", "couch.n lounge.n"),
        ("an apple and a pear", "apple.n pear.n"),  # already there
        ("apples and pears", "apple.n pear.n"),
        ("a shirt on a hanger", "trouser.n"),  # a plural where one is meant
        ("bread on a table", "cake.n"),  # one thing where stuff is meant
        ("a cake on a table", "bread.n"),  # and the other way round
        ("a bus on a white background", "foreground.n"),  # not to be seen
        ("a person in a chair", "animal.n plant.n"),
        ("a woman with a dress", "girl.n harlot.n prostitute.n"),  # in no sense of ours
        ("a woman rests her head", "man.n"),  # the pronoun would be wrong
        ("a cup on a road", "car.n bicycle.n"),  # wheeled vehicles are containers to WordNet
    ],
)
def test_nouns_that_must_not_come_in(caption: str, words: str) -> None:
    result = _swap(caption, words, **NOUN_ONLY)
    assert isinstance(result, SwapDrop), result
    assert result.reason in {"no_replacement", "no_candidate_word"}


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a black woman", "white.a"),
        ("a red bus on a white background", "black.a"),
        ("a black and white photo", "red.a"),
        ("a huge dog", "vast.a immense.a gigantic.a"),
        ("a grilled salmon", "barbecued.a broiled.a"),
        ("a red and blue bus", "red.a blue.a"),
        ("a beautiful woman", "ugly.a"),
    ],
)
def test_adjectives_that_must_not_come_in(caption: str, words: str) -> None:
    result = _swap(caption, words, **ADJECTIVE_ONLY)
    assert isinstance(result, SwapDrop), result


def test_a_replacement_must_be_as_frequent_as_asked() -> None:
    caption, rare = "a bus on a road", {"train.n": 4}
    config = SwapConfig(min_corpus_count=5, **NOUN_ONLY)
    result = swap_caption(caption, seed=0, config=config, vocabulary=rare)
    assert result == SwapDrop(caption=caption, reason="no_replacement", detail="bus, road")
    assert isinstance(swap_caption(caption, seed=0, config=config, vocabulary={"train.n": 5}), Swap)


def test_nearer_levels_come_first() -> None:
    near = {_swapped("a dog", "wolf.n cat.n horse.n", seed=seed).swapped_to for seed in range(20)}
    assert near == {"wolf"}
    farther = {_swapped("a dog", "cat.n horse.n", seed=seed) for seed in range(20)}
    assert {(one.swapped_to, one.level) for one in farther} == {("cat", 2)}
    assert isinstance(_swap("a dog", "bee.n"), SwapDrop)


def test_equally_near_words_are_drawn_alike() -> None:
    swapper = Swapper(SwapConfig(min_corpus_count=1), Counter(["red.a", "blue.a", "green.a", "pink.a", "brown.a"]))
    drawn = Counter(str(getattr(swapper("a red box", seed=seed), "swapped_to", "")) for seed in range(600))
    assert set(drawn) == {"blue", "green", "pink", "brown"}
    # Five standard deviations of a binomial with n = 600 and p = 1/4.
    assert all(abs(count - 150) < 53 for count in drawn.values()), drawn


@pytest.mark.parametrize(("noun", "adjective", "low", "high"), [(1, 1, 0.4, 0.6), (3, 1, 0.66, 0.84), (0, 1, 0, 0)])
def test_the_weights_decide_between_nouns_and_adjectives(
    noun: float, adjective: float, low: float, high: float
) -> None:
    config = SwapConfig(min_corpus_count=1, noun_weight=noun, adjective_weight=adjective)
    swapper = Swapper(config, Counter(["red.a", "blue.a", "bus.n", "train.n"]))
    results = [swapper("a red bus", seed=seed) for seed in range(400)]
    share = sum(isinstance(one, Swap) and one.pos == "noun" for one in results) / len(results)
    assert low <= share <= high


def test_stop_words_are_neither_swapped_nor_brought_in() -> None:
    config = SwapConfig(min_corpus_count=1, max_levels=1, extra_stop_words=("bus", "fire truck"), **NOUN_ONLY)
    words = Counter(["bus.n", "train.n", "fire_truck.n", "pickup_truck.n"])
    assert isinstance(swap_caption("a bus", seed=0, config=config, vocabulary=words), SwapDrop)
    assert isinstance(swap_caption("a train", seed=0, config=config, vocabulary=words), SwapDrop)
    assert isinstance(swap_caption("a pickup truck", seed=0, config=config, vocabulary=words), SwapDrop)


def _check(result: Swap) -> None:
    """Check what must hold for every swap, by NLTK and plain string comparison alone."""
    reader = open_wordnet()
    source, target = reader.synset(result.source_synset), reader.synset(result.target_synset)
    if result.relation == "cohyponym":
        assert are_cohyponyms(source, target, level=result.level)
        assert source.lexname() == target.lexname()
    elif result.relation == "antonym":
        assert are_antonyms(source, target)
    else:
        assert are_sibling_satellites(source, target)
    pos = "n" if result.pos == "noun" else "a"
    assert source.pos() in ("n" if pos == "n" else "as")
    taken = _forms(result.swapped_from, pos) & set(source.lemma_names())
    brought = _forms(result.swapped_to, pos) & set(target.lemma_names())
    assert taken
    assert brought
    assert not any(share_a_synset(reader, one, other, pos) for one in taken for other in brought)
    assert not {mark.name() for mark in target.usage_domains()} & {"ethnic_slur.n.01", "disparagement.n.01"}
    assert not target.instance_hypernyms()
    _check_text(result)


def _forms(word: str, pos: str) -> set[str]:
    """Return every lemma that NLTK sees in a word or phrase ("shoes" is one itself, and the plural of one)."""
    reader, joined = open_wordnet(), word.lower().replace(" ", "_")
    forms = {joined, *reader._morphy(joined, pos)} | ({"person"} if joined == "people" else set())
    head, of, rest = joined.partition("_of_")
    before, gap, last = joined.rpartition("_")
    if of:
        forms |= {f"{form}_of_{rest}" for form in reader._morphy(head, pos)}
    for many, one in (("feet", "foot"), ("teeth", "tooth"), ("men", "man")):
        if joined.endswith(many):  # NLTK knows these alone, not at the end of other words
            forms.add(joined.removesuffix(many) + one)
    if gap:
        forms |= {f"{before}_{form}" for form in reader._morphy(last, pos)}
    return forms


def _check_text(result: Swap) -> None:
    """Check that the two captions differ in the swapped word and an article before it, and nowhere else."""
    word = re.escape(result.swapped_from)
    places = [match.start() for match in re.finditer(word, result.caption)]
    built = []
    for place in places:
        before, after = result.caption[:place], result.caption[place + len(result.swapped_from) :]
        article = re.search(r"\b(an?)(\s+[\"'(]*)$", before, re.IGNORECASE)
        if article:
            fitting = indefinite_article(result.swapped_to.lower())
            kept = article.group(1)[0] + fitting[1:].upper() if article.group(1) == "AN" else None
            before = before[: article.start()] + (kept or article.group(1)[0] + fitting[1:]) + article.group(2)
        built.append(before + result.swapped_to + after)
    assert result.edit_prompt in built, result
    assert result.source_diff.startswith(result.swapped_from)
    assert result.target_diff == result.swapped_to + result.source_diff[len(result.swapped_from) :]
    assert result.swapped_from.lower() != result.swapped_to.lower()
    assert not re.search(rf"\b{re.escape(result.swapped_to.lower())}\b", result.caption.lower())


@functools.cache
def _swapper(name: str) -> Swapper:
    if name == "paper":
        return Swapper(SwapConfig(sense_policy="first", max_levels=1))
    if name == "corpus":
        return Swapper(SwapConfig(min_corpus_count=1, max_levels=3), count_terms(ALL))
    return Swapper(SwapConfig())


@given(st.sampled_from(ALL), st.integers(0, 2**63 - 1), st.sampled_from(["free", "paper", "corpus"]))
@settings(max_examples=200, deadline=None)
def test_every_swap_holds_in_wordnet_and_changes_one_word(caption: str, seed: int, name: str) -> None:
    swapper = _swapper(name)
    result = swapper(caption, seed=seed)
    if isinstance(result, Swap):
        _check(result)
        assert result.caption == caption
        assert swapper(caption, seed=seed) == result


def test_most_captions_find_a_swap() -> None:
    for name, least in (("free", 0.9), ("corpus", 0.7), ("paper", 0.7)):
        found = sum(isinstance(_swapper(name)(caption, seed=7), Swap) for caption in ALL)
        assert found >= least * len(ALL), name


def test_a_replacement_from_the_corpus_is_one_of_its_words() -> None:
    counts = count_terms(ALL)
    swaps = [one for seed in range(3) for c in ALL if isinstance(one := _swapper("corpus")(c, seed=seed), Swap)]
    assert len(swaps) > 500
    for one in swaps:
        pos = "n" if one.pos == "noun" else "a"
        assert any(counts[f"{form}.{pos}"] for form in _forms(one.swapped_to, pos)), one


def test_the_seed_alone_decides() -> None:
    forward = [_swapper("free")(caption, seed=place) for place, caption in enumerate(ALL)]
    fresh = Swapper(SwapConfig())
    backward = [fresh(caption, seed=place) for place, caption in reversed(list(enumerate(ALL)))]
    assert backward[::-1] == forward
    assert [_swapper("free")(caption, seed=place + 1) for place, caption in enumerate(ALL)] != forward


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("12 + 30 = 42 !!", "empty"),
        ("😀😀😀", "empty"),
        ("a red bus " * 200, "too_long"),
        ("x" * 1_000_000, "too_long"),
        ("a red bus " * 40, "too_long"),
        ("a red\x00 bus", "malformed"),
        ("a red \x1b[31mbus", "malformed"),
        ("a red \u202ebus", "malformed"),
        ("a red \ud800 bus", "malformed"),
        ("une femme dans une robe rouge", "not_english"),
        ("ein rotes Auto auf weißem Hintergrund", "not_english"),
        ("una mujer con un vestido rojo en la playa", "not_english"),
        ("красный автобус на белом фоне", "not_english"),
        ("白い背景の赤いバス", "not_english"),
        ("حافلة حمراء على خلفية بيضاء", "not_english"),
        ("a photo of the background", "no_candidate_word"),
        ("standing and looking", "no_candidate_word"),
    ],
)
def test_captions_without_a_swap_say_why(caption: str, reason: str) -> None:
    result = _swapper("free")(caption, seed=1)
    assert isinstance(result, SwapDrop)
    assert result.reason == reason
    assert len(result.detail) <= 200
    assert len(result.caption) <= SwapConfig().max_characters


@given(
    st.one_of(
        st.text(max_size=600),
        st.text(alphabet="an red bus'\u2019-\"()\u0301\u00ad\u200b\ufeff😀א\t\n", max_size=60),
        st.lists(st.sampled_from(["a", "an", "red", "bus", "Buses", "'s", ",", "of", "APPLE", "é", "-"])).map(" ".join),
    ),
    st.integers(-5, 2**64),
)
@example("a" * 1_000_000, 0)
@example("'s 's 's", 0)
@example("a\u0301n red bus", 0)
@settings(max_examples=300, deadline=None)
def test_no_text_breaks_it(text: str, seed: int) -> None:
    result = _swapper("free")(text, seed=seed)
    if isinstance(result, Swap):
        _check_text(result)
    else:
        assert text.startswith(result.caption)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_corpus_count": -1},
        {"max_levels": 0},
        {"noun_weight": -0.1},
        {"noun_weight": float("nan")},
        {"noun_weight": 0, "adjective_weight": 0},
        {"min_sense_share": 1.1},
        {"max_characters": 0},
        {"max_words": 0},
        {"min_known_share": 2},
        {"sense_policy": "best"},
        {"extra_stop_words": ("Bus",)},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SwapConfig(**wrong)


def test_a_count_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="count_terms"):
        Swapper(SwapConfig(min_corpus_count=2))


def test_a_vocabulary_of_bare_words_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'bus'.*'bus\.n'"):
        Swapper(SwapConfig(min_corpus_count=2), {"bus": 3})


def test_terms_are_counted_once_a_caption_and_add_up() -> None:
    captions = ["a red bus and a blue bus", "buses on a road", "un autobus rojo", "a red fire truck"]
    counts = count_terms(captions)
    assert counts == {"red.a": 2, "blue.a": 1, "bus.n": 2, "road.n": 1, "fire_truck.n": 1}
    assert count_terms(captions[:2]) + count_terms(captions[2:]) == counts


def test_no_other_name_of_what_the_caption_has_is_brought_in():
    names = [
        "car automobile bike bicycle motorcycle bus",
        "couch sofa lounge chair table bed",
        "big large small little",
    ]
    corpus = [f"a {word} on a road" for group in names for word in group.split()] * 10
    config = SwapConfig(min_corpus_count=5)
    swapper = Swapper(config, count_terms(corpus, config=config))
    captions = ("a car and a bike", "a couch and a chair", "the sofas and a table", "a big car and a little bus")
    wordnet = open_wordnet()
    swapped = [
        result for text in captions for seed in range(40) if isinstance(result := swapper(text, seed=seed), Swap)
    ]
    assert len(swapped) > 80
    for result in swapped:
        kept = [word for word in re.findall(r"[a-z]+", result.caption) if word != result.swapped_from]
        pos = "n" if result.pos == "noun" else "a"
        target = wordnet.synset(result.target_synset)
        first = [wordnet.synsets(word, pos)[:1] for word in kept]
        assert all(target not in senses for senses in first), result


def test_words_of_no_decent_meaning_are_not_brought_in_whatever_their_spelling():
    swapper, wordnet = Swapper(SwapConfig(min_corpus_count=0)), open_wordnet()
    roots = {wordnet.synset(name) for name in ("whorehouse.n.01", "prostitute.n.01", "b-girl.n.01", "criminal.n.01")}
    captions = (
        "a white house with a black roof",
        "this is an image of a house",
        "a lady with a handbag",
        "a man",
        "a boy",
    )
    for caption in captions:
        for seed in range(150):
            if isinstance(result := swapper(caption, seed=seed), Swap):
                target = wordnet.synset(result.target_synset)
                above = {target, *target.closure(lambda one: one.hypernyms())}
                senses = wordnet.synsets(result.swapped_to.replace(" ", "_"), "n")[:1] if result.pos == "noun" else []
                assert roots.isdisjoint(above | set(senses)), result
