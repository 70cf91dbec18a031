import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iedit_model.errors import ConfigError
from storage import ShardReport, ShardStore
from tasks.embed.vectors import QueryConfig
from tasks.index.stage import IndexConfig, build_index
from tasks.index.vector_index import IndexMismatchError, SearchSettings, open_index
from tasks.retrieve.candidates import ExclusionConfig
from tasks.retrieve.gates import GateConfig
from tasks.retrieve.pair_scores import MissingScoreError, RerankConfig
from tasks.retrieve.stage import RetrieveConfig, retrieval, retrieve_shard
from tests.builders.planted_corpus import Reports, by_id, clusters, commit_corpus, corpus_image, half
from tests.references.brute_force import CorpusImage, Rules, retrieve

CPU = SearchSettings(gpu="never", threads=1)
NO_EXCLUSION = ExclusionConfig(max_image_similarity=None, max_phash_distance=None)
REASONS_WITHOUT_ROW = {"no_edit_prompt", "no_query", "not_finite", "zero", "not_unit"}


def _run(
    store: ShardStore, reports: Reports, config: RetrieveConfig, index: IndexConfig | None = None
) -> list[ShardReport]:
    index_config = index or IndexConfig(search=CPU)
    built = build_index(
        reports.embeds, downloads=reports.downloads, captions=reports.captions, config=index_config, store=store
    )
    with open_index(built, store, CPU) as opened:
        return [retrieve_shard(embeds, config, store, opened) for embeds in reports.embeds]


def _rows(store: ShardStore, reports: list[ShardReport]) -> dict[str, dict]:
    return {row["sample_id"]: row for report in reports for row in store.read_table(report).to_pylist()}


def _retrieved(
    root: Path, pictures: Mapping[str, CorpusImage], config: RetrieveConfig, *, shard_size: int = 1000
) -> dict[str, dict]:
    store = ShardStore.at(root)
    reports = commit_corpus(store, pictures, shard_size=shard_size)
    return _rows(store, _run(store, reports, config))


def _rules(config: RetrieveConfig) -> Rules:
    return Rules(
        text_weight=config.query.text_weight,
        centred=config.query.centred,
        top_k=config.top_k,
        max_image=config.exclude.max_image_similarity,
        max_bits=config.exclude.max_phash_distance,
        bits_from_image=config.exclude.phash_min_image_similarity,
        same_caption=config.exclude.same_caption,
        weights=dataclasses.asdict(config.rerank),
        gates=dataclasses.asdict(config.gates),
    )


def _small_corpus(seed: int, size: int, dim: int) -> dict[str, CorpusImage]:
    """Pictures drawn from few vectors, captions, hashes and addresses, so that ties and copies abound."""
    rng = np.random.default_rng(seed)
    pool = half(rng.normal(size=(max(2, size // 2), dim)))
    pool = np.concatenate([pool, half(pool + 0.05 * rng.normal(size=pool.shape)), np.eye(dim, dtype=np.float16)])
    flawed = {0: np.zeros(dim), 1: np.full(dim, np.nan), 2: np.full(dim, 3.0)}

    def vector(*, may_fail: bool) -> list[float]:
        kind = rng.integers(60) if may_fail else 99
        return flawed.get(int(kind), pool[rng.integers(len(pool))]).tolist()

    schemes = ("http://", "https://", "https://www.")
    return by_id(
        [
            CorpusImage(
                url=f"{schemes[rng.integers(3)]}a.example/{rng.integers(size)}.jpg#{number}",
                image=vector(may_fail=True),
                text=vector(may_fail=True),
                caption_text=vector(may_fail=False),
                layout=pool[rng.integers(len(pool))].tolist(),
                caption=("a bus", "A bus.", "a cat", "a  dog")[rng.integers(4)],
                sha256=hashlib.sha256(bytes([rng.integers(2 * size)])).hexdigest(),
                phash=None if rng.integers(4) == 0 else int(rng.integers(-8, 8)),
            )
            for number in range(size)
        ]
    )


_COSINES = st.floats(-0.9, 0.9)
_CONFIGS = st.builds(
    RetrieveConfig,
    query=st.builds(QueryConfig, text_weight=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]), centred=st.booleans()),
    top_k=st.integers(1, 6),
    margin=st.integers(0, 5),
    batch_size=st.integers(1, 9),
    exclude=st.builds(
        ExclusionConfig,
        max_image_similarity=st.none() | st.floats(0.2, 1.0),
        max_phash_distance=st.none() | st.integers(0, 3),
        phash_min_image_similarity=st.floats(-1, 1),
        same_caption=st.booleans(),
    ),
    rerank=st.builds(
        RerankConfig, similarity=st.just(1.0), directional=st.sampled_from([0.0, 0.7]), layout=st.sampled_from([0, 2.0])
    ),
    gates=st.builds(
        GateConfig,
        source_text_min=st.none() | _COSINES,
        target_text_min=st.none() | _COSINES,
        image_min=st.none() | st.floats(-0.9, 0.0),
        image_max=st.none() | st.floats(0.1, 0.9),
        directional_min=st.none() | _COSINES,
    ),
)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), size=st.integers(2, 24), dim=st.integers(2, 5), cut=st.integers(1, 24), config=_CONFIGS
)
def test_any_shard_size_gives_what_brute_force_gives(seed: int, size: int, dim: int, cut: int, config: RetrieveConfig):
    pictures = _small_corpus(seed, size, dim)
    expected = retrieve(pictures, _rules(config))
    if not any(np.isfinite(row.image).all() and abs(np.linalg.norm(row.image) - 1) < 0.01 for row in pictures.values()):
        return
    with tempfile.TemporaryDirectory() as folder:
        store = ShardStore.at(folder)
        reports = _run(store, commit_corpus(store, pictures, shard_size=cut), config)
        rows = _rows(store, reports)
        lost = {row["sample_id"]: row["reason"] for report in reports for row in store.read_dropped(report).to_pylist()}
    assert rows.keys() == expected.keys()
    for name, found in expected.items():
        row = rows[name]
        assert list(zip(row["candidate_ids"], row["candidate_reasons"], strict=True)) == found.candidates
        assert row["target_id"] == found.target
        for key, column in (
            ("similarity", "similarity"),
            ("target_text", "target_text_similarity"),
            ("image", "image_similarity"),
            ("directional", "directional_similarity"),
            ("layout", "layout_similarity"),
        ):
            assert row[column] == (None if found.target is None else pytest.approx(found.scores[key], abs=2e-7))
    assert {name for name, reason in lost.items() if reason not in REASONS_WITHOUT_ROW} == {
        name for name, found in expected.items() if found.target is None
    }
    assert {name for name, reason in lost.items() if reason in REASONS_WITHOUT_ROW} == pictures.keys() - expected.keys()


def test_planted_neighbours_are_found(tmp_path: Path):
    images = clusters(60, 16, spread=0.9)
    # The edit prompt of each picture is the image of the next one: with text alone that must be its target.
    pictures = by_id([corpus_image(i, images[i], images[(i + 1) % 60]) for i in range(60)])
    names = list(pictures)
    rows = _retrieved(
        tmp_path, pictures, RetrieveConfig(query=QueryConfig(text_weight=1.0), exclude=NO_EXCLUSION), shard_size=7
    )
    assert {name: rows[name]["target_id"] for name in names} == dict(zip(names, [*names[1:], names[0]], strict=True))
    assert all(row["similarity"] == pytest.approx(1, abs=1e-6) and row["rank"] == 0 for row in rows.values())


def test_of_equal_candidates_the_smallest_id_wins_and_no_more_than_top_k_are_kept(tmp_path: Path):
    source, same = np.array([1, 0, 0, 0], np.float16), np.array([0, 1, 0, 0], np.float16)
    pictures = by_id([corpus_image(0, source, same), *(corpus_image(i, same, source) for i in range(1, 200))])
    first = next(iter(pictures))
    # 199 copies tie at the top, far more than are fetched at first.
    rows = _retrieved(tmp_path, pictures, RetrieveConfig(top_k=5, margin=1, exclude=NO_EXCLUSION), shard_size=50)
    assert rows[first]["candidate_ids"] == sorted(set(pictures) - {first})[:5]


def test_candidates_that_differ_only_by_rounding_are_ordered_by_id(tmp_path: Path):
    rng = np.random.default_rng(0)
    even, other = half(np.ones(48)), half(rng.normal(size=48))
    # Permutations of one vector have the same product with an even one, but float32 sums them to different last bits.
    pictures = by_id([corpus_image(0, even), *(corpus_image(i, rng.permutation(other)) for i in range(1, 150))])
    first = next(iter(pictures))
    rows = _retrieved(tmp_path, pictures, RetrieveConfig(top_k=5, margin=1, exclude=NO_EXCLUSION))
    assert rows[first]["candidate_ids"] == sorted(set(pictures) - {first})[:5]


def test_more_neighbours_than_the_corpus_has_are_not_invented(tmp_path: Path):
    images = np.eye(4, dtype=np.float16)[:3]
    pictures = by_id([corpus_image(i, image) for i, image in enumerate(images)])
    rows = _retrieved(tmp_path, pictures, RetrieveConfig(top_k=20))
    assert {name: sorted(row["candidate_ids"]) for name, row in rows.items()} == {
        name: sorted(set(pictures) - {name}) for name in pictures
    }


def test_a_corpus_of_one_image_has_no_candidates(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    reports = commit_corpus(store, by_id([corpus_image(0, np.array([1, 0], np.float16))]), shard_size=1)
    [report] = _run(store, reports, RetrieveConfig())
    assert (report.num_in, report.num_out, report.dropped) == (1, 0, {"no_candidates": 1})
    assert store.read_table(report)["candidate_ids"].to_pylist() == [[]]


def test_copies_of_the_source_are_excluded_with_their_reason(tmp_path: Path):
    axes = np.eye(8, dtype=np.float16)
    near = half(axes[0] + 0.02 * axes[1])
    base = replace(corpus_image(0, axes[0]), url="http://a.example/x.jpg", caption="a red bus")
    others = {
        "same_url": replace(corpus_image(1, axes[1]), url="https://www.a.example/x.jpg#top"),
        "same_hash": replace(corpus_image(2, axes[2]), sha256=base.sha256),
        "near_duplicate": corpus_image(3, near),
        "same_caption": replace(corpus_image(4, axes[4]), caption="A red  bus."),
        "": corpus_image(5, axes[5]),
    }
    pictures = by_id([base, *others.values()])
    source, *names = pictures
    config = RetrieveConfig(query=QueryConfig(text_weight=0), exclude=ExclusionConfig(same_caption=True))
    row = _retrieved(tmp_path, pictures, config)[source]
    found = dict(zip(row["candidate_ids"], row["candidate_reasons"], strict=True))
    assert found == dict(zip(names, others, strict=True))
    assert row["candidate_ids"][0] == row["target_id"] == names[4]


def test_a_source_whose_every_candidate_is_a_copy_is_dropped_and_says_so(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    pictures = by_id([corpus_image(i, np.array([1, 0, 0], np.float16)) for i in range(30)])
    [report] = _run(store, commit_corpus(store, pictures, shard_size=30), RetrieveConfig(top_k=4, margin=0))
    assert report.dropped == {"all_excluded": 30}
    assert store.read_dropped(report)["detail"].unique().to_pylist() == ["near_duplicate 4"]


def test_a_perceptual_hash_alone_does_not_exclude_a_recoloured_picture(tmp_path: Path):
    red, blue = np.array([1, 0, 0], np.float16), np.array([0, 1, 0], np.float16)
    pictures = by_id([replace(corpus_image(0, red), phash=5), replace(corpus_image(1, blue), phash=4)])
    first, second = pictures
    assert _retrieved(tmp_path / "a", pictures, RetrieveConfig())[first]["target_id"] == second
    strict = RetrieveConfig(exclude=ExclusionConfig(phash_min_image_similarity=-1))
    assert _retrieved(tmp_path / "b", pictures, strict)[first]["candidate_reasons"] == ["near_duplicate"]


def test_bytes_do_not_depend_on_shards_batches_threads_or_the_order_of_reports(tmp_path: Path):
    images, texts = clusters(300, 12, seed=1), clusters(300, 12, seed=2)
    pictures = by_id([corpus_image(i, images[i], texts[i]) for i in range(300)])
    config = replace(retrieval("ours"), top_k=8, rerank=RerankConfig(directional=0.5, layout=0.5))
    lists = IndexConfig(exact_max_rows=10, search=CPU)
    rows = []
    for number, (shard_size, batch_size, threads) in enumerate(((300, 1024, 1), (37, 5, 2), (1000, 1, 1))):
        store = ShardStore.at(tmp_path / str(number))
        shuffled = list(pictures)
        np.random.default_rng(number).shuffle(shuffled)
        reports = commit_corpus(store, pictures, shard_size=shard_size, order=shuffled)
        built = build_index(
            reports.embeds[::-1],
            downloads=reports.downloads,
            captions=reports.captions[::-1],
            config=lists,
            store=store,
        )
        settings_ = SearchSettings(gpu="never", threads=threads, max_ram_bytes=0 if number == 1 else 1 << 30)
        with open_index(built, store, settings_) as index:
            done = [
                retrieve_shard(part, replace(config, batch_size=batch_size), store, index) for part in reports.embeds
            ]
        rows.append(_rows(store, done))
    assert rows[0] == rows[1] == rows[2]
    assert len(rows[0]) == 300


def test_a_second_run_returns_the_finished_report_and_writes_nothing(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    pictures = by_id([corpus_image(i, image) for i, image in enumerate(clusters(20, 8))])
    reports = commit_corpus(store, pictures, shard_size=20)
    first = _run(store, reports, RetrieveConfig())
    before = store.files.stats()
    assert [report.to_json() for report in _run(store, reports, RetrieveConfig())] == [first[0].to_json()]
    assert store.files.stats() == before
    assert _run(store, reports, RetrieveConfig(top_k=3))[0].fingerprint != first[0].fingerprint


def test_other_gates_choose_other_targets(tmp_path: Path):
    images, texts = clusters(80, 6, seed=3), clusters(80, 6, seed=4)
    pictures = by_id(
        [replace(corpus_image(i, images[i], texts[i]), caption_text=texts[i - 1].tolist()) for i in range(80)]
    )
    gates = [
        GateConfig(),
        GateConfig(image_max=0.8, target_text_min=0.1),
        GateConfig(source_text_min=0.0, image_min=0.2, directional_min=0.05),
    ]
    store = ShardStore.at(tmp_path)
    reports = commit_corpus(store, pictures, shard_size=80)
    tables = [store.read_table(_run(store, reports, RetrieveConfig(gates=gate))[0]) for gate in gates]
    assert len({tuple(table["target_id"].to_pylist()) for table in tables}) == 3


def test_a_shard_of_another_model_is_refused(tmp_path: Path):
    store, other = ShardStore.at(tmp_path / "a"), ShardStore.at(tmp_path / "b")
    numbers = range(10)
    mine = commit_corpus(store, by_id([corpus_image(i, clusters(10, 4)[i]) for i in numbers]), shard_size=10)
    theirs = commit_corpus(other, by_id([corpus_image(i, clusters(10, 4, seed=9)[i]) for i in numbers]), shard_size=10)
    built = build_index(
        mine.embeds, downloads=mine.downloads, captions=mine.captions, config=IndexConfig(search=CPU), store=store
    )
    with open_index(built, store, CPU) as index, pytest.raises(IndexMismatchError, match="build the index from these"):
        retrieve_shard(theirs.embeds[0], RetrieveConfig(), other, index)


def test_scores_that_cannot_be_measured_stay_empty_and_cannot_be_asked_for(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    pictures = by_id([corpus_image(i, image) for i, image in enumerate(clusters(12, 4))])
    reports = commit_corpus(store, pictures, shard_size=12, captions=False, layouts=False)
    [report] = _run(store, reports, RetrieveConfig())
    table = store.read_table(report)
    assert table["directional_similarity"].null_count == table["layout_similarity"].null_count == table.num_rows
    assert table["candidate_layout_similarities"].to_pylist() == [[]] * 12
    for config in (
        RetrieveConfig(rerank=RerankConfig(directional=1)),
        RetrieveConfig(rerank=RerankConfig(layout=1)),
        RetrieveConfig(gates=GateConfig(directional_min=0.1)),
        RetrieveConfig(gates=GateConfig(source_text_min=0.1)),
    ):
        with pytest.raises(MissingScoreError, match=r"caption_embeds|layout_embeds"):
            _run(store, reports, config)


def test_sources_without_a_query_are_dropped_with_their_reason(tmp_path: Path):
    axes = np.eye(3, dtype=np.float16)
    images = {"no_edit_prompt": axes[0], "no_query": axes[0], "zero": 0 * axes[0], "not_unit": 2 * axes[1]}
    texts = {"no_edit_prompt": 0 * axes[0], "no_query": -axes[0], "zero": axes[1], "not_unit": axes[1]}
    flawed = [corpus_image(i, images[name], texts[name]) for i, name in enumerate(images)]
    store = ShardStore.at(tmp_path)
    pictures = by_id([*flawed, corpus_image(9, axes[2], np.full(3, np.nan, np.float16)), corpus_image(10, axes[2])])
    [report] = _run(store, commit_corpus(store, pictures, shard_size=99), RetrieveConfig(exclude=NO_EXCLUSION))
    lost = {row["sample_id"]: row["reason"] for row in store.read_dropped(report).to_pylist()}
    assert lost == dict(zip(pictures, [*images, "not_finite"], strict=False))
    assert (report.num_in, report.num_out) == (6, 1)
    # An image without a prompt, or with a broken one, can still be a target; a broken image cannot.
    [row] = store.read_table(report).to_pylist()
    assert set(row["candidate_ids"]) == {list(pictures)[place] for place in (0, 1, 4)}


def test_the_two_modes_differ_as_documented():
    paper, ours = retrieval("paper"), retrieval("ours")
    assert (paper.query.text_weight, paper.exclude.same_caption, paper.gates) == (0.5, False, GateConfig())
    assert paper.rerank == RerankConfig(similarity=1.0, target_text=0.0, image=0.0, directional=0.0, layout=0.0)
    assert ours.query.text_weight > paper.query.text_weight
    assert ours.exclude.same_caption
    assert ours.gates == GateConfig()  # a threshold holds for one CLIP alone and stands in its profile
    assert (ours.rerank.similarity, ours.rerank.directional, ours.rerank.layout) == (1.0, 2.0, 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RetrieveConfig(top_k=0), r"RetrieveConfig\.top_k is 0"),
        (lambda: RetrieveConfig(margin=-1), r"RetrieveConfig\.margin is -1"),
        (lambda: RetrieveConfig(batch_size=0), r"RetrieveConfig\.batch_size is 0"),
        (lambda: ExclusionConfig(max_phash_distance=65), r"ExclusionConfig\.max_phash_distance is 65"),
        (lambda: ExclusionConfig(max_image_similarity=1.1), r"ExclusionConfig\.max_image_similarity is 1\.1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make: Callable[[], object], message: str):
    with pytest.raises(ConfigError, match=message):
        make()
