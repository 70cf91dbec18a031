"""From a sample to the whole: the plan is exact, and all else grows with the URLs."""

import pytest

from flows.dry_run import Estimate, StageEstimate, _hours, _planned, _scaled, _sizes, estimate_lines
from storage import Files, StageRecord
from tests.flows.made_reports import report


def record(stage: str, num_in: int, dropped: dict[str, int] | None = None) -> StageRecord:
    lost = dropped or {}
    return StageRecord(
        stage=stage,
        code_version=1,
        config={},
        weights_digest=None,
        num_shards=1,
        digest="0" * 64,
        num_in=num_in,
        num_out=num_in - sum(lost.values()),
        dropped=lost,
    )


PLANNED = [
    report("plan", "00000", num_in=60_000, dropped={"bad_url": 10_000}, seconds=2.0),
    report("plan", "00001", num_in=40_000, dropped={"unsafe": 40_000}, seconds=1.0),
]


def test_the_plan_is_told_as_it_is():
    whole = _planned(PLANNED, {"plan": 777})
    assert (whole.num_in, whole.num_out, whole.seconds, whole.num_bytes) == (100_000, 50_000, 3.0, 777)


def test_later_stages_grow_with_the_urls_of_the_whole_for_each_of_the_sample():
    records = [
        record("plan", 100_000, {"not_sampled": 89_000, "bad_url": 10_500}),  # 500 URLs: one of a hundred
        record("download", 500, {"not_found": 100}),
        record("pack", 400, {"split_conflict": 393}),
    ]
    seconds = {"plan": 9.0, "download": 4.0}
    found = _scaled(records, seconds, seconds, {"plan": 9, "download": 1_000}, _planned(PLANNED, {}))
    assert [(stage.stage, stage.num_in, stage.num_out, stage.seconds, stage.num_bytes) for stage in found] == [
        ("download", 50_000, 40_000, 400.0, 100_000),
        ("pack", 40_000, 700, 0.0, 0),
    ]


def test_the_odds_of_a_target_grow_as_the_corpus_does():
    records = [
        record("plan", 100_000, {"not_sampled": 89_500, "bad_url": 10_000}),  # 500 URLs: one of a hundred
        record("retrieve", 500, {"all_gated": 396, "no_edit_prompt": 100}),
        record("mask", 4, {"outside_differs": 1}),
    ]
    retrieve, mask = _scaled(records, {"mask": 2.0}, {"mask": 2.0}, {"mask": 8}, _planned(PLANNED, {}))
    # 4 sources found a target and 396 did not: 1 to 99, and 100 to 99 in a corpus 100 times as large.
    assert (retrieve.num_in, retrieve.num_out) == (50_000, round(40_000 * 100 / 199))
    assert (mask.num_in, mask.num_out) == (retrieve.num_out, round(retrieve.num_out * 0.75))
    assert mask.seconds == pytest.approx(2.0 * retrieve.num_out / 4)


def test_the_start_of_a_stage_does_not_grow():
    records = [record("plan", 100_000, {"not_sampled": 89_500, "bad_url": 10_000}), record("words", 500)]
    # 5 s to load the words, then 2 s for the captions of one URL of a hundred.
    (words,) = _scaled(records, {"words": 7.0}, {"words": 2.0}, {}, _planned(PLANNED, {}))
    assert words.seconds == 5.0 + 200.0


def test_a_sample_of_everything_is_the_whole():
    records = [record("plan", 100_000, {"bad_url": 50_000}), record("download", 50_000, {"gone": 1})]
    (download,) = _scaled(records, {"download": 4.0}, {"download": 4.0}, {"download": 10}, _planned(PLANNED, {}))
    assert (download.num_out, download.seconds, download.num_bytes) == (49_999, 4.0, 10)


def stage(name: str, seconds: float) -> StageEstimate:
    return StageEstimate(stage=name, num_in=1, num_out=1, seconds=seconds, num_bytes=0)


@pytest.mark.parametrize(
    ("workers", "downloads", "hours"),
    [(1, 1, 2.0), (2, 1, 1.0), (4, 2, 0.5), (1, 8, 2.0)],
)
def test_downloads_run_beside_the_stages_that_compute(workers, downloads, hours):
    stages = (stage("download", 3600.0), stage("caption", 5400.0), stage("embed", 1800.0))
    assert _hours(stages, workers=workers, downloads=downloads) == hours


def test_sizes_are_those_of_the_stages_folders(tmp_path):
    files = Files(str(tmp_path))
    files.write_bytes("download/aa/x", b"12345")
    files.write_bytes("download/bb/y", b"1")
    files.write_bytes("swap/aa/x", b"12")
    assert _sizes(files) == {"download": 6, "swap": 2}


def test_the_estimate_is_told_in_lines_for_people():
    found = Estimate(share=0.01, pairs=1234, hours=3.0, gigabytes=2.5, stages=(stage("download", 7201.0),))
    lines = estimate_lines(found)
    assert lines[1].split() == ["download", "1", "1", "2.0", "h", "0.0", "MB"]
    assert "from 1.0% of the URLs: 1,234 pairs, 3.0 h, 2.50 GB" in "\n".join(lines)
    assert found.as_values()["stages"][0]["seconds"] == 7201.0
