import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import (
    AccountingError,
    CorruptFileError,
    FileEntry,
    SchemaError,
    ShardNameError,
    ShardReport,
    digest_of,
)
from storage.reports import marker_of_log, marker_path

FP = "0123456789abcdef"
TABLE = FileEntry(size=10, sha256="a" * 64)
TAR = FileEntry(size=20, sha256="b" * 64)


def _report(**changes: object) -> ShardReport:
    fields = {
        "stage": "caption",
        "shard": "00042",
        "fingerprint": FP,
        "num_in": 5,
        "num_out": 3,
        "dropped": {"empty_caption": 2},
        "seconds": 1.25,
        "files": {"parquet": TABLE, "tar": TAR},
        "extra": {"recall": 0.99, "model": "blip", "ok": True, "none": None},
    }
    return ShardReport(**(fields | changes))  # pyright: ignore[reportArgumentType]


def test_a_report_comes_back_from_its_json():
    report = _report()
    assert ShardReport.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["digest"] == report.digest


@given(st.integers(0, 50), st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 9)), st.integers(-3, 3))
def test_every_sample_is_accounted_for_or_the_report_does_not_exist(out: int, dropped: dict[str, int], error: int):
    came_in = out + sum(dropped.values()) + error
    if error or came_in < 0:
        with pytest.raises(AccountingError):
            _report(num_in=came_in, num_out=out, dropped=dropped)
    else:
        assert _report(num_in=came_in, num_out=out, dropped=dropped).num_in == came_in


@pytest.mark.parametrize("counts", [{"num_in": 0, "num_out": -2}, {"num_in": 2, "dropped": {"x": -1}}])
def test_counts_below_zero_are_refused_even_if_they_sum_up(counts: dict[str, object]):
    with pytest.raises(AccountingError, match="below zero"):
        _report(**counts)


def test_a_log_is_a_file_of_the_shard_but_no_part_of_its_digest():
    bare, first = _report(), _report(files={"parquet": TABLE, "tar": TAR, "log.parquet": TABLE})
    other = _report(files={"parquet": TABLE, "tar": TAR, "log.parquet": TAR, "log.txt": TABLE})
    assert bare.digest == first.digest == other.digest
    assert _report(files={"parquet": TABLE, "tar": TAR, "logs.parquet": TABLE}).digest != bare.digest
    assert ShardReport.from_json(other.to_json()) == other


def test_a_log_lies_beside_the_marker_of_its_shard():
    report = _report(files={"log.parquet": TABLE, "parquet": TABLE, "ids.parquet": TABLE})
    marker = marker_path("caption", FP, "00042")
    assert marker_of_log(report.path("log.parquet")) == marker
    for path in (report.path("parquet"), report.path("ids.parquet"), marker, "versions/ab/log.parquet", "log.x"):
        assert marker_of_log(path) is None


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_time_that_cannot_be_is_refused(seconds: float):
    with pytest.raises(AccountingError, match="cannot be"):
        _report(seconds=seconds)


def test_the_digest_follows_from_the_contents_alone():
    report = _report()
    assert report.digest == digest_of("parquet", "a" * 64, "tar", "b" * 64)
    for change in ({"seconds": 9.0}, {"shard": "00043"}, {"fingerprint": "f" * 16}, {"extra": {}}):
        assert replace(report, **change).digest == report.digest
    assert replace(report, files={"tar": TAR, "parquet": TABLE}).digest == report.digest
    for files in ({"parquet": TABLE}, {"parquet": TAR, "tar": TABLE}, {"parquet": TABLE, "jpg": TAR}):
        assert replace(report, files=files).digest != report.digest


def test_a_path_names_stage_fingerprint_shard_and_content():
    assert _report().path("tar") == f"caption/{FP}/00042.{'b' * 16}.tar"
    with pytest.raises(ShardNameError, match="no file 'faiss', only"):
        _report().path("faiss")


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "Captions"},
        {"stage": "../plan"},
        {"shard": ""},
        {"shard": "a/b"},
        {"shard": "../x"},
        {"shard": "a.b"},
        {"shard": "-rf"},
        {"shard": "x" * 65},
        {"fingerprint": "0123"},
        {"fingerprint": "0123456789ABCDEF"},
        {"files": {"a/b": TABLE}},
        {"files": {"done.json": TABLE}},
        {"files": {"": TABLE}},
        {"dropped": {"Empty caption": 2}},
    ],
)
def test_what_cannot_be_part_of_an_address_is_refused(change: dict[str, object]):
    with pytest.raises(ShardNameError):
        _report(**change)


@pytest.mark.parametrize("value", [float("nan"), [1], {"a": 1}, b"x"])
def test_an_extra_that_json_cannot_say_is_refused(value: object):
    with pytest.raises(SchemaError, match="finite JSON scalar"):
        _report(extra={"x": value})


def test_a_file_that_cannot_exist_is_refused():
    for size, sha256 in ((-1, "a" * 64), (1, "A" * 64), (1, "a")):
        with pytest.raises(CorruptFileError, match="cannot exist"):
            FileEntry(size=size, sha256=sha256)


def _edited(**changes: object) -> bytes:
    return json.dumps(json.loads(_report().to_json()) | changes).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff",
        _edited(num_in=6),
        _edited(num_in="5"),
        _edited(digest="0" * 64),
        _edited(files={}),
        _edited(files=[1]),
        _edited(surprise=1),
        _edited(stage="X"),
        _report().to_json()[:-20],
    ],
)
def test_a_damaged_report_is_refused(data: bytes):
    with pytest.raises(CorruptFileError):
        ShardReport.from_json(data)
