"""What a run is, as JSON: settings, deviations from the paper, data, models, code; and whether two runs are one."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version as package_version
from typing import Any, Final

from iedit_model.training.config import deviations, paper
from storage import VersionInfo, canonical_json, canonical_value, digest_of
from tasks.train.encoding_cache import VERSION as ENCODINGS_VERSION
from tasks.train.errors import RunFolderError
from tasks.train.networks import Networks
from tasks.train.run_config import CacheConfig, ComputeConfig, LoopConfig, RowsConfig, TrainRunConfig, as_json
from tasks.train.run_folder import RunFolder

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
    pairs = (*sorted(networks.identities.items()), *sorted(code_versions(config).items()))
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
