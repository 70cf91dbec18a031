"""What a run is, as JSON: settings, deviations from the paper, data, models, code; and whether two runs are one."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version as package_version
from typing import Any, Final

from iedit_model.training.config import deviations
from storage import VersionInfo, canonical_json, digest_of
from tasks.train.encoding_cache import VERSION as ENCODINGS_VERSION
from tasks.train.errors import RunFolderError
from tasks.train.networks import Networks
from tasks.train.run_config import TrainRunConfig, as_json
from tasks.train.run_folder import RunFolder

MANIFEST_NAME: Final = "run.json"
_FORMAT: Final = 2
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
    pairs = (*sorted(networks.identities.items()), *sorted(code_versions(config).items()))
    return digest_of(str(_FORMAT), canonical_json((*content, pairs)))


def code_versions(config: TrainRunConfig) -> dict[str, int]:
    """Return the declared versions of the code that decides a run's weights: the stage, the step, the used terms."""
    from iedit_model.training import train_step
    from iedit_model.training.terms import term_versions

    terms = {f"term {name}": version for name, version in term_versions(config.train.loss).items()}
    return {"train": VERSION, "encodings": ENCODINGS_VERSION, "train_step": train_step.VERSION} | terms


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
        "fingerprint": run_fingerprint(config, info, networks),
        "version": info.id,
        "num_samples": len(sample_ids),
        "samples_digest": digest_of(*sample_ids),
        "left_out": dict(left_out),
        "config": as_json(config),
        "deviations": deviations(config.train),
        "models": networks.identities,
        "device": networks.device.type,
        "packages": {name: package_version(name) for name in _PACKAGES},
        "code_versions": code_versions(config),
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
    if held.get("fingerprint") != manifest["fingerprint"]:
        raise RunFolderError(
            f"{folder.path} holds another run: other settings, data, models, device or code than now; take another "
            f"folder, or compare them with its {MANIFEST_NAME}"
        )
    return held
