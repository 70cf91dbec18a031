"""The folder of a run: one process at a time, a manifest, and checkpoints that are whole or not there.

``run.json`` says what the run is, ``log.parquet`` what happened, ``checkpoints/step_00000500`` is a diffusers pipeline
folder with the state of the training in its subfolder ``training``, and ``checkpoints/latest`` is a link to the newest.
"""

import fcntl
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from storage.atomic import disk_errors, publish, replace_bytes, replace_file
from tasks.train.errors import RunFolderError

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
        with (self.path / ".lock").open("w") as lock:
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
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(source).parts):
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
