"""The index that a process keeps open: opened once for all shards, and never another one's answers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from storage import MissingFileError, ShardReport, ShardStore
from tasks.embed.vectors import unit_rows
from tasks.index.stage import IndexConfig, build_index
from tasks.index.vector_index import SearchSettings, cached_index, release_index
from tests.builders.planted_corpus import by_id, clusters, commit_corpus, corpus_image, half

CPU = SearchSettings(gpu="never", threads=1)


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    release_index()
    yield
    release_index()


def built(folder: Path, seed: int) -> tuple[ShardStore, ShardReport, np.ndarray]:
    """Return a store with an index over planted pictures, and their embeddings."""
    store, images = ShardStore.at(folder), clusters(60, 8, seed=seed)
    reports = commit_corpus(store, by_id([corpus_image(i, images[i], images[i]) for i in range(60)]), shard_size=60)
    index = build_index(
        reports.embeds,
        downloads=reports.downloads,
        captions=reports.captions,
        config=IndexConfig(search=CPU),
        store=store,
    )
    return store, index, half(images)


def best_scores(store: ShardStore, index: ShardReport, queries: np.ndarray) -> np.ndarray:
    """Return the score of the nearest row of each query, by the index's own vectors."""
    with cached_index(index, store, CPU) as opened:
        nearest = opened.neighbours.search(unit_rows(queries), 1)[:, 0]
        return (unit_rows(queries) * unit_rows(opened.vectors[nearest])).sum(axis=1)


def test_the_same_index_is_opened_once(tmp_path):
    store, index, _ = built(tmp_path, 1)
    with cached_index(index, store, CPU) as first:
        pass
    with cached_index(index, store, CPU) as second:
        assert second is first


def test_another_report_another_store_and_other_settings_are_opened_anew(tmp_path):
    store, index, _ = built(tmp_path / "a", 1)
    other_store, other, _ = built(tmp_path / "b", 2)
    opened = []
    for given in (
        (index, store, CPU),
        (other, other_store, CPU),
        (index, store, SearchSettings(gpu="never", threads=2)),
    ):
        with cached_index(*given) as found:
            opened.append(found)
    assert len({id(found) for found in opened}) == 3


def test_an_index_that_is_searched_while_another_is_opened_still_answers(tmp_path):
    store, index, images = built(tmp_path / "a", 1)
    other_store, other, _ = built(tmp_path / "b", 2)
    with cached_index(index, store, CPU) as opened:
        expected = opened.neighbours.search(unit_rows(images), 3)
        with cached_index(other, other_store, CPU):
            again = opened.neighbours.search(unit_rows(images), 3)
    np.testing.assert_array_equal(again, expected)


def test_threads_that_ask_for_different_indexes_get_their_own(tmp_path):
    ours, theirs = built(tmp_path / "a", 1), built(tmp_path / "b", 2)

    def ask(number: int) -> bool:
        # Each picture's nearest row in its own index is itself.
        return bool(np.allclose(best_scores(*(ours, theirs)[number % 2]), 1, atol=1e-6))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(40)))


def test_an_index_that_cannot_be_opened_leaves_nothing_behind(tmp_path):
    store, index, images = built(tmp_path, 1)
    (tmp_path / index.path(next(iter(index.files)))).rename(tmp_path / "away")
    with pytest.raises(MissingFileError):
        best_scores(store, index, images)
    (tmp_path / "away").rename(tmp_path / index.path(next(iter(index.files))))
    assert best_scores(store, index, images).shape == (60,)
