"""Text from outside is shown, never obeyed."""

from hypothesis import given
from hypothesis import strategies as st

from flows.errors import one_line


@given(st.text(), st.integers(4, 60))
def test_any_text_becomes_one_printable_line_of_limited_length(text, limit):
    line = one_line(text, limit=limit)
    assert line.isprintable()
    assert len(line) <= limit


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), max_size=20))
def test_plain_words_stay_as_they_are(words):
    assert one_line("\n\t ".join(words), limit=10_000) == " ".join(words)


def test_an_escape_sequence_is_written_out():
    assert one_line("a\x1b[31mb\u202ec") == "a\\x1b[31mb\\x202ec"


def test_an_object_of_pythons_is_named_without_its_address():
    assert (
        one_line("cannot identify image file <_io.BytesIO object at 0x7f12ab>") == "cannot identify image file BytesIO"
    )
