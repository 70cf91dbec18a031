"""Which words of a caption may be swapped, and what is said about them."""

import pytest

from tasks.swap.caption_units import Unit, find_units
from tasks.swap.tagger import load_tagger
from tasks.swap.wordnet import load_wordnet


def _units(caption: str) -> list[Unit]:
    return find_units(caption, load_tagger()(caption), load_wordnet())


def _keys(caption: str) -> list[str]:
    return [unit.key for unit in _units(caption)]


@pytest.mark.parametrize(
    ("caption", "keys"),
    [
        ("a red bus on a white background", ["red.a", "bus.n"]),
        ("a blue and orange bus on white background", ["blue.a", "orange.a", "bus.n"]),
        ("a photo of a dog", ["dog.n"]),
        ("a group of people posing for a picture", []),
        ("the front of a house", ["house.n"]),
        ("a dog's bed", ["bed.n"]),
        ("a baseball cap on a table", ["baseball_cap.n", "table.n"]),
        ("a coffee shop window", ["window.n"]),
        ("a larger dog", ["dog.n"]),
        ("a photo of Paris with a tower", ["tower.n"]),
        ("a woman rests her arm on a chair", ["chair.n"]),
        ("a black woman with a hat", ["woman.n", "hat.n"]),
        ("a young woman with a black hat", ["young.a", "woman.n", "black.a", "hat.n"]),
        ("a black and white photo of a cat", ["cat.n"]),
        ("", []),
        ("!!! ???", []),
    ],
)
def test_units_are_the_visible_heads_and_their_adjectives(caption: str, keys: list[str]) -> None:
    assert _keys(caption) == keys


@pytest.mark.parametrize(
    ("caption", "key", "text"),
    [
        ("a fire truck on a road", "fire_truck.n", "fire truck"),
        ("two fire  trucks on a road", "fire_truck.n", "fire  trucks"),
        ("a polar bear on ice", "polar_bear.n", "polar bear"),
        ("a bowl of ice cream", "ice_cream.n", "ice cream"),
        ("a hot dog with mustard", "hot_dog.n", "hot dog"),
        ("a hot air balloon over a valley", "hot-air_balloon.n", ""),
        ("a living room", "living_room.n", "living room"),
        ("teddy bears on a bed", "teddy_bear.n", "teddy bears"),
    ],
)
def test_lemmas_of_several_words_are_taken_whole(caption: str, key: str, text: str) -> None:
    found = {unit.key: caption[unit.start : unit.end] for unit in _units(caption)}
    assert found.get(key, "") == text
    if text:
        head = key.removesuffix(".n").rpartition("_")[2]
        assert f"{head}.n" not in found


@pytest.mark.parametrize(
    ("caption", "keys"),
    [
        ("a young man", ["young.a", "man.n"]),
        ("a black cherry", ["black.a", "cherry.n"]),
        ("a small boat", ["small.a", "boat.n"]),
        ("a fire, truck", ["truck.n"]),
    ],
)
def test_lemmas_that_captions_mean_word_by_word_are_not(caption: str, keys: list[str]) -> None:
    assert [key for key in _keys(caption) if key != "fire.n"] == keys


@pytest.mark.parametrize(
    ("caption", "number"),
    [
        ("a bus on a road", "singular"),
        ("buses on a road", "plural"),
        ("a sheep in a field", "singular"),
        ("sheep in a field", "plural"),
        ("the sheep is white", "singular"),
        ("three sheep", "plural"),
        ("three white sheep", "plural"),
        ("red sheep on white background", "singular"),
        ("one white sheep", "singular"),
        ("bread on a table", "mass"),
        ("a bread on a table", "singular"),
        ("a pair of scissors", "plural"),
        ("two glasses of wine", "plural"),
    ],
)
def test_the_number_of_a_noun_is_read_off_the_caption(caption: str, number: str) -> None:
    assert next(unit.number for unit in _units(caption) if unit.pos == "n") == number


def test_glasses_to_wear_are_no_glasses_to_drink_from() -> None:
    assert "glasses.n" in _keys("a man with a beard and glasses")
    assert "glass.n" in _keys("two glasses of wine on a table")


@pytest.mark.parametrize(
    ("caption", "adjective", "described"),
    [
        ("a red bus", "red", "bus"),
        ("a red fire truck", "red", "fire truck"),
        ("a red and white striped dress", "red", "dress"),
        ("a small red car", "small", "car"),
        ("a light blue cotton shirt", "light", "blue cotton shirt"),
        ("a light blue cotton shirt", "blue", "cotton shirt"),
        ("the bus is red", "red", "bus"),
        ("the walls in the room are very bright and white", "white", "walls"),
        ("the sky above the mountains is pink", "pink", ""),
        ("red", "red", ""),
    ],
)
def test_adjectives_know_the_noun_they_describe(caption: str, adjective: str, described: str) -> None:
    found = {unit.lemma: unit.described for unit in _units(caption) if unit.pos == "a"}
    assert found.get(adjective, "") == described


def test_animals_and_people_are_told_from_things() -> None:
    (old_dog,) = [unit for unit in _units("an old dog") if unit.pos == "a"]
    (old_car,) = [unit for unit in _units("an old car") if unit.pos == "a"]
    assert (old_dog.is_animate, old_car.is_animate) == (True, False)
