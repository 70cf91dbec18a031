"""The swap stage on planted shards: the same prompts however the captions are cut, every caption accounted for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from iedit_model.errors import ConfigError
from miniature.world import World
from storage import ShardReport, ShardStore, sample_id, sample_seed
from tasks.caption import CAPTION
from tasks.swap.stage import SwapConfig, load_swapper, swap_shard
from tasks.swap.swapper import Swap, Swapper
from tasks.swap.words import WordCounts, count_shard_words, count_terms, count_words, read_counts

STRANGE = {
    "german": "ein kleiner hund sitzt auf einem grossen stuhl",
    "chinese": "一只红色的狗",
    "no_letter": "12 + 30",
    "no_word": "a photo of a background",
    "control": "a dog\x07",
    "long": "a dog " * 200,
}
WORLD = World(5, share="all")
TEXTS = {f"mini{place}": WORLD.scene(place).captions()[place % 6] for place in range(120)} | STRANGE
PAPER = SwapConfig(sense_policy="first", max_levels=1)
OURS = SwapConfig(min_corpus_count=2)


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore.at(tmp_path / "store")


def id_of(name: str) -> str:
    return sample_id(f"https://captions.test/{name}")


def captions(store: ShardStore, size: int, texts: dict[str, str] = TEXTS) -> list[ShardReport]:
    rows = sorted(
        ({"sample_id": id_of(name), "caption": text, "caption_source": "model"} for name, text in texts.items()),
        key=lambda row: row["sample_id"],
    )
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [
        store.target("caption", f"{number:05d}", f"{size:016x}").commit(
            num_in=len(part), seconds=0, table=CAPTION.table(part)
        )
        for number, part in enumerate(parts)
    ]


def counted(store: ShardStore, reports: Sequence[ShardReport], config: SwapConfig = OURS) -> WordCounts:
    return read_counts(store, count_words(reports, config, store))


def rows_of(store: ShardStore, reports: Sequence[ShardReport]) -> list[dict]:
    return sorted(
        (row for report in reports for row in store.read_table(report).to_pylist()), key=lambda row: row["sample_id"]
    )


def drops_of(store: ShardStore, reports: Sequence[ShardReport]) -> dict[str, str]:
    return {row["sample_id"]: row["reason"] for report in reports for row in store.read_dropped(report).to_pylist()}


def test_each_prompt_is_the_swappers_own_for_the_samples_seed(store):
    (caption,) = captions(store, 500)
    counts = counted(store, [caption])
    report = swap_shard(caption, replace(OURS, seed=7), store, counts=counts)
    swapper = Swapper(replace(OURS, seed=7), count_terms(TEXTS.values()))
    results = {id_of(name): swapper(text, seed=sample_seed(7, "swap", id_of(name))) for name, text in TEXTS.items()}
    found = {row["sample_id"]: row for row in store.read_table(report).to_pylist()}
    assert set(found) == {name for name, result in results.items() if isinstance(result, Swap)}
    for name, row in found.items():
        assert row == {"sample_id": name} | {field: getattr(results[name], field) for field in Swap.__slots__}


def test_every_caption_is_accounted_for_with_its_reason(store):
    (caption,) = captions(store, 500)
    report = swap_shard(caption, OURS, store, counts=counted(store, [caption]))
    assert report.num_in == len(TEXTS) == report.num_out + sum(report.dropped.values())
    dropped = drops_of(store, [report])
    assert {name: dropped[id_of(name)] for name in STRANGE} == {
        "german": "not_english",
        "chinese": "not_english",
        "no_letter": "empty",
        "no_word": "no_candidate_word",
        "control": "malformed",
        "long": "too_long",
    }
    assert report.num_out > 100


@pytest.mark.parametrize("config", [PAPER, OURS], ids=["paper", "ours"])
def test_the_division_into_shards_changes_no_prompt_and_no_count(store, config):
    results = []
    for size in (500, 40, 7):
        reports = captions(store, size)
        counts = None if config is PAPER else counted(store, reports[::-1] if size == 7 else reports)
        swapped = [swap_shard(report, config, store, counts=counts) for report in reports]
        results.append((counts and counts.digest, rows_of(store, swapped), drops_of(store, swapped)))
    assert results[0] == results[1] == results[2]


def test_the_counts_are_those_of_all_captions_together(store):
    counts = counted(store, captions(store, 13))
    assert counts.terms == count_terms(TEXTS.values())
    assert counts.terms["dog.n"] == sum("dog" in text.split() for text in TEXTS.values() if len(text) < 200)


def test_a_replacement_is_taken_only_if_the_corpus_shows_it_often_enough(store):
    reports = captions(store, 40)
    counts = counted(store, reports)
    for least in (1, 4):
        config = replace(OURS, min_corpus_count=least)
        rows = rows_of(store, [swap_shard(report, config, store, counts=counts) for report in reports])
        used = Counter(f"{row['swapped_to'].replace(' ', '_')}.{row['pos'][0]}" for row in rows)
        assert len(used) > 5
        assert min(counts.terms[term] for term in used) >= least
    rare = {term for term, count in counts.terms.items() if count < 4}
    assert rare, "else the second round would prove nothing"
    with pytest.raises(ConfigError, match="min_corpus_count is 2, which needs the corpus's word counts"):
        swap_shard(reports[0], OURS, store, counts=None)


def test_the_papers_setting_needs_no_counts_and_does_not_look_at_them(store):
    (caption,) = captions(store, 500)
    without = swap_shard(caption, PAPER, store, counts=None)
    assert swap_shard(caption, PAPER, store, counts=WordCounts(terms={"dog.n": 1}, digest="0" * 64)) == without
    assert not store.files.list("words")


def test_a_finished_shard_is_read_and_another_input_is_another_folder(store):
    (caption,) = captions(store, 500)
    counts = counted(store, [caption])
    done = swap_shard(caption, OURS, store, counts=counts)
    path = Path(store.files.address(done.path("parquet")))
    written = path.stat().st_mtime_ns
    assert swap_shard(caption, OURS, store, counts=counts) == done
    assert count_words([caption], OURS, store).digest == counts.digest
    assert path.stat().st_mtime_ns == written
    fewer = dict(list(TEXTS.items())[:60])
    (other_caption,) = captions(store, 501, fewer)
    others = [
        swap_shard(other_caption, OURS, store, counts=counts),
        swap_shard(caption, replace(OURS, seed=1), store, counts=counts),
        swap_shard(caption, OURS, store, counts=counted(store, [other_caption])),
    ]
    assert len({done.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_counting_goes_on_where_it_was_cut_off(store):
    reports = captions(store, 40)
    parts = [count_shard_words(report, OURS, store) for report in reports[:2]]
    before = {path: Path(store.files.address(path)).stat().st_mtime_ns for path in store.files.list("words")}
    total = count_words(reports, OURS, store)
    assert {path: Path(store.files.address(path)).stat().st_mtime_ns for path in before} == before
    assert [part.num_in for part in parts] == [40, 40]
    assert (total.num_in, total.num_out, total.dropped) == (len(TEXTS), len(TEXTS), {})


def test_only_what_decides_the_reading_of_captions_counts_them_anew(store):
    reports = captions(store, 500)
    first = count_words(reports, OURS, store)
    assert count_words(reports, replace(OURS, seed=3, noun_weight=0.1, min_corpus_count=9), store) == first
    shorter = count_words(reports, replace(OURS, max_words=4), store)
    assert shorter.fingerprint != first.fingerprint
    assert sum(read_counts(store, shorter).terms.values()) < sum(read_counts(store, first).terms.values())


def test_an_empty_shard_is_counted_and_swapped_to_nothing(store):
    empty = store.target("caption", "00000", "0" * 16).commit(num_in=0, seconds=0, table=CAPTION.table([]))
    counts = counted(store, [empty])
    assert counts.terms == {}
    report = swap_shard(empty, OURS, store, counts=counts)
    assert (report.num_in, report.num_out, report.dropped) == (0, 0, {})


def test_one_process_makes_one_swapper_and_refuses_one_of_other_settings(store):
    (caption,) = captions(store, 500)
    counts = counted(store, [caption])
    swapper = load_swapper(OURS, counts)
    assert load_swapper(OURS, replace(counts, terms=dict(counts.terms))) is swapper
    assert load_swapper(replace(OURS, seed=1), counts) is not swapper
    with pytest.raises(ConfigError, match="the swapper was made for"):
        swap_shard(caption, replace(OURS, seed=2), store, swapper, counts=counts)
