import enum
import json
import math
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import FingerprintError, canonical_json, canonical_value


class Relation(enum.StrEnum):
    ANTONYM = "antonym"


@dataclass(frozen=True, kw_only=True)
class Inner:
    size_px: int = 64


@dataclass(frozen=True, kw_only=True)
class Config:
    rate: float = 0.1
    names: tuple[str, ...] = ("a", "b")
    inner: Inner = Inner()
    relation: Relation = Relation.ANTONYM
    limit: float | None = None
    stop: frozenset[str] = frozenset({"x", "y"})
    batch_size: int = field(default=8, metadata={"fingerprint": False})


def test_the_text_is_the_one_written_by_hand():
    assert canonical_json(Config()) == (
        '{"@":"Config","inner":{"@":"Inner","size_px":64},"limit":null,"names":["a","b"],"rate":0.1,'
        '"relation":{"@":"Relation","value":"antonym"},"stop":{"@":"frozenset","items":["x","y"]}}'
    )


def test_a_field_outside_the_fingerprint_does_not_count_and_every_other_does():
    base = canonical_json(Config())
    assert canonical_json(Config(batch_size=1)) == base
    others = [
        Config(rate=0.2),
        Config(names=("b", "a")),
        Config(inner=Inner(size_px=65)),
        Config(limit=0.0),
        Config(stop=frozenset()),
    ]
    texts = {canonical_json(config) for config in others}
    assert len(texts) == len(others)
    assert base not in texts


def test_two_classes_with_the_same_fields_differ():
    @dataclass(frozen=True, kw_only=True)
    class Other:
        size_px: int = 64

    assert canonical_json(Inner()) != canonical_json(Other())


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ([1], "list"),
        ({"a": 1}, "dict"),
        ({1}, "set"),
        (Path("weights"), "PosixPath"),
        (len, "builtin_function"),
        (math.nan, "NaN"),
        (Config, "type"),
        (1j, "complex"),
    ],
)
def test_what_has_no_stable_identity_is_refused_with_its_place(value: object, word: str):
    @dataclass(frozen=True)
    class Holder:
        inner: object

    with pytest.raises(FingerprintError, match=rf"config\.inner\[1\].*{word}"):
        canonical_value(Holder(inner=(0, value)))


def test_a_dataclass_that_can_change_is_refused():
    @dataclass
    class Loose:
        size: int = 1

    with pytest.raises(FingerprintError, match="Loose that is not frozen"):
        canonical_value(Loose())


_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
_values = st.recursive(_scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=8)


@given(_values)
def test_any_allowed_value_gives_one_line_of_ascii_json(value: object):
    text = canonical_json(value)
    assert text.isascii()
    assert json.loads(text) == json.loads(json.dumps(canonical_value(value)))


@given(st.floats(allow_nan=False) | st.integers(-(2**60), 2**60), st.floats(allow_nan=False) | st.integers())
def test_numbers_have_one_text_exactly_when_they_are_equal(one: float, other: float):
    assert (canonical_json(one) == canonical_json(other)) == (one == other)


@given(st.integers(-(2**53), 2**53))
def test_a_whole_number_reads_the_same_as_int_and_float(number: int):
    assert canonical_json(replace(Config(), rate=float(number))) == canonical_json(Config(rate=number))


def test_the_order_of_a_set_does_not_depend_on_the_salt_of_the_process():
    code = "from storage import canonical_json as c; print(c(frozenset(map(str, range(50)))))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
