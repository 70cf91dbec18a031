"""The folder of a run: one process at a time, a manifest, and checkpoints that are whole or not there.

``run.json`` says what the run is (settings, deviations from the paper, data, models, code), ``log.parquet`` what
happened, ``checkpoints/step_00000500`` is a diffusers pipeline folder with the state of the training in its subfolder
``training``, and ``checkpoints/latest`` is a link to the newest.
"""

import fcntl
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iedit_model.models.source import PICKLES
from iedit_model.training.config import deviations, paper
from storage import VersionInfo, canonical_json, canonical_value, digest_of
from storage.atomic import disk_errors, publish, replace_bytes, replace_file
from tasks.errors import RunFolderError
from tasks.train.encoding_cache import VERSION as ENCODINGS_VERSION
from tasks.train.networks import Networks
from tasks.train.run_config import CacheConfig, ComputeConfig, LoopConfig, RowsConfig, TrainRunConfig, as_json

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


_STATE: Final = "training/state.safetensors"
_PROGRESS: Final = "training/progress.json"
_PARTIAL: Final = ".partial"
_LATEST: Final = "latest"
_MAX_JSON_BYTES: Final = 64 << 20


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """The state of a training after ``step`` optimiser steps."""

    step: int
    tensors: "Mapping[str, Tensor]"
    scaler: Mapping[str, float]
    lambda_perc: float | None
    seconds: float
    """Wall time of all steps so far, over all processes that took them."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def log_path(self) -> Path:
        """The parquet log."""
        return self.path / "log.parquet"

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out, and clear away what a killed one left half written.

        Raises:
            RunFolderError: another process is training here.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunFolderError(
                    f"another process is training in {self.path}; wait for it or take another folder"
                ) from error
            for leftover in self.checkpoints.glob(f".*{_PARTIAL}"):
                shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink()
            yield

    def write_json(self, name: str, content: object) -> None:
        """Write a JSON file atomically."""
        replace_bytes(self.path / name, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())

    def write_image(self, name: str, image: "Image") -> None:
        """Write a PNG atomically."""
        stream = io.BytesIO()
        image.save(stream, "PNG", optimize=True)
        replace_bytes(self.path / name, stream.getvalue())

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a JSON object, None when there is no such file.

        Raises:
            RunFolderError: the file holds something else.
        """
        return _read_json(self.path / name) if (self.path / name).is_file() else None

    def saved_steps(self) -> list[int]:
        """Return after how many steps there are whole checkpoints, ascending."""
        found = (path for path in self.checkpoints.glob("step_*") if (path / _PROGRESS).is_file())
        return sorted(int(path.name.removeprefix("step_")) for path in found if path.name[5:].isdigit())

    def checkpoint(self, step: int) -> Path:
        """Return where the checkpoint after ``step`` steps lies."""
        return self.checkpoints / f"step_{step:08d}"

    def latest(self) -> Path | None:
        """Return the newest checkpoint, None before the first."""
        steps = self.saved_steps()
        return self.checkpoint(steps[-1]) if steps else None

    def save(self, state: SavedState, write_pipeline: Callable[[Path], None], *, keep_last: int) -> Path:
        """Write a checkpoint, point ``latest`` at it and remove all but the newest ones.

        Args:
            state: what an exact resume needs.
            write_pipeline: writes the diffusers folder into the folder that it is given.
            keep_last: checkpoints that stay.

        Raises:
            DiskFullError: no room; the earlier checkpoints are intact.
        """
        from safetensors.torch import save_file

        final = self.checkpoint(state.step)
        partial = final.with_name(f".{final.name}.{secrets.token_hex(4)}{_PARTIAL}")
        try:
            with disk_errors(final):
                (partial / "training").mkdir(parents=True)
                write_pipeline(partial)
                tensors = {name: tensor.contiguous().cpu() for name, tensor in state.tensors.items()}
                save_file(tensors, partial / _STATE)
                progress = {
                    "step": state.step,
                    "scaler": dict(state.scaler),
                    "lambda_perc": state.lambda_perc,
                    "seconds": state.seconds,
                }
                (partial / _PROGRESS).write_text(json.dumps(progress))
                _sync_tree(partial)
                if final.exists():  # of a run that was resumed from before it
                    shutil.rmtree(final)
                publish(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._point_at(final)
        for step in self.saved_steps()[:-keep_last]:
            shutil.rmtree(self.checkpoint(step))
        return final

    def load(self, step: int) -> SavedState:
        """Return the state of a checkpoint.

        Raises:
            RunFolderError: it is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = self.checkpoint(step)
        progress = _read_json(folder / _PROGRESS)
        try:
            return SavedState(
                step=int(progress["step"]),
                tensors=load_file(folder / _STATE),
                scaler=dict(progress["scaler"]),
                lambda_perc=None if progress["lambda_perc"] is None else float(progress["lambda_perc"]),
                seconds=float(progress["seconds"]),
            )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise RunFolderError(
                f"the checkpoint {folder} is damaged ({error}); remove its folder to go on from the one before"
            ) from error

    def _point_at(self, checkpoint: Path) -> None:
        link = self.checkpoints / f".{_LATEST}.{secrets.token_hex(4)}{_PARTIAL}"
        link.symlink_to(checkpoint.name, target_is_directory=True)
        link.replace(self.checkpoints / _LATEST)


def copy_once(source: Path, kept: Path, target: Path) -> None:
    """Make ``target`` a copy of the folder ``source``; the bytes lie once in ``kept``, all copies are links to them.

    What never changes in a run (VAE, text encoder) is on the disk once, however many checkpoints there are.
    """
    for path in sorted(source.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
        if not path.is_file() or hidden or path.suffix in PICKLES:
            continue
        ours, place = kept / path.relative_to(source), target / path.relative_to(source)
        if not ours.is_file():
            ours.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, ours)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(ours, place)
        except OSError:  # a file system without hard links
            shutil.copyfile(ours, place)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise RunFolderError(f"{path} has more than {_MAX_JSON_BYTES} bytes; it is not ours")
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def _sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        with suppress(OSError):  # some file systems cannot sync a folder
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


MANIFEST_NAME: Final = "run.json"
_FORMAT: Final = 2
_PAPER_DEVICES: Final = 2
VERSION: Final = 1
"""Of the loop and the optimiser's side; to be raised when the same configuration gives other weights."""
_PACKAGES: Final = ("iedit", "torch", "diffusers", "transformers", "accelerate", "open_clip_torch")


def run_fingerprint(config: TrainRunConfig, info: VersionInfo, networks: Networks) -> str:
    """Return 64 hex characters over everything that decides a run's weights.

    The number of steps is left out where the rate does not depend on it: such a run may be prolonged.
    """
    train = config.train
    if train.schedule == "constant":
        train = replace(train, num_steps=1)
    content = replace(config, train=train), info.id, networks.device.type
    pairs = (*sorted(networks.weights_digests.items()), *sorted(code_versions(config).items()))
    return digest_of(str(_FORMAT), canonical_json((*content, pairs)))


def code_versions(config: TrainRunConfig) -> dict[str, int]:
    """Return the declared versions of the code that decides a run's weights: the stage, the step, the used terms."""
    from iedit_model.training import train_step
    from iedit_model.training.terms import term_versions

    terms = {f"term {name}": version for name, version in term_versions(config.train.loss).items()}
    return {"train": VERSION, "encodings": ENCODINGS_VERSION, "train_step": train_step.VERSION} | terms


def run_deviations(config: TrainRunConfig, info: VersionInfo, *, num_devices: int) -> list[str]:
    """Return one line for each way in which a run departs from the paper: training, rows, data, devices, precision."""
    lines = deviations(config.train, paper())
    lines += deviations(config.rows, RowsConfig(), at="rows.")
    lines += deviations(config.cache, CacheConfig(), at="cache.")
    lines += deviations(config.loop, LoopConfig(), at="loop.")
    lines += deviations(config.compute, ComputeConfig(), at="compute.")
    lines += data_deviations(info)
    if num_devices != _PAPER_DEVICES:
        lines.append(f"devices = {num_devices} instead of {_PAPER_DEVICES}")
    return lines


def data_deviations(info: VersionInfo) -> list[str]:
    """Return one line for each way in which a dataset version was made or cut otherwise than in Section 3.1."""
    from tasks.mask.stage import MaskGates
    from tasks.retrieve.stage import retrieval

    literal: dict[str, Any] = {
        "swap": {"min_corpus_count": 0, "max_levels": 1, "sense_policy": "first"},
        "retrieve": canonical_value(retrieval("paper")),
        "mask": {"gates": canonical_value(MaskGates())},
    }
    lines = [] if info.where is None else [f"version.where = {info.where!r} instead of None"]
    for stage, expected in literal.items():
        if (record := info.stage(stage)) is not None:
            lines += _differences(record.config, expected, at=f"version.{stage}")
    return lines


def _differences(found: Any, expected: Any, *, at: str) -> list[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        return [
            line
            for name, value in expected.items()
            if name in found
            for line in _differences(found[name], value, at=f"{at}.{name}")
        ]
    return [] if found == expected else [f"{at} = {found!r} instead of {expected!r}"]


def describe_run(
    config: TrainRunConfig,
    info: VersionInfo,
    networks: Networks,
    *,
    sample_ids: tuple[str, ...],
    left_out: Mapping[str, int],
    num_devices: int,
) -> dict[str, Any]:
    """Return the manifest of a run before its first step."""
    return {
        "format": _FORMAT,
        "fingerprint": run_fingerprint(config, info, networks),
        "version": info.id,
        "num_samples": len(sample_ids),
        "samples_digest": digest_of(*sample_ids),
        "left_out": dict(left_out),
        "config": as_json(config),
        "deviations": run_deviations(config, info, num_devices=num_devices),
        "models": networks.weights_digests,
        "device": networks.device.type,
        "packages": {name: package_version(name) for name in _PACKAGES},
        "code_versions": code_versions(config),
    }


def check_same_run(folder: RunFolder, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of the run that was begun in a folder, None for a new folder.

    Another run may take the folder over as long as nothing was learned there, when it diverged at once for example.

    Raises:
        RunFolderError: it is another run, or there are checkpoints without a manifest.
    """
    held = folder.read_json(MANIFEST_NAME)
    if held is None:
        if strangers := [name for name in _OWN_NAMES if os.path.lexists(folder.path / name)]:
            raise RunFolderError(
                f"{folder.path} has {strangers[0]} but no {MANIFEST_NAME}, so that it is no run's; take another folder"
            )
        if folder.saved_steps():
            raise RunFolderError(f"{folder.path} has checkpoints but no {MANIFEST_NAME}; take another folder")
        return None
    if held.get("fingerprint") == manifest["fingerprint"]:
        return held
    if not {"fingerprint", *_DECIDES} <= set(held):
        raise RunFolderError(f"{folder.path / MANIFEST_NAME} is no run's; take another folder")
    if not folder.saved_steps():
        return None
    changed = sorted(_changed(held, manifest, _DECIDES)) or ["the number of steps of its schedule"]
    raise RunFolderError(f"{folder.path} holds another run: {'; '.join(changed)[:600]}; take another folder")


_OWN_NAMES: Final = ("log.parquet", "loss.png", "samples", "tensorboard", "checkpoints/latest")
"""What a run writes beside its manifest, which comes first; elsewhere it is somebody else's."""
_DECIDES: Final = ("version", "config", "models", "device", "code_versions", "format")


def _changed(held: Any, wanted: Any, names: Sequence[str] = (), at: str = "") -> Iterator[str]:
    """Yield each setting in which a run's manifest differs from the wanted one, with both values."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        for name in names or {**held, **wanted}:
            yield from _changed(held.get(name), wanted.get(name), at=f"{at}.{name}")
    elif held != wanted:
        yield f"{at.removeprefix('.config')[1:]} is {str(wanted)[:80]} and was {str(held)[:80]}"
