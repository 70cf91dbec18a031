"""Damaged inputs of every kind from outside are taken or refused by an error of ours, quickly and in little memory."""

import random

import pytest

from benchmarks.bench_hostile import READERS, Outcome, damaged, feed, is_bad


@pytest.mark.parametrize("name", [name for name in READERS if name != "model_folders"])
def test_a_reader_takes_damaged_inputs_or_refuses_them_by_name(name: str) -> None:
    outcome = feed(name, 60, seed=1)
    assert outcome.unexpected == {}
    assert not is_bad(outcome)
    assert outcome.count == outcome.taken + outcome.refused.total() == 60


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_inputs(name: str) -> None:
    outcome = feed(name, 1000, seed=2)
    assert outcome.unexpected == {}
    assert not is_bad(outcome)


def test_what_nobody_expected_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.dataset import takedown

    def raise_key_error(*_: object) -> bool:
        raise KeyError("a bug")

    monkeypatch.setattr(takedown, "_text_entries", raise_key_error)
    monkeypatch.setattr(takedown, "_parquet_entries", lambda _: iter([("row 0", "a" * 64)]))
    monkeypatch.setattr(
        takedown, "_is_parquet", lambda path: path.read_bytes().startswith((b"PAR1", b"\xef\xbb\xbf# a list"))
    )
    outcome = feed("takedown_lists", 60, seed=3)
    assert is_bad(outcome)
    assert all(what.startswith("KeyError") for what in outcome.unexpected)
    assert is_bad(Outcome(slowest_s=31.0))
    assert is_bad(Outcome(grown_mib=4000))


def test_damage_is_the_same_for_the_same_seed_and_seldom_none() -> None:
    seeds = [bytes(range(256)) * 9, b'{"a": [1, 2, 3]}']
    first, again = ([damaged(seed, random.Random(n), seeds) for seed in seeds for n in range(200)] for _ in range(2))
    assert first == again
    assert sum(data in seeds for data in first) < 20
