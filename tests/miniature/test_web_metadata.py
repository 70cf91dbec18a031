"""The metadata: LAION's columns with plausible values, exact shares, atomic files."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from miniature.errors import MetadataFolderError, SiteConfigError
from miniature.faults import FaultShares
from miniature.metadata import metadata_table, parquet_bytes, truth_table, write_metadata
from miniature.murmur import laion_hash, murmur3_x64_128
from miniature.plan import MetadataShares
from miniature.site import Site

BASE = "http://127.0.0.1:8765"
SITE = Site(num_urls=400, metadata=MetadataShares(repeated=0.1))


def test_the_hash_passes_the_verification_of_its_reference_implementation() -> None:
    # SMHasher: hash the keys 0, 0 1, ... 0..254 with seeds 256 - i, then all the hashes; a known value comes out.
    hashes = b"".join(
        b"".join(half.to_bytes(8, "little") for half in murmur3_x64_128(bytes(range(i)), 256 - i)) for i in range(256)
    )
    first, _ = murmur3_x64_128(hashes)
    assert first & 0xFFFFFFFF == 0x6384BA69


def test_the_hash_column_holds_the_signed_first_half_over_url_and_text() -> None:
    # The value that the package mmh3 documents for "foo".
    assert laion_hash("f", "oo") == -2129773440516405919
    rows = metadata_table(SITE, base_url=BASE).to_pylist()
    for row in rows[:50]:
        first, _ = murmur3_x64_128((row["URL"] + row["TEXT"]).encode())
        assert row["hash"] % 2**64 == first


def test_columns_and_types_are_those_of_laion() -> None:
    schema = metadata_table(SITE, base_url=BASE).schema
    assert {field.name: str(field.type) for field in schema} == {
        "URL": "string",
        "TEXT": "string",
        "WIDTH": "int32",
        "HEIGHT": "int32",
        "similarity": "double",
        "LANGUAGE": "string",
        "hash": "int64",
        "pwatermark": "float",
        "punsafe": "float",
        "AESTHETIC_SCORE": "float",
    }


def test_a_filter_finds_exactly_the_marked_urls() -> None:
    rows = {row["URL"]: row for row in metadata_table(SITE, base_url=BASE).to_pylist()}
    assert len(rows) == SITE.num_urls
    for index in range(SITE.num_urls):
        row, truth = rows[SITE.url(index, BASE)], SITE.truth(index)
        scores = (row["punsafe"], row["pwatermark"], row["AESTHETIC_SCORE"])
        assert (scores == (None, None, None)) is truth.unscored
        if not truth.unscored:
            assert (row["punsafe"] >= 0.5) is truth.unsafe
            assert (row["pwatermark"] >= 0.8) is truth.watermarked
            assert 3 <= row["AESTHETIC_SCORE"] <= 8
        assert (min(row["WIDTH"], row["HEIGHT"]) < 64) is truth.small
        assert (row["WIDTH"], row["HEIGHT"]) == (truth.width, truth.height)
        assert (row["LANGUAGE"] != "en") is SITE.marked(index, "foreign")
        assert 0.28 <= row["similarity"] <= 0.5


def test_repeated_urls_come_twice_and_half_of_them_with_another_text() -> None:
    rows = metadata_table(SITE, base_url=BASE).to_pylist()
    times = Counter(row["URL"] for row in rows)
    twice = {url for url, count in times.items() if count == 2}
    assert set(times.values()) == {1, 2}
    assert len(twice) == 40
    texts = {url: {row["TEXT"] for row in rows if row["URL"] == url} for url in twice}
    same = sum(len(found) == 1 for found in texts.values())
    assert 8 <= same <= 32


def test_a_copy_is_scored_like_its_original() -> None:
    site = Site(num_urls=60, faults=FaultShares.only(copy=0.3))
    rows = {row["URL"]: row for row in metadata_table(site, base_url=BASE).to_pylist()}
    for index in range(60):
        row, original = rows[site.url(index, BASE)], rows[site.url(site.original(index), BASE)]
        assert row["punsafe"] == original["punsafe"]
        assert row["AESTHETIC_SCORE"] == original["AESTHETIC_SCORE"]


def test_the_truth_table_has_one_row_a_url_and_agrees_with_the_truth() -> None:
    table = truth_table(SITE)
    assert table.column("index").to_pylist() == list(range(400))
    for row in table.slice(100, 20).to_pylist():
        truth = SITE.truth(row["index"])
        assert (row["kind"], row["outcome"], row["reason"]) == (truth.kind, truth.outcome, truth.reason)
        assert (tuple(row["nouns"]), tuple(row["colours"])) == (truth.nouns, truth.colours)
    assert Counter(table.column("kind").to_pylist()) == {k: n for k, n in SITE.counts().items() if n}


@pytest.mark.parametrize("rows_per_shard", [1_000, 100, 73])
def test_any_shard_size_writes_the_same_rows(tmp_path: Path, rows_per_shard: int) -> None:
    paths = write_metadata(tmp_path, site=SITE, base_url=BASE, rows_per_shard=rows_per_shard)
    assert [path.name for path in paths] == [f"{n:05d}.parquet" for n in range(-(-440 // rows_per_shard))]
    assert sorted(tmp_path.iterdir()) == list(paths)
    assert pq.read_table(list(map(str, paths))) == metadata_table(SITE, base_url=BASE)


def test_a_second_writing_gives_the_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_metadata(tmp_path, site=SITE, base_url=BASE, rows_per_shard=200)]
    second = [path.read_bytes() for path in write_metadata(tmp_path, site=SITE, base_url=BASE, rows_per_shard=200)]
    assert first == second


def test_shards_of_another_set_are_never_mixed_with_ours(tmp_path: Path) -> None:
    before = write_metadata(tmp_path, site=SITE, base_url=BASE, rows_per_shard=100)
    with pytest.raises(MetadataFolderError, match=r"00001\.parquet and 3 more"):
        write_metadata(tmp_path, site=SITE, base_url=BASE, rows_per_shard=1_000)
    assert sorted(tmp_path.iterdir()) == list(before)


def test_a_crash_before_the_rename_leaves_the_old_shard_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write_metadata(tmp_path, site=SITE, base_url=BASE)
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(MetadataFolderError, match="No space left on device"):
        write_metadata(tmp_path, site=Site(num_urls=400, seed=9), base_url=BASE)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(MetadataFolderError, match="cannot write metadata to"):
        write_metadata(tmp_path / "taken", site=SITE, base_url=BASE)
    with pytest.raises(SiteConfigError, match="rows_per_shard is 0"):
        write_metadata(tmp_path, site=SITE, base_url=BASE, rows_per_shard=0)


def test_equal_tables_are_equal_bytes_and_scores_do_not_repeat() -> None:
    table = metadata_table(SITE, base_url=BASE)
    assert parquet_bytes(table) == parquet_bytes(metadata_table(SITE, base_url=BASE))
    assert len(np.unique(table.column("similarity").to_numpy())) == table.num_rows
