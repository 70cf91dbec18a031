"""Which training run the scheduled re-evaluation means by a folder."""

import os
from pathlib import Path

import pytest

from flows.config.overrides import checkpoint_source
from flows.errors import SourceError
from flows.evaluate import newest_run


def saved(run: Path, step: int, *, when_s: float) -> Path:
    """Make the folders of a checkpoint and its link, as a training leaves them."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    latest = run / "checkpoints" / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder.name)
    os.utime(folder, (when_s, when_s))
    return folder


def test_of_several_runs_the_one_whose_newest_checkpoint_was_written_last_counts(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    saved(second, 900, when_s=1000.0)
    saved(first, 100, when_s=2000.0)
    assert newest_run(str(tmp_path)) == str(first)
    newest = saved(second, 1000, when_s=3000.0)
    assert newest_run(str(tmp_path)) == str(second)
    assert checkpoint_source(newest_run(str(tmp_path))).name == str(newest)


def test_a_run_and_a_pipeline_folder_mean_themselves(tmp_path):
    checkpoint = saved(tmp_path / "run", 5, when_s=1000.0)
    (checkpoint / "model_index.json").write_text("{}")
    assert newest_run(str(tmp_path / "run")) == str(tmp_path / "run")
    assert newest_run(str(checkpoint)) == str(checkpoint)
    assert checkpoint_source(str(checkpoint)).name == str(checkpoint)


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_a_checkpoint_is_told(name, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)  # a training that was killed before its first checkpoint
    with pytest.raises(SourceError, match=f"there is no checkpoint in {tmp_path / name}: give the folder"):
        newest_run(str(tmp_path / name))
