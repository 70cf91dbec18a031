import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from iedit_model.errors import ConfigError
from storage import DamagedFileError, MissingFileError, ShardReport, ShardStore
from tasks.corpus import CorpusError, caption_key, content_key, url_key
from tasks.embed.stage import EmbedTableError
from tasks.embed.vectors import unit_rows
from tasks.index.index_rows import EmptyIndexError
from tasks.index.stage import IndexConfig, IndexRecallError, RecallConfig, build_index, kth_scores, recall
from tasks.index.vector_index import IndexMismatchError, ListConfig, Neighbours, SearchSettings, list_index, open_index
from tests.builders.planted_corpus import Reports, by_id, clusters, commit_corpus, corpus_image

CPU = SearchSettings(gpu="never", threads=1)
EXACT = IndexConfig(search=CPU)
LISTS = IndexConfig(exact_max_rows=1, search=CPU)


def _corpus(store: ShardStore, size: int = 120, dim: int = 8, *, cut: int = 50, seed: int = 0) -> Reports:
    images, texts = clusters(size, dim, seed=seed), clusters(size, dim, seed=seed + 1)
    pictures = by_id([corpus_image(i, images[i], texts[i]) for i in range(size)])
    return commit_corpus(store, pictures, shard_size=cut)


def _build(store: ShardStore, reports: Reports, config: IndexConfig = EXACT) -> ShardReport:
    return build_index(
        reports.embeds, downloads=reports.downloads, captions=reports.captions, config=config, store=store
    )


@pytest.mark.parametrize("config", [EXACT, LISTS], ids=["exact", "lists"])
def test_the_division_into_shards_does_not_change_a_byte(tmp_path: Path, config: IndexConfig):
    digests = set()
    for cut, threads in ((120, 1), (7, 2), (50, 1)):
        store = ShardStore.at(tmp_path / str(cut))
        reports = _corpus(store, cut=cut)
        shuffled = Reports(
            embeds=reports.embeds[::-1], downloads=reports.downloads[::-1], captions=reports.captions[::-1]
        )
        digests.add(_build(store, shuffled, replace(config, search=replace(CPU, threads=threads))).digest)
    assert len(digests) == 1


@pytest.mark.parametrize("config", [EXACT, LISTS], ids=["exact", "lists"])
def test_the_report_says_what_was_built_and_measured(tmp_path: Path, config: IndexConfig):
    store = ShardStore.at(tmp_path)
    report = _build(store, _corpus(store), config)
    assert (report.num_in, report.num_out, report.dropped) == (120, 120, {})
    facts = report.extra
    assert (facts["metric"], facts["dim"], facts["recall_queries"]) == ("inner_product", 8, 120)
    if config is EXACT:
        assert (facts["kind"], facts["num_lists"], facts["recall"]) == ("exact", 0, 1.0)
    else:
        assert (facts["kind"], facts["num_lists"]) == ("inverted_lists", round(2 * 120**0.5))
        assert 0.95 <= float(facts["recall"] or 0) <= 1
        assert 2 <= int(facts["nprobe"] or 0) <= 22
    ids = store.read_table(report)["sample_id"].to_pylist()
    assert ids == sorted(ids)
    assert store.problems(report) == []


@pytest.mark.parametrize("config", [EXACT, LISTS], ids=["exact", "lists"])
@pytest.mark.parametrize("max_ram_bytes", [0, 1 << 30], ids=["mapped", "read"])
def test_an_opened_index_finds_what_a_matrix_product_finds(tmp_path: Path, config: IndexConfig, max_ram_bytes: int):
    store = ShardStore.at(tmp_path)
    built = _build(store, _corpus(store), config)
    with open_index(built, store, replace(CPU, max_ram_bytes=max_ram_bytes)) as index:
        queries = unit_rows(index.vectors[::3])
        found = index.neighbours.search(queries, 1)[:, 0]
        products = queries @ unit_rows(index.vectors).T
        assert np.allclose(products[np.arange(40), found], products.max(axis=1), atol=1e-6)
        assert index.neighbours.exact == (config is EXACT)
        assert [name.decode() for name in index.ids.tolist()] == store.read_table(built)["sample_id"].to_pylist()


def test_where_lists_run_short_there_is_no_candidate_rather_than_a_wrong_one(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    with open_index(_build(store, _corpus(store), LISTS), store, CPU) as index:
        found = index.neighbours.search(unit_rows(index.vectors[:5]), 120)
        assert (found[:, -1] == -1).all()
        assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in found)
        assert (index.neighbours.search(np.full((1, 8), np.nan), 3) == -1).all()


def test_an_index_that_finds_too_little_is_refused(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    reports = _corpus(store, size=600, dim=24)
    blind = replace(LISTS, lists=ListConfig(nprobe=1, max_nprobe=1))
    with pytest.raises(IndexRecallError, match=r"finds 0\.\d+ of the true neighbours.*max_nprobe"):
        _build(store, reports, blind)
    assert not [path for path in store.files.list() if path.startswith("index")]
    searching = replace(LISTS, lists=ListConfig(nprobe=1, max_nprobe=256), recall=RecallConfig(least=0.98))
    facts = _build(store, reports, searching).extra
    assert float(facts["recall"] or 0) >= 0.98
    assert int(facts["nprobe"] or 0) > 1


def test_the_measured_recall_is_the_share_that_a_full_search_confirms():
    vectors = clusters(400, 12, seed=3)
    queries = unit_rows(clusters(50, 12, seed=4))
    search = Neighbours.of(list_index(vectors, ListConfig(nprobe=2)), CPU).search
    order = np.argsort(-(queries @ unit_rows(vectors).T), axis=1)[:, :10]
    shared = [len(set(row) & set(best)) / 10 for row, best in zip(search(queries, 10), order, strict=True)]
    measured = recall(search, vectors, queries, kth_scores(vectors, queries, 10), 10)
    assert measured == pytest.approx(np.mean(shared), abs=1e-9)
    assert 0.1 < measured < 1


def test_lists_search_each_query_alone_whatever_the_batch():
    # From 128,000 numbers on faiss would pick lists by a matrix product, whose last bits depend on the batch.
    vectors, queries = clusters(3000, 64, seed=5), unit_rows(clusters(2100, 64, seed=6))
    index = list_index(vectors, ListConfig(nprobe=4))
    search = Neighbours.of(index, CPU).search
    together = search(queries, 30)
    assert np.array_equal(
        together[::100], np.concatenate([search(queries[i : i + 1], 30) for i in range(0, 2100, 100)])
    )
    rows = queries.astype(np.float32)
    products = index.quantizer.search(rows, 4)[0]
    assert all(
        np.array_equal(index.quantizer.search(rows[i : i + 1], 4)[0][0], products[i]) for i in range(0, 2100, 100)
    )


def test_lists_follow_from_the_seed_whatever_the_threads():
    vectors = clusters(2000, 16)
    made = {
        (seed, threads): faiss.serialize_index(list_index(vectors, ListConfig(seed=seed), threads=threads)).tobytes()
        for seed, threads in itertools.product((0, 1), (1, 2))
    }
    assert made[0, 1] == made[0, 2] != made[1, 1]


def test_rows_that_are_no_unit_vectors_are_dropped_with_their_reason(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    good = np.eye(3, dtype=np.float16)
    flawed = {"not_finite": np.full(3, np.inf, np.float16), "zero": good[0] * 0, "not_unit": good[0] * np.float16(1.1)}
    pictures = by_id([corpus_image(i, row, good[0]) for i, row in enumerate([*flawed.values(), *good])])
    report = _build(store, commit_corpus(store, pictures, shard_size=4))
    assert (report.num_in, report.num_out) == (6, 3)
    lost = store.read_dropped(report).to_pylist()
    assert {row["sample_id"]: row["reason"] for row in lost} == dict(zip(pictures, flawed, strict=False))


def test_a_corpus_without_one_usable_row_is_an_error_and_not_an_empty_index(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    reports = commit_corpus(store, by_id([corpus_image(0, np.zeros(3, np.float16))]), shard_size=1)
    with pytest.raises(EmptyIndexError, match="none of 1 images in 1 shards"):
        _build(store, reports)
    with pytest.raises(EmptyIndexError, match="in 0 shards"):
        _build(store, Reports(embeds=[], downloads=[], captions=[]))


def test_shards_that_do_not_fit_together_are_refused(tmp_path: Path):
    store, other = ShardStore.at(tmp_path / "a"), ShardStore.at(tmp_path / "a")
    reports = _corpus(store, size=20, cut=10)
    twice = replace(reports, embeds=[*reports.embeds, reports.embeds[0]])
    with pytest.raises(EmbedTableError, match="is in two shards"):
        _build(store, twice)
    with pytest.raises(CorpusError, match="in no table of the download stage"):
        _build(store, replace(reports, downloads=reports.downloads[:1]))
    with pytest.raises(CorpusError, match="in no table of the caption stage"):
        _build(store, replace(reports, captions=[]))
    wide = commit_corpus(other, by_id([corpus_image(99, np.eye(5, dtype=np.float16)[0])]), shard_size=1)
    with pytest.raises(EmbedTableError, match="differ in the sizes"):
        _build(store, replace(reports, embeds=[reports.embeds[1], wide.embeds[0]]))


def test_a_damaged_or_swapped_file_is_noticed_before_it_is_used(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    built = _build(store, _corpus(store))
    for suffix in ("faiss", "vectors.npy", "facts.npy", "means.npy", "layouts.npy"):
        path = Path(store.files.address(built.path(suffix)))
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DamagedFileError, match=suffix), open_index(built, store, CPU):
            pass
        path.write_bytes(whole)
    Path(store.files.address(built.path("faiss"))).unlink()
    with pytest.raises(MissingFileError), open_index(built, store, CPU):
        pass


def test_an_index_whose_ids_are_fewer_than_its_vectors_is_refused(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    many, few = _build(store, _corpus(store)), _build(store, _corpus(store, size=30, cut=30, seed=5))
    # A store whose report names the files of two indexes: whole files, wrong company.
    mixed = replace(few, files=dict(few.files) | {"faiss": many.files["faiss"]}, fingerprint=few.fingerprint)
    path = Path(store.files.address(mixed.path("faiss")))
    path.write_bytes(Path(store.files.address(many.path("faiss"))).read_bytes())
    with (
        pytest.raises(IndexMismatchError, match=r"different numbers of images.*'faiss': 120"),
        open_index(mixed, store, CPU),
    ):
        pass


def test_means_of_the_modalities_are_those_of_all_rows(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    images, texts = clusters(40, 6), clusters(40, 6, seed=9)
    pictures = by_id([corpus_image(i, images[i], texts[i]) for i in range(40)])
    with open_index(_build(store, commit_corpus(store, pictures, shard_size=9)), store, CPU) as index:
        assert np.allclose(index.means.image, images.astype(np.float64).mean(axis=0), rtol=0, atol=1e-15)
        assert np.allclose(index.means.text, texts.astype(np.float64).mean(axis=0), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://a.example/x.jpg", "https://www.A.example:443/x.jpg#top", True),
        ("http://a.example:80/x.jpg", "http://a.example/x.jpg", True),
        ("http://a.example", "http://a.example/", True),
        ("http://a.example/x.jpg?id=1", "http://a.example/x.jpg?id=2", False),
        ("http://a.example/x.jpg", "http://a.example/X.jpg", False),
        ("http://a.example:8080/x.jpg", "http://a.example/x.jpg", False),
        ("http://[broken", "http://[broken", True),
        ("http://[broken", "http://[other", False),
    ],
)
def test_addresses_of_one_picture_share_a_key(one: str, other: str, same: bool):
    assert (url_key(one) == url_key(other)) is same


def test_keys_of_nothing_never_count_as_equal():
    assert content_key(None) == content_key("md5") == caption_key(" . ") == 0
    assert content_key("0f" * 32) == 0x0F0F0F0F0F0F0F0F
    assert caption_key("A red  bus.") == caption_key("a red bus") != caption_key("a blue bus")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IndexConfig(exact_max_rows=0), "IndexConfig.exact_max_rows is 0"),
        (lambda: ListConfig(nprobe=8, max_nprobe=4), "max_nprobe 4 is below nprobe 8"),
        (lambda: ListConfig(seed=-1), "ListConfig.seed is -1"),
        (lambda: RecallConfig(least=1.5), "RecallConfig.least is 1.5"),
        (lambda: RecallConfig(text_weights=()), "at least 1 item"),
        (lambda: SearchSettings(threads=-1), "SearchSettings.threads is -1"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make: Callable[[], object], message: str):
    with pytest.raises(ConfigError, match=message):
        make()


def test_importing_the_stages_loads_neither_faiss_nor_torch():
    heavy = "{'faiss', 'torch', 'pyarrow', 'prefect'}"
    code = f"import sys, tasks.index.stage, tasks.retrieve.stage; print({heavy} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"
