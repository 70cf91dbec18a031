"""Plurals, articles and the case of letters: tables by hand, and WordNet's own morphology as the second opinion."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iedit_model.editing.instructions import swap_instruction
from iedit_model.inflection import (
    IRREGULAR_PLURALS,
    indefinite_article,
    is_mass,
    looks_singular,
    match_case,
    plural,
    singular_forms,
    word_set,
)
from tests.builders.wordnet import open_wordnet

PLURALS = {
    "bus": "buses",
    "box": "boxes",
    "bench": "benches",
    "brush": "brushes",
    "dress": "dresses",
    "quiz": "quizzes",
    "baby": "babies",
    "boy": "boys",
    "donkey": "donkeys",
    "child": "children",
    "grandchild": "grandchildren",
    "woman": "women",
    "fireman": "firemen",
    "human": "humans",
    "shaman": "shamans",
    "person": "people",
    "mouse": "mice",
    "dormouse": "dormice",
    "goose": "geese",
    "mongoose": "mongooses",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
    "knife": "knives",
    "penknife": "penknives",
    "shelf": "shelves",
    "bookshelf": "bookshelves",
    "leaf": "leaves",
    "wolf": "wolves",
    "scarf": "scarves",
    "chef": "chefs",
    "roof": "roofs",
    "giraffe": "giraffes",
    "sheep": "sheep",
    "deer": "deer",
    "fish": "fish",
    "aircraft": "aircraft",
    "cactus": "cacti",
    "octopus": "octopuses",
    "hippopotamus": "hippopotamuses",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "photo": "photos",
    "piano": "pianos",
    "kangaroo": "kangaroos",
    "lens": "lenses",
    "iris": "irises",
    "taxi": "taxis",
    "scissors": "scissors",
    "trousers": "trousers",
    "glasses": "glasses",
    "fire truck": "fire trucks",
    "polar bear": "polar bears",
    "police woman": "police women",
    "brother-in-law": "brothers-in-law",
    "bird of prey": "birds of prey",
    "carving knife": "carving knives",
    "built in bed": "built in beds",
    "fleur-de-lis": "fleurs-de-lis",
}
AN = word_set("""
hour honest heirloom herb umbrella apple orange owl igloo egg uninhabited uninteresting unidentified ugly
urn upside umpire usher x-ray 8-ball 11 18-wheeler onion f-stop hourglass elephant oar""")
A = word_set("""
unicorn uniform university european euro ukulele utensil one-way once used user union unit unicycle ewe yak
hotel house horse u-turn t-shirt 1-bedroom bus ufo eucalyptus unique wagon year 10-speed""")


@pytest.mark.parametrize(("one", "many"), PLURALS.items())
def test_plurals_by_hand(one: str, many: str) -> None:
    assert plural(one) == many


@pytest.mark.parametrize(("one", "many"), [pair for pair in PLURALS.items() if pair[0] != pair[1]])
def test_the_singular_is_found_back(one: str, many: str) -> None:
    assert one in singular_forms(many)


def test_wordnets_morphology_takes_the_plurals_of_its_nouns_back() -> None:
    reader = open_wordnet()
    lemmas = sorted(lemma for lemma in reader.all_lemma_names("n") if lemma.isalpha())
    checked, wrong = 0, []
    for lemma in lemmas[::40]:
        if is_mass(lemma) or not looks_singular(lemma) or len(lemma) < 3:
            continue
        checked += 1
        if reader.morphy(plural(lemma), "n") not in {lemma, plural(lemma)}:
            wrong.append((lemma, plural(lemma)))
    assert checked > 900
    # Nouns in -man that are no men ("ataman") and the like; WordNet's exceptions are themselves incomplete.
    assert len(wrong) <= checked * 0.01, wrong


def test_every_irregular_plural_is_one_of_wordnets_exceptions_or_our_own() -> None:
    reader = open_wordnet()
    own = {"person": "people", "passerby": "passersby"}
    for one, many in IRREGULAR_PLURALS.items():
        assert own.get(one) == many or reader.morphy(many, "n") in {one, many}, (one, many)


@pytest.mark.parametrize("word", sorted(AN))
def test_an_stands_before_the_sound_of_a_vowel(word: str) -> None:
    assert indefinite_article(word) == "an"


@pytest.mark.parametrize("word", sorted(A))
def test_a_stands_before_the_sound_of_a_consonant(word: str) -> None:
    assert indefinite_article(word) == "a"


@pytest.mark.parametrize(
    ("word", "like", "expected"),
    [
        ("train", "bus", "train"),
        ("train", "Bus", "Train"),
        ("train", "BUS", "TRAIN"),
        ("train", "B", "Train"),
        ("pickup truck", "Fire Truck", "Pickup Truck"),
        ("pickup truck", "Fire truck", "Pickup truck"),
        ("pickup truck", "FIRE TRUCK", "PICKUP TRUCK"),
        ("t-shirt", "Coat", "T-shirt"),
    ],
)
def test_letters_take_the_case_of_what_they_replace(word: str, like: str, expected: str) -> None:
    assert match_case(word, like=like) == expected


@pytest.mark.parametrize(
    ("noun", "mass"), [("bread", True), ("orange juice", True), ("juice bar", False), ("bus", False)]
)
def test_mass_nouns_are_known_by_their_head(noun: str, mass: bool) -> None:
    assert is_mass(noun) is mass


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_text_breaks_it(text: str) -> None:
    assert isinstance(plural(text), str)
    assert all(isinstance(form, str) for form in singular_forms(text))
    assert indefinite_article(text) in {"a", "an"}
    assert isinstance(match_case(text, like=text[::-1]), str)
    assert looks_singular(text) in {True, False}


@given(st.text(alphabet="abcXYZ -", max_size=20), st.text(alphabet="abcXYZ -", max_size=20))
@settings(max_examples=200, deadline=None)
def test_only_the_case_of_letters_changes(word: str, like: str) -> None:
    assert match_case(word.lower(), like=like).lower() == word.lower()


@pytest.mark.parametrize(
    ("word", "replacement", "instruction"),
    [
        ("bus", "unicorn", "replace the bus with a unicorn"),
        ("bus", "hour glass", "replace the bus with an hour glass"),
        ("bus", "x-ray machine", "replace the bus with an x-ray machine"),
        ("cats", "dogs", "replace the cats with dogs"),
        ("bus", "scissors", "replace the bus with scissors"),
        ("bowl", "cups of tea", "replace the bowl with cups of tea"),
        ("cake", "bread", "replace the cake with bread"),
        ("bag", "handbag with prints", "replace the bag with a handbag with prints"),
        ("Bus", "Unicorn", "replace the Bus with a Unicorn"),
        ("red bus", "blue bus", "make the bus blue"),
    ],
)
def test_an_instruction_is_english(word: str, replacement: str, instruction: str):
    assert swap_instruction(word, replacement) == instruction
