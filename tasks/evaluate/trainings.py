"""What the evaluated weights were trained on, in a line, read from the manifest of the run that they lie in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from iedit_model.models.source import ModelSource
from tasks.errors import RunFolderError
from tasks.evaluate.plan import Checkpoints
from tasks.train.run_folder import MANIFEST_NAME, RunFolder

_UNKNOWN: Final = "weights without a record of their training"
_NOISE_LOSSES: Final = {"ldm": "L_LDM", "paired": "L_paired", "mask": "L_mask"}


def training_lines(checkpoints: Checkpoints) -> dict[str, str]:
    """Return training -> what was trained: losses, steps, data; seeds that differ in more than the seed stand apart."""
    found = {}
    for training, weights in checkpoints.items():
        lines: dict[str, list[str]] = {}
        for seed, source in sorted(weights.items()):
            lines.setdefault(_line(source), []).append(str(seed))
        found[training] = "; ".join(
            f"{line} (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})" for line, seeds in lines.items()
        )
    return found


def _line(source: ModelSource) -> str:
    try:
        return _told(RunFolder(Path(source.name).parent.parent).read_json(MANIFEST_NAME) or {})
    except (RunFolderError, KeyError, TypeError, ValueError):  # none, or not one of ours
        return _UNKNOWN


def _told(manifest: Mapping[str, Any]) -> str:
    train = manifest["config"]["train"]
    losses = " + ".join(_losses(train["loss"]))
    prompts = "original captions" if manifest["config"]["rows"]["prompts"] == "caption" else "edit prompts"
    return (
        f"{losses}; layers {train['layers']}, {train['num_steps']:,} steps of "
        f"{train['batch_size'] * train['accumulation']} at {train['learning_rate']:g}, {train['precision']}; "
        f"{prompts}, {manifest['num_samples']:,} pairs of version {manifest['version']:.16}"
    )


def _losses(loss: Mapping[str, Any]) -> list[str]:
    found = []
    if loss["noise_weight"]:
        low, high = loss["t_min"], loss["t_max"]
        limits = [f"t >= {low}"] * bool(low) + [f"t < {high}"] * (high is not None)
        found.append(_NOISE_LOSSES[loss["noise_loss"]] + (f" ({', '.join(limits)})" if limits else ""))
    found += [f"L_{name}" for name in ("global", "loc", "perc") if loss[f"use_{name}"]]
    found += [f"denoising of the {side}" for side in ("target", "source") if loss[f"{side}_denoising_weight"]]
    return found
