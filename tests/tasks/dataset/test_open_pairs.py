"""A version as a webdataset pipeline gives what the store's own reader gives, once, however many read it."""

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from benchmarks.planted_pairs import planted
from storage import SAMPLE_PARTS, Files, ShardStore, VersionInfo, VersionStore
from tasks.dataset.open_pairs import UnknownSplitError, open_pairs
from tasks.images import decode_image
from tasks.pack.packed_sample import read_sample
from tasks.pack.stage import PackConfig

Opened = tuple[VersionStore, VersionInfo]


@pytest.fixture(scope="module", params=["local", "memory"])
def version(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Build a version of several tars in a folder and in a remote store."""
    root = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path_factory.mktemp("a#store"))
    store = ShardStore(Files(root))
    info = planted(30).build(store, PackConfig(samples_per_tar=3))
    return VersionStore(store.files), info


def _rows(opened: Opened, split: str = "train") -> dict[str, Mapping[str, Any]]:
    versions, info = opened
    return {row["sample_id"]: row for row in versions.manifest(info, where=f"split == {split!r}").to_pylist()}


def _ids(pairs: Any) -> list[str]:
    return [pair["__key__"] for pair in pairs]


def _read(row: Mapping[str, Any], files: Files) -> Iterator[tuple[str, Any]]:
    for part, data in read_sample(files, row).items():
        if part == "json":
            yield part, json.loads(data)
        else:
            image = decode_image(data)
            yield part, np.asarray(image.convert("L") if part.endswith("mask") else image)


def test_every_pair_is_what_the_stores_own_reader_gives(version: Opened):
    versions, info = version
    rows = _rows(version)
    pairs = list(open_pairs(info.id, root=versions.files.root))
    assert _ids(pairs) == sorted(rows, key=lambda name: (rows[name]["tar"], rows[name]["tar_offset"]))
    for pair in pairs:
        truth = dict(_read(rows[pair["__key__"]], versions.files))
        assert set(pair) == {"__key__", *SAMPLE_PARTS}
        assert pair["json"] == truth["json"]
        for part in SAMPLE_PARTS[:-1]:
            np.testing.assert_array_equal(pair[part], truth[part])
        assert (pair["source"].ndim, pair["source_mask"].ndim, pair["source"].dtype) == (3, 2, np.uint8)


def test_two_ranks_of_two_workers_see_every_pair_exactly_once(version: Opened, monkeypatch: pytest.MonkeyPatch):
    versions, info = version
    assert len({row["tar"] for row in _rows(version).values()}) >= 4
    seen: dict[tuple[str, int], list[str]] = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        pairs = open_pairs(info.id, root=versions.files.root, shuffle=5, seed=1).map(_with_worker)
        for batch in _from_two_workers(pairs, monkeypatch, is_local=versions.files.is_local):
            seen.setdefault((rank, batch["worker"]), []).append(batch["key"])
    assert set(seen) == {(rank, worker) for rank in ("0", "1") for worker in (0, 1)}
    assert sorted(name for names in seen.values() for name in names) == sorted(_rows(version))


def _from_two_workers(pairs: Any, monkeypatch: pytest.MonkeyPatch, *, is_local: bool) -> Iterator[dict[str, Any]]:
    if is_local:
        # Not forked: a fork of this process would inherit the threads that earlier tests left in it.
        yield from DataLoader(pairs, batch_size=None, num_workers=2, multiprocessing_context="spawn")
        return
    # Memory is this process's own; webdataset takes the worker from the environment as well.
    monkeypatch.setenv("NUM_WORKERS", "2")
    for worker in ("0", "1"):
        monkeypatch.setenv("WORKER", worker)
        yield from pairs
    monkeypatch.delenv("WORKER")
    monkeypatch.delenv("NUM_WORKERS")


def _with_worker(pair: Mapping[str, Any]) -> dict[str, Any]:
    from torch.utils.data import get_worker_info

    worker = get_worker_info()
    return {"key": pair["__key__"], "worker": int(os.environ.get("WORKER", "-1")) if worker is None else worker.id}


def test_the_seed_decides_the_order_and_each_pass_has_its_own(version: Opened):
    versions, info = version
    root = versions.files.root
    pairs = open_pairs(info.id, root=root, shuffle=100, seed=1)
    first, second = _ids(pairs), _ids(pairs)
    assert first == _ids(open_pairs(info.id, root=root, shuffle=100, seed=1))
    orders = [first, second, _ids(open_pairs(info.id, root=root, shuffle=100, seed=2)), sorted(first)]
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_what_a_sub_version_left_out_is_not_read_from_its_tars(version: Opened):
    versions, info = version
    kept = sorted(_rows(version))[::2]
    sub = versions.subset(info.id, sample_ids=kept)
    assert sorted(_ids(open_pairs(sub.id, root=versions.files.root))) == kept


def test_a_pipeline_can_be_sent_to_a_worker_that_was_not_forked(version: Opened):
    versions, info = version
    pairs = open_pairs(info.id, root=versions.files.root, shuffle=100, seed=3)
    here, there = Pipe()
    here.send(pairs)
    assert _ids(there.recv()) == _ids(pairs)


def test_the_example_of_the_documentation_runs(version: Opened):
    versions, info = version
    pairs = open_pairs(
        info.id, "train", root=Path(versions.files.root) if versions.files.is_local else versions.files.root
    )
    words = pairs.map(lambda pair: (pair["source"], pair["target_mask"], pair["json"]["edit_prompt"]))
    [source, mask, prompt] = next(iter(DataLoader(words, batch_size=2)))
    assert source.shape[0] == mask.shape[0] == len(prompt) == 2


def test_a_split_that_is_not_there_is_named(version: Opened):
    versions, info = version
    with pytest.raises(UnknownSplitError, match=r"no samples in the split 'trian'; it has .*train"):
        open_pairs(info.id, "trian", root=versions.files.root)
