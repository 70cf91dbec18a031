"""Two processes with half the batch each train what one does with the whole."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from storage import ShardStore, VersionInfo
from tasks.train.run_folder import RunFolder
from tasks.train.stage import train
from tasks.train.train_log import read_log
from tests.builders.one_of_several import shared_run

ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_two_processes_train_what_one_does_with_their_batches_together(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = []
    for rank in ("0", "1"):
        given = (pipeline, store.files.root, version.id, tmp_path / "two")
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.builders.one_of_several", *map(str, given)],
                cwd=ROOT,
                env=os.environ | address | {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    said = [process.communicate(timeout=280)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    # Calibrated in batches of another size, the last digits of lambda differ.
    lambda_perc = (RunFolder(tmp_path / "two").read_json("run.json") or {})["lambda_perc"]
    whole = shared_run(pipeline, batch_size=4)
    loss = dataclasses.replace(whole.train.loss, lambda_perc=lambda_perc)
    train(
        version.id,
        dataclasses.replace(whole, train=dataclasses.replace(whole.train, loss=loss)),
        store,
        tmp_path / "one",
    )
    both = [
        load_file(tmp_path / name / "checkpoints/step_00000003/training/state.safetensors") for name in ("two", "one")
    ]
    assert both[0].keys() == both[1].keys()
    for name, expected in both[1].items():
        torch.testing.assert_close(both[0][name], expected, rtol=1e-4, atol=1e-6, msg=name)
    logs = [read_log(tmp_path / name / "log.parquet").to_pylist() for name in ("two", "one")]
    for first, second in zip(*logs, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
        assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-3)
        assert first["epoch"] == second["epoch"]
