"""Text from outside is shown, never obeyed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flows.cli.main import main
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


NAMES = ["x" * 5000, "loop.png", "loop.png/deeper", "a\0b", "\udcff.png", "~nobody/a.png", "/dev/null", "."]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "command",
    [
        "edit NAME bus -o out",
        "edit good.png bus -o out --mask NAME",
        "edit good.png bus -o out --model NAME",
        "edit --repeat NAME -o out",
        "edit good.png bus -n 1 --steps 1 -o NAME/out",
        "evalset show NAME",
        "evalset import pie-bench NAME set",
        "datasets list --root NAME",
    ],
)
def test_a_name_that_cannot_be_used_is_one_line(command: str, name: str, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.png").symlink_to("loop.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    code = main([word.replace("NAME", name) for word in command.split(" ")])
    told = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert code in (0, 1)
    assert len(told) == code
    assert not code or (told[0].startswith("iedit: ") and "fault of iedit" not in told[0])
