"""What two edits share when they ask nearly the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.pack.plan import edit_template, template_key, text_key

WORDS = st.lists(st.sampled_from(["red", "blue", "bus", "dog", "on", "the", "grass"]), min_size=0, max_size=5)


@pytest.mark.parametrize(
    ("caption", "edit_prompt", "template"),
    [
        ("a red bus", "a blue bus", "a _ bus"),
        ("An  orange bus.", "a blue bus", "a _ bus"),
        ("a red bus and a red car", "a red bus and a blue car", "a red bus and a _ car"),
        ("dog", "cat", "_"),
        ("a dog", "a fire truck", "a _"),
        ("a fire truck on grass", "a dog on grass", "a _ on grass"),
        ("bus number 12", "train number 12", "_ number 0"),
        ("", "", "_"),
        ("red red", "red", "red _"),
        ("a child's toy, red", "a child's toy, blue", "a child's toy , _"),
    ],
)
def test_a_template_is_the_caption_with_a_gap(caption: str, edit_prompt: str, template: str):
    assert edit_template(caption, edit_prompt) == template


@given(before=WORDS, after=WORDS, old=st.sampled_from(["cat", "horse"]), new=st.sampled_from(["car", "fire truck"]))
def test_an_edit_and_its_way_back_have_one_template(before, after, old, new):
    texts = [" ".join((*before, word, *after)) for word in (old, new)]
    assert edit_template(*texts) == edit_template(*reversed(texts)) == " ".join((*before, "_", *after))


def test_a_key_tells_texts_apart_but_not_their_spelling():
    assert text_key("A red bus.") == text_key("a  RED bus") != text_key("a red bush")
    assert template_key("a _") != template_key("_ a")
    assert text_key("\ud800 lone") != text_key("lone")
