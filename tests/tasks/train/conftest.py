"""One small version and one tiny pipeline for all tests of the training."""

from pathlib import Path

import pytest

from benchmarks.true_pair_version import build_version, true_pairs
from storage import ShardStore, VersionInfo
from tests.builders.tiny_pipeline import write_tiny_pipeline


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pipeline(tmp_path_factory.mktemp("pipeline") / "tiny")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return ShardStore.at(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def version(store: ShardStore) -> VersionInfo:
    return build_version(store, true_pairs(7))
