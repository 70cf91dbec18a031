from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iedit_model.errors import ConfigError
from miniature.metadata import metadata_rows, write_metadata
from miniature.plan import MetadataShares
from miniature.site import Site
from storage import ShardReport, ShardStore, ShardTarget, sample_id
from tasks.download.ledger import add_to_ledger
from tasks.errors import EmptyPlanError, MetadataError
from tasks.plan import stage as plan_module
from tasks.plan.filters import FilterConfig
from tasks.plan.stage import ColumnNames, Plan, PlanConfig, plan_shards

BASE = "http://127.0.0.1:8765"
LAION = FilterConfig(min_side_px=64, max_punsafe=0.5, max_pwatermark=0.8, languages=("en",))


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore.at(tmp_path / "store")


def _write(folder: Path, rows: Sequence[dict[str, Any]], *, per_file: int = 100, names: str = "abcdef") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(0, max(1, len(rows)), per_file):
        part = list(rows[number : number + per_file])
        table = pa.Table.from_pylist(part) if part else pa.table({"URL": pa.array([], pa.string())})
        pq.write_table(table, folder / f"{names[number // per_file]}.parquet")
    return folder


def _urls(store: ShardStore, plan: Plan) -> list[list[str]]:
    shards = [store.read_table(report).to_pylist() for report in plan.reports]
    return [[row["url"] for row in sorted(rows, key=lambda r: (r["source_file"], r["source_row"]))] for rows in shards]


def _dropped(store: ShardStore, reports: Sequence[ShardReport]) -> list[dict[str, str]]:
    return [row for report in reports for row in store.read_dropped(report).to_pylist()]


def _reference(site: Site, filters: FilterConfig) -> Iterator[tuple[str, str | None]]:
    """Yield (url, reason) of every row of a site's metadata, by the rules in plain words."""
    seen = set()
    for row in metadata_rows(site):
        url = site.url(row.index, BASE)
        reason = None
        if filters.min_side_px and min(row.width, row.height) < filters.min_side_px:
            reason = "too_small"
        elif filters.max_punsafe and row.punsafe is not None and row.punsafe > filters.max_punsafe:
            reason = "unsafe"
        elif filters.max_pwatermark and row.pwatermark is not None and row.pwatermark > filters.max_pwatermark:
            reason = "watermarked"
        elif filters.languages and row.alt_text.language not in filters.languages:
            reason = "other_language"
        elif url in seen:
            reason = "duplicate_url"
        if reason is None:
            seen.add(url)
        yield url, reason


@pytest.mark.parametrize("shard_size", [1000, 37])
def test_the_plan_of_the_miniature_is_what_its_truth_says(store: ShardStore, tmp_path: Path, shard_size: int) -> None:
    shares = MetadataShares(unsafe=0.1, watermarked=0.1, small=0.1, foreign=0.1, unscored=0.1, repeated=0.2)
    site = Site(seed=3, num_urls=150, metadata=shares)
    write_metadata(tmp_path / "meta", site=site, base_url=BASE, rows_per_shard=40)
    config = PlanConfig(filters=LAION, shard_size=shard_size)
    plan = plan_shards(str(tmp_path / "meta"), config, store)
    expected = list(_reference(site, LAION))
    kept = [url for url, reason in expected if reason is None]
    assert [url for shard in _urls(store, plan) for url in shard] == kept
    assert [report.num_out for report in plan.reports][:-1] == [shard_size] * (len(plan.reports) - 1)
    reasons = Counter(reason for _, reason in expected if reason)
    assert sum((Counter(report.dropped) for report in plan.reports), Counter()) == reasons
    assert set(reasons) == {"too_small", "unsafe", "watermarked", "other_language", "duplicate_url"}
    assert sum(report.num_in for report in plan.reports) == len(expected)
    assert all(report.num_in == report.num_out + sum(report.dropped.values()) for report in plan.reports)
    row = store.read_table(plan.reports[0]).to_pylist()[0]
    assert row["sample_id"] == sample_id(row["url"])
    assert row["expected_hash"] is None  # LAION's number is no hash of the image
    assert row["language"] == "en"


def _scored(marks: str) -> list[dict[str, Any]]:
    """Return one row a letter; x is dropped by ``SCORE``."""
    return [
        {"URL": f"http://e.com/{number}{mark}", "similarity": 0.1 if mark == "x" else 0.9}
        for number, mark in enumerate(marks)
    ]


SCORE = FilterConfig(min_similarity=0.5)


def test_a_dropped_row_belongs_to_the_shard_in_whose_stretch_it_stands(store: ShardStore, tmp_path: Path) -> None:
    _write(tmp_path / "meta", _scored("x1xx2x3x4xx"), per_file=4)
    plan = plan_shards(str(tmp_path / "meta"), PlanConfig(shard_size=2, filters=SCORE), store)
    assert [(report.num_in, report.num_out) for report in plan.reports] == [(6, 2), (5, 2)]
    details = [row["detail"] for row in _dropped(store, plan.reports[:1])]
    assert sorted(details) == ["a.parquet row 0", "a.parquet row 2", "a.parquet row 3", "b.parquet row 1"]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    marks=st.text("123x", min_size=1, max_size=30),
    size=st.integers(1, 7),
    per_file=st.integers(5, 9),
    batch=st.integers(1, 9),
)
def test_any_cut_keeps_the_same_rows_and_counts(
    marks: str, size: int, per_file: int, batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    # The mark alone is the page, so that equal marks are duplicates.
    rows = [{**row, "URL": f"http://e.com/{row['URL'][-1]}"} for row in _scored(marks)]
    _write(folder / "meta", rows, per_file=per_file)
    kept = list(dict.fromkeys(row["URL"] for row in rows if row["similarity"] > 0.5))
    store = ShardStore.at(folder / "store")
    config = PlanConfig(shard_size=size, filters=SCORE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.parquet.ROWS_PER_BATCH", batch)
        if not kept:
            with pytest.raises(EmptyPlanError):
                plan_shards(str(folder / "meta"), config, store)
            return
        plan = plan_shards(str(folder / "meta"), config, store)
    assert _urls(store, plan) == [kept[start : start + size] for start in range(0, len(kept), size)]
    totals = sum((Counter(report.dropped) for report in plan.reports), Counter())
    repeated = len(marks) - marks.count("x") - len(kept)
    assert totals == Counter(low_similarity=marks.count("x"), duplicate_url=repeated) + Counter()
    assert sum(report.num_in for report in plan.reports) == len(marks)


def test_of_a_repeated_url_the_first_row_that_passes_wins(store: ShardStore, tmp_path: Path) -> None:
    rows = [
        {"URL": "http://e.com/a", "TEXT": "ein Bus", "LANGUAGE": "de"},
        {"URL": "http://e.com/a", "TEXT": "a bus", "LANGUAGE": "en"},
        {"URL": " http://e.com/a ", "TEXT": "a red bus", "LANGUAGE": "en"},
    ]
    _write(tmp_path / "meta", rows)
    plan = plan_shards(str(tmp_path / "meta"), PlanConfig(filters=FilterConfig(languages=("en",))), store)
    assert [row["alt_text"] for row in store.read_table(plan.reports[0]).to_pylist()] == ["a bus"]
    assert plan.reports[0].dropped == {"other_language": 1, "duplicate_url": 1}


def test_another_spelling_of_an_address_is_a_duplicate(store: ShardStore, tmp_path: Path) -> None:
    urls = ["http://e.com/a b.jpg", "HTTPS://www.E.com:443/x/../a%20b.jpg#c", "http://e.com/A b.jpg"]
    plan = plan_shards(str(_write(tmp_path / "meta", [{"URL": url} for url in urls])), PlanConfig(), store)
    assert _urls(store, plan) == [[urls[0], urls[2]]]
    assert plan.reports[0].dropped == {"duplicate_url": 1}


def test_what_was_taken_down_is_planned_no_more_and_moves_no_other_row(store: ShardStore, tmp_path: Path) -> None:
    urls = [f"http://e.com/{number}" for number in range(12)]
    meta = _write(tmp_path / "meta", [{"URL": url} for url in [*urls[:6], urls[4] + "#again", *urls[6:]]])
    config = PlanConfig(shard_size=4)
    before = plan_shards(str(meta), config, store)
    add_to_ledger(store.files, urls=["HTTP://www.e.com/./5"], images=["0" * 64])
    after = plan_shards(str(meta), config, store)
    assert _urls(store, after) == [urls[:4], [url for url in urls[4:8] if url != urls[5]], urls[8:]]
    assert [one.digest == other.digest for one, other in zip(before.reports, after.reports, strict=True)] == [
        *(True, False, True)
    ]
    assert after.reports[1].dropped == {"duplicate_url": 1, "taken_down": 1}
    named = [row["sample_id"] for row in _dropped(store, after.reports)]
    assert sample_id(urls[5]) not in named
    assert urls[5] not in store.files.read_bytes("takedowns.json").decode()
    assert plan_shards(str(meta), config, store) == after


def test_broken_urls_are_dropped_and_those_that_are_only_dangerous_go_on_to_be_refused(
    store: ShardStore, tmp_path: Path
) -> None:
    bad = [None, "", "  ", "no url", "http://", "http://u:p@e.com/", "x" * 70_000, "http://e.com/" + "y" * 5000]
    good = ["http://e.com/1", "file:///etc/hostname", "http://127.0.0.1:9/x", "HTTPS://e.com/ü"]
    _write(tmp_path / "meta", [{"URL": url} for url in (*bad, *good)])
    plan = plan_shards(str(tmp_path / "meta"), PlanConfig(), store)
    assert _urls(store, plan) == [good]
    assert plan.reports[0].dropped == {"bad_url": len(bad)}
    assert len({row["sample_id"] for row in _dropped(store, plan.reports)}) == len(bad)


def test_a_rerun_changes_no_file_and_another_config_or_content_makes_another_plan(
    store: ShardStore, tmp_path: Path
) -> None:
    folder = _write(tmp_path / "meta", _scored("12345x"), per_file=2)
    config = PlanConfig(shard_size=2, filters=SCORE)
    first = plan_shards(str(folder), config, store)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert plan_shards(str(folder), config, store) == first
    assert {path: path.stat().st_mtime_ns for path in before} == before
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert plan_shards(f"{moved}/*.parquet", config, store) == first
    other = plan_shards(str(moved), replace(config, shard_size=3), store)
    assert (other.input_digest, len(other.reports)) == (first.input_digest, 2)
    _write(moved, _scored("12345y"), per_file=2)
    changed = plan_shards(str(moved), config, store)
    assert changed.input_digest != first.input_digest
    assert changed.reports[0].fingerprint != first.reports[0].fingerprint


def test_a_plan_that_was_killed_between_shards_is_finished_with_the_same_bytes(
    store: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(_write(tmp_path / "meta", _scored("1234567")))
    config = PlanConfig(shard_size=2)
    with monkeypatch.context() as patch:
        commit, committed = ShardTarget.commit, []

        def dying(target: Any, **options: Any) -> ShardReport:
            if len(committed) == 2:
                raise KeyboardInterrupt
            committed.append(target.shard)
            return commit(target, **options)

        patch.setattr(ShardTarget, "commit", dying)
        with pytest.raises(KeyboardInterrupt):
            plan_shards(folder, config, store)
    again = plan_shards(folder, config, store)
    undisturbed = plan_shards(folder, config, ShardStore.at(tmp_path / "other"))
    assert [report.digest for report in again.reports] == [report.digest for report in undisturbed.reports]
    assert len(again.reports) == 4


def test_an_input_without_a_usable_row_is_an_error_that_counts_the_reasons(store: ShardStore, tmp_path: Path) -> None:
    _write(tmp_path / "none", [])
    with pytest.raises(EmptyPlanError, match="has no rows"):
        plan_shards(str(tmp_path / "none"), PlanConfig(), store)
    _write(tmp_path / "bad", [*_scored("xxx"), {"URL": "nothing"}])
    for _ in range(2):  # what failed once is not taken for done
        with pytest.raises(EmptyPlanError, match="low_similarity 3, bad_url 1"):
            plan_shards(str(tmp_path / "bad"), PlanConfig(filters=SCORE), store)


def test_very_many_dropped_rows_end_a_shard_too(
    store: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "_MOST_DROPPED", 3)
    _write(tmp_path / "meta", _scored("xxxxxxx1x"))
    plan = plan_shards(str(tmp_path / "meta"), PlanConfig(filters=SCORE), store)
    assert [(report.num_in, report.num_out) for report in plan.reports] == [(3, 0), (3, 0), (3, 1)]
    assert sum(report.dropped["low_similarity"] for report in plan.reports) == 8


def test_missing_columns_are_unknown_or_one_error_with_file_and_column(store: ShardStore, tmp_path: Path) -> None:
    _write(tmp_path / "meta", [{"URL": "http://e.com/1"}])
    plan = plan_shards(str(tmp_path / "meta"), PlanConfig(), store)
    row = store.read_table(plan.reports[0]).to_pylist()[0]
    assert [row[name] for name in ("alt_text", "width", "punsafe", "language", "expected_hash")] == [None] * 5
    with pytest.raises(MetadataError, match=r"a\.parquet has no column 'punsafe'"):
        plan_shards(str(tmp_path / "meta"), PlanConfig(filters=FilterConfig(max_punsafe=0.5)), store)
    with pytest.raises(MetadataError, match=r"a\.parquet has no column 'link'"):
        plan_shards(str(tmp_path / "meta"), PlanConfig(columns=ColumnNames(url="link")), store)
    config = PlanConfig(columns=ColumnNames(punsafe=None), filters=FilterConfig(max_punsafe=0.5))
    with pytest.raises(MetadataError, match=r"plan\.columns\.punsafe"):
        plan_shards(str(tmp_path / "meta"), config, store)


def test_the_columns_of_laion_400m_pass_the_filters_of_the_profiles(
    store: ShardStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"SAMPLE_ID": 1.0, "TEXT": "a bus", "HEIGHT": 400, "WIDTH": 500, "LICENSE": "?", "similarity": 0.3}
    tags = ("UNLIKELY", "NSFW", "UNSURE")
    _write(tmp_path / "meta", [row | {"URL": f"http://e.com/{tag}", "NSFW": tag} for tag in tags])
    filters = FilterConfig(languages=("en",), max_punsafe=0.5, max_pwatermark=0.8)
    plan = plan_shards(str(tmp_path / "meta"), PlanConfig(filters=filters), store)
    assert [(report.num_out, report.dropped) for report in plan.reports] == [(2, {"unsafe": 1})]
    assert sorted(store.read_table(plan.reports[0])["punsafe"].to_pylist()) == [0.0, 0.5]
    assert [record.args for record in caplog.records] == [("language",), ("pwatermark",)]
    strict = FilterConfig(languages=("en",), keep_unknown=False)
    with pytest.raises(MetadataError, match=r"no column 'LANGUAGE'.*data\.plan\.columns"):
        plan_shards(str(tmp_path / "meta"), PlanConfig(filters=strict), store)


def test_other_names_of_columns_and_a_hash_of_the_content_are_taken(store: ShardStore, tmp_path: Path) -> None:
    rows = [
        {"url": "http://e.com/1", "caption": "a bus", "md5": "A" * 32, "w": 640.0, "h": float("nan")},
        {"url": "http://e.com/2", "caption": None, "md5": "no hash", "w": -1.0, "h": 1e300},
    ]
    _write(tmp_path / "meta", rows)
    columns = ColumnNames(url="url", alt_text="caption", expected_hash="md5", width="w", height="h")
    plan = plan_shards(str(tmp_path / "meta"), PlanConfig(columns=columns), store)
    found = [
        (row["alt_text"], row["expected_hash"], row["width"], row["height"])
        for row in sorted(store.read_table(plan.reports[0]).to_pylist(), key=lambda row: row["url"])
    ]
    assert found == [("a bus", "a" * 32, 640, None), (None, None, None, None)]


@pytest.mark.parametrize(
    "wrong",
    [{"shard_size": 0}, {"digest_covers": "name"}, {"columns": ColumnNames(url="a", alt_text="a")}],
)
def test_a_plan_config_out_of_range_names_its_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PlanConfig(**wrong)
