"""What a run is, as JSON: settings, deviations from the paper, data, models, code; and whether two runs are one."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Final

from iedit_model.training.config import deviations
from storage import VersionInfo, canonical_json, digest_of
from tasks.train.errors import RunFolderError
from tasks.train.networks import Networks
from tasks.train.run_config import TrainRunConfig, as_json
from tasks.train.run_folder import RunFolder

MANIFEST_NAME: Final = "run.json"
_FORMAT: Final = 1
_PACKAGES: Final = ("iedit", "torch", "diffusers", "transformers", "accelerate", "open_clip_torch")


def run_identity(config: TrainRunConfig, info: VersionInfo, networks: Networks) -> str:
    """Return 64 hex characters over everything that decides a run's weights.

    The number of steps is left out where the rate does not depend on it: such a run may be prolonged.
    """
    train = config.train
    if train.schedule == "constant":
        train = replace(train, num_steps=1)
    decisive = canonical_json(replace(config, train=train))
    return digest_of(
        str(_FORMAT), decisive, info.id, *(part for pair in sorted(networks.weights_digests.items()) for part in pair)
    )


def describe_run(
    config: TrainRunConfig,
    info: VersionInfo,
    networks: Networks,
    *,
    sample_ids: tuple[str, ...],
    left_out: Mapping[str, int],
) -> dict[str, Any]:
    """Return the manifest of a run before its first step."""
    return {
        "format": _FORMAT,
        "identity": run_identity(config, info, networks),
        "version": info.id,
        "num_samples": len(sample_ids),
        "samples_digest": digest_of(*sample_ids),
        "left_out": dict(left_out),
        "config": as_json(config),
        "deviations": deviations(config.train),
        "models": networks.weights_digests,
        "device": networks.device.type,
        "packages": {name: package_version(name) for name in _PACKAGES},
        "code": code_digest(),
    }


def check_same_run(folder: RunFolder, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of the run that was begun in a folder, None for a new folder.

    Raises:
        RunFolderError: it is another run, or there are checkpoints without a manifest.
    """
    held = folder.read_json(MANIFEST_NAME)
    if held is None:
        if folder.saved_steps():
            raise RunFolderError(f"{folder.path} has checkpoints but no {MANIFEST_NAME}; take another folder")
        return None
    if held.get("identity") != manifest["identity"]:
        raise RunFolderError(
            f"{folder.path} holds another run: other settings, data or models than now; take another folder, or "
            f"compare them with its {MANIFEST_NAME}"
        )
    return held


def code_digest() -> str:
    """Return 16 hex characters over the sources that decide a step: the model package and the train stage."""
    root = Path(__file__).parents[2]
    hasher = hashlib.sha256()
    for folder in (root / "iedit_model", root / "tasks" / "train"):
        for path in sorted(folder.rglob("*.py")):
            hasher.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return hasher.hexdigest()[:16]
