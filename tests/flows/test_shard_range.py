"""``--shards`` slices the plan as Python slices a list, and refuses what would be nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.config.overrides import chosen_shards, parse_shard_range
from iedit_model.errors import ConfigError

ENDS = st.none() | st.integers(0, 30)


@given(ends=st.tuples(ENDS, ENDS), number=st.integers(1, 20))
def test_a_range_takes_what_a_slice_takes_or_says_why_not(ends, number):
    shards = list(range(number))
    text = ":".join("" if end is None else str(end) for end in ends)
    expected = tuple(shards[slice(*ends)])
    if expected:
        assert chosen_shards(shards, text) == expected
    else:
        with pytest.raises(ConfigError):
            chosen_shards(shards, text)


@given(st.integers(0, 30))
def test_a_number_takes_that_shard_alone(place):
    if place < 20:
        assert chosen_shards(range(20), f" {place} ") == (place,)
    else:
        with pytest.raises(ConfigError, match="20 shard"):
            chosen_shards(range(20), str(place))


def test_nothing_given_takes_all():
    assert chosen_shards(["a", "b"], None) == ("a", "b")


@pytest.mark.parametrize("text", ["", "a", "-1", "1:-1", "0:4:2", "1.5", "1,2", "4:4", "5:2", "0x1", ":0", "1 : 2"])
def test_what_is_no_range_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match="0:4"):
        parse_shard_range(text)


def test_other_digits_than_ascii_are_refused():
    with pytest.raises(ConfigError):
        parse_shard_range("٣:٤")
