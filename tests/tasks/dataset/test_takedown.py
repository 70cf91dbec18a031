"""A takedown removes what shows a listed picture, and touches nothing else."""

import resource
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from benchmarks.planted_pairs import Corpus, planted
from storage import (
    CorruptFileError,
    EmptyVersionError,
    MissingFileError,
    ShardStore,
    UnknownVersionError,
    VersionInfo,
    VersionStore,
    collect_garbage,
    diff_versions,
    verify_version,
)
from tasks.corpus import url_key
from tasks.dataset.purge import purge
from tasks.dataset.takedown import Takedown, TakedownList, TakedownListError, read_takedown_list, take_down
from tasks.download.ledger import LEDGER
from tasks.pack.splits import SplitConfig
from tasks.pack.stage import PackConfig
from tasks.stages import stage_names

CONFIG = PackConfig(samples_per_tar=4, splits=SplitConfig(val_share=0.2, test_share=0))
NOBODY = "https://nobody.example/x.png"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return planted(20, seed=2)


@pytest.fixture
def versions(tmp_path: Path, corpus: Corpus) -> VersionStore:
    store = ShardStore.at(tmp_path / "store")
    corpus.build(store, CONFIG)
    return VersionStore(store.files)


def _only(versions: VersionStore) -> VersionInfo:
    (name,) = versions.list()
    return versions.load(name)


def _rows(versions: VersionStore, info: VersionInfo) -> dict[str, dict]:
    return {row["sample_id"]: row for row in versions.manifest(info).to_pylist()}


def _tars(info: VersionInfo) -> dict[str, object]:
    return {path: entry for path, entry in info.files.items() if path.endswith(".tar")}


def _keys(versions: VersionStore, info: VersionInfo) -> set[str]:
    paths = [versions.files.address(path) for path in _tars(info)]
    return {sample["__key__"] for sample in wds.WebDataset(paths, shardshuffle=False, empty_check=False)}


def _take(versions: VersionStore, info: VersionInfo, *, urls=(), hashes=()) -> Takedown:
    return take_down(versions, info.id, TakedownList(urls=frozenset(urls), hashes=frozenset(hashes)))


@pytest.mark.parametrize(
    "column", ["url", "target_url", "sha256", "target_sha256", "stored_sha256", "target_stored_sha256"]
)
def test_a_picture_goes_by_any_of_its_names_and_only_its_tar_changes(versions: VersionStore, column: str):
    old = _only(versions)
    rows = _rows(versions, old)
    gone = sorted(rows)[7]
    kind = "urls" if column.endswith("url") else "hashes"
    done = _take(versions, old, **{kind: [rows[gone][column]]})
    assert done.removed == (gone,)
    assert done.tars == (rows[gone]["tar"],)
    assert done.unmatched == ()
    new = done.version
    assert _rows(versions, new).keys() == rows.keys() - {gone}
    assert _keys(versions, new) == rows.keys() - {gone}
    # All other tars are the very same files.
    shared = {path: entry for path, entry in _tars(old).items() if path != rows[gone]["tar"]}
    assert shared.items() <= _tars(new).items()
    assert len(_tars(new)) == len(_tars(old))
    moved = {name for name, row in _rows(versions, new).items() if row != rows[name]}
    assert moved == {name for name in rows if rows[name]["tar"] == rows[gone]["tar"]} - {gone}
    for name in moved:
        row = _rows(versions, new)[name]
        assert {key for key in row if row[key] != rows[name][key]} <= {"tar", "tar_offset"}
    assert verify_version(versions, new.id) == verify_version(versions, old.id) == []


def test_lineage_says_the_parent_and_the_list(versions: VersionStore):
    old = _only(versions)
    row = next(iter(_rows(versions, old).values()))
    listed = TakedownList(urls=frozenset({row["url"]}))
    new = take_down(versions, old.id, listed).version
    assert new.parent == old.id
    assert new.where is not None
    assert listed.digest[:16] in new.where
    pack = new.stage("pack")
    before = old.stage("pack")
    assert pack is not None
    assert before is not None
    assert isinstance(pack.config, dict)
    assert isinstance(before.config, dict)
    assert pack.config == before.config | {"takedowns": [listed.digest]}
    assert (pack.num_in, pack.num_out) == (before.num_in, before.num_out - 1)
    assert pack.dropped == {**before.dropped, "taken_down": 1}
    assert [stage for stage in new.stages if stage.stage != "pack"] == [s for s in old.stages if s.stage != "pack"]
    assert versions.load(new.id) == new
    diff = diff_versions(versions, old.id, new.id)
    assert diff.counts() == {"added": {}, "removed": {"now: pack dropped it: taken_down": 1}, "changed": {}}


def test_the_same_list_in_any_order_gives_the_same_version(versions: VersionStore, tmp_path: Path):
    old = _only(versions)
    urls = [row["url"] for row in _rows(versions, old).values()][:5]
    first = _take(versions, old, urls=urls).version
    before = versions.files.stats()
    assert _take(versions, old, urls=reversed(urls)).version == first
    assert versions.files.stats() == before
    path = tmp_path / "list.txt"
    path.write_text("# asked for on Monday\n\n" + "\n".join(f"  {url} " for url in reversed(urls)))
    assert take_down(versions, old.id, read_takedown_list(path)).version == first


def test_a_second_takedown_builds_on_the_first(versions: VersionStore):
    old = _only(versions)
    rows = list(_rows(versions, old).values())
    first = _take(versions, old, urls=[rows[0]["url"]]).version
    second = _take(versions, first, urls=[rows[1]["url"], rows[0]["url"]]).version
    assert second.parent == first.id
    assert _keys(versions, second) == {row["sample_id"] for row in rows[2:]}
    pack = second.stage("pack")
    assert pack is not None
    assert isinstance(pack.config, dict)
    assert len(pack.config["takedowns"]) == 2  # pyright: ignore[reportArgumentType]
    assert pack.dropped["taken_down"] == 2
    assert verify_version(versions, second.id) == []


def test_addresses_match_whatever_their_scheme(versions: VersionStore):
    old = _only(versions)
    row = next(iter(_rows(versions, old).values()))
    spelled = row["url"].replace("https://", "HTTP://www.") + "#top"
    assert _take(versions, old, urls=[spelled, NOBODY]).removed == (row["sample_id"],)
    assert _take(versions, old, urls=[spelled, NOBODY]).unmatched == (NOBODY,)


def test_a_list_that_concerns_no_sample_makes_no_version(versions: VersionStore):
    old = _only(versions)
    done = _take(versions, old, urls=[NOBODY], hashes=["f" * 64])
    assert (done.version, done.removed, done.tars) == (old, (), ())
    assert done.unmatched == ("f" * 64, NOBODY)
    assert versions.list() == [old.id]


def test_a_tar_of_which_nothing_is_left_goes_and_taking_all_is_an_error(versions: VersionStore):
    old = _only(versions)
    rows = _rows(versions, old).values()
    tar = next(path for path in _tars(old) if "val" in path)
    done = _take(versions, old, urls=[row["url"] for row in rows if row["tar"] == tar])
    assert not [path for path in _tars(done.version) if "val" in path]
    assert set(done.version.splits) == {"train"}
    assert verify_version(versions, done.version.id) == []
    with pytest.raises(EmptyVersionError):
        _take(versions, old, urls=[row["url"] for row in rows])
    assert len(versions.list()) == 2


def test_a_part_of_a_version_loses_the_picture_from_its_tars_too(versions: VersionStore):
    old = _only(versions)
    rows = sorted(_rows(versions, old).values(), key=lambda row: row["tar"])
    kept, other = rows[0]["sample_id"], rows[1]["sample_id"]
    assert rows[0]["tar"] == rows[1]["tar"]
    part = versions.subset(old.id, sample_ids=[kept, rows[-1]["sample_id"]])
    # ``other`` is not in the part's manifest, but lies in a tar that the part hands out.
    done = _take(versions, part, urls=[rows[1]["url"]])
    assert done.removed == ()
    assert _rows(versions, done.version).keys() == {kept, rows[-1]["sample_id"]}
    assert other not in _keys(versions, done.version)
    assert verify_version(versions, done.version.id) == []


def test_when_the_old_version_is_given_up_its_tar_is_garbage(versions: VersionStore):
    old = _only(versions)
    done = _take(versions, old, urls=[next(iter(_rows(versions, old).values()))["url"]])
    assert not set(done.tars) & collect_garbage(versions, stages=stage_names(), older_than_s=-60).files.keys()
    found = collect_garbage(versions, stages=stage_names(), keep=[done.version.id], older_than_s=-60, remove=True)
    assert set(done.tars) <= found.files.keys()
    assert not set(_tars(done.version)) & found.files.keys()
    assert verify_version(versions, done.version.id) == []


def test_a_damaged_tar_is_no_silent_loss(versions: VersionStore):
    old = _only(versions)
    row = next(iter(_rows(versions, old).values()))
    data = versions.files.read_bytes(row["tar"])
    versions.files.write_bytes(row["tar"], bytes(512) + data[512:])
    with pytest.raises((CorruptFileError, MissingFileError)):
        _take(versions, old, urls=[row["url"]])
    with pytest.raises(UnknownVersionError):
        take_down(versions, "f" * 16, TakedownList(urls=frozenset({NOBODY})))


@pytest.mark.parametrize("text", ["", "# nothing\n", "not an address\n", "file:///etc/passwd", "ab" * 31, "https://"])
def test_a_list_that_cannot_be_understood_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(TakedownListError, match=r"neither|empty"):
        read_takedown_list(path)


def test_a_list_of_few_bytes_takes_little_memory_and_time_however_often_it_repeats_a_text(tmp_path: Path):
    path, url = tmp_path / "LIST.PQ", "http://a/" + "x" * 40_000
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 500_000, pa.int32()), pa.array([url]))
    pq.write_table(pa.table({"url": repeated}), path, compression="zstd")
    assert path.stat().st_size < 100_000  # of 20 GB
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert read_takedown_list(path) == TakedownList(urls=frozenset({url}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
    assert time.process_time() - start < 10
    pq.write_table(pa.table({"url": pa.array(["x" * 100_000] * 5000)}), path, compression="zstd", use_dictionary=False)
    with pytest.raises(TakedownListError, match="bytes in a row group"):
        read_takedown_list(path)
    with pytest.raises(TakedownListError, match="files of at most"):
        read_takedown_list(Path("/dev/zero"))


def test_lists_come_as_parquet_too(tmp_path: Path):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"URL": [NOBODY, None], "sha256": ["A" * 64, None], "note": ["x", "y"]}), path)
    assert read_takedown_list(path) == TakedownList(urls=frozenset({NOBODY}), hashes=frozenset({"a" * 64}))
    pq.write_table(pa.table({"note": ["x"]}), path)
    with pytest.raises(TakedownListError, match="no column"):
        read_takedown_list(path)
    path.write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(TakedownListError, match="no parquet file"):
        read_takedown_list(path)
    with pytest.raises(TakedownListError, match="cannot be read"):
        read_takedown_list(tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes(b"https://x.example/\xe9")
    with pytest.raises(TakedownListError, match="UTF-8"):
        read_takedown_list(tmp_path / "latin.txt")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("http://a.test/red bus.jpg", "http://a.test/red%20bus.jpg"),
        ("http://a.test/b\u00fcs.jpg", "http://a.test/b%C3%BCs.jpg"),
        ("http://b\u00fccher.test/x.jpg", "http://xn--bcher-kva.test/x.jpg"),
        ("http://a.test/~me/x.jpg", "https://WWW.a.test:443/./%7Eme/x.jpg#top"),
    ],
)
def test_a_list_finds_a_picture_in_any_spelling_of_its_address(tmp_path: Path, ours: str, theirs: str):
    for one, other in ((ours, theirs), (theirs, ours)):
        path = tmp_path / "list.txt"
        path.write_text(f"  {other}  \n", encoding="utf-8")
        (url,) = read_takedown_list(path).urls
        assert url_key(url) == url_key(one)


def test_a_purge_leaves_whole_versions_without_a_trace_of_the_picture(versions: VersionStore):
    full = _only(versions)
    rows = _rows(versions, full)
    gone = sorted(rows)[3]
    part = versions.subset(full.id, sample_ids=sorted(rows)[:8])
    other = versions.subset(full.id, sample_ids=sorted(rows)[8:12])
    early = _take(versions, full, urls=[rows[gone]["url"]]).version
    done = purge(versions, TakedownList(urls=frozenset({rows[gone]["url"].replace("https", "HTTP"), NOBODY})))
    assert done.unmatched == (NOBODY,)
    assert set(done.versions) == {full.id, part.id, other.id, early.id}
    assert set(versions.list()) == {new.id for new in done.versions.values() if new is not None}
    for name in versions.list():
        assert verify_version(versions, name) == []
        assert gone not in _rows(versions, versions.load(name))
    new = done.versions[full.id]
    assert new is not None
    assert (new.parent, new.num_samples) == (None, full.num_samples - 1)
    words = [rows[gone][name].encode() for name in ("url", "stored_sha256", "source_member_sha256")] + [gone.encode()]
    for path in versions.files.list():
        data = versions.files.read_bytes(path)
        if path.endswith(".parquet"):
            data += str(pq.read_table(versions.files.address(path)).to_pydict()).encode()
        if path != LEDGER:
            assert [word for word in words if word in data] == [], path
    again = purge(versions, TakedownList(urls=frozenset({rows[gone]["url"]})))
    assert (again.pictures, again.removed, again.versions) == (0, (), {})


def test_a_purge_finds_the_copies_of_a_picture_under_other_addresses(versions: VersionStore):
    full = _only(versions)
    row = next(iter(_rows(versions, full).values()))
    done = purge(versions, TakedownList(hashes=frozenset({row["target_stored_sha256"], "f" * 64})))
    assert done.unmatched == ("f" * 64,)
    left = [_rows(versions, versions.load(name)).values() for name in versions.list()]
    assert [
        r
        for rows in left
        for r in rows
        if row["target_stored_sha256"] in (r["stored_sha256"], r["target_stored_sha256"])
    ] == []
