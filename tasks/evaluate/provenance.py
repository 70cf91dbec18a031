"""Where numbers come from: code, configuration, models, sets, packages and the machine."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from storage import digest_of

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES: Final = (
    *("iedit", "torch", "torchvision", "diffusers", "transformers", "open_clip_torch", "numpy", "pillow", "pyarrow"),
)
_GIT_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What decided the numbers of an evaluation, and what it ran on."""

    created: str
    """When it was finished, ISO 8601 with its zone."""
    commit: str
    """Git commit of the code; empty where there is no repository."""
    is_dirty: bool
    """Whether files differed from that commit."""
    code: str
    """16 hex characters over the declared versions of what decides the numbers."""
    config: str
    """Canonical JSON of the configuration."""
    models: Mapping[str, str]
    """What it is -> identity of the weights."""
    evalsets: Mapping[str, str]
    """Set -> digest of its pairs."""
    packages: Mapping[str, str]
    hardware: Mapping[str, str]
    deviations: Sequence[str] = field(default_factory=list)
    """What the evaluation does otherwise than the paper, a line each."""
    trainings: Mapping[str, str] = field(default_factory=dict)
    """Training -> what was trained; none in evaluations of untrained methods."""


def gather_provenance(
    *,
    created: str,
    config: str,
    models: Mapping[str, str],
    evalsets: Mapping[str, str],
    trainings: Mapping[str, str] | None = None,
    deviations: Sequence[str] = (),
) -> Provenance:
    """Return the record of this machine and this code; a machine without git or a repository has no commit.

    Args:
        created: ISO 8601 with its zone; the caller owns the clock.
        config: canonical JSON of the configuration.
        models: what it is -> identity.
        evalsets: set -> digest.
        trainings: training -> what was trained.
        deviations: from the paper, in words.
    """
    commit = _git("rev-parse", "HEAD")
    return Provenance(
        created=created,
        commit=commit,
        is_dirty=bool(commit) and bool(_git("status", "--porcelain", "--untracked-files=no")),
        code=code_version(),
        config=config,
        models=dict(models),
        evalsets=dict(evalsets),
        packages={name: found for name in _PACKAGES if (found := _version(name))},
        hardware=_hardware(),
        trainings=dict(trainings or {}),
        deviations=list(deviations),
    )


def code_versions() -> dict[str, int]:
    """Return what decides an evaluation's numbers -> its declared version, raised by hand when results change.

    A change of a docstring or a moved file changes none of them; another way of decoding images, of editing or of
    measuring does.
    """
    from iedit_model.editing import batches
    from iedit_model.imaging import decode
    from iedit_model.metrics.catalogue import metric_versions
    from tasks.evaluate import stage

    return {
        "evaluate": stage.VERSION,
        "decoding": decode.VERSION,
        "editing": batches.EDITING_VERSION,
        **{f"metric {name}": version for name, version in metric_versions().items()},
    }


def code_version() -> str:
    """Return 16 hex characters over ``code_versions``."""
    return digest_of(*(f"{name}={version}" for name, version in sorted(code_versions().items())))[:16]


def _git(*arguments: str) -> str:
    try:
        # Fixed words to the user's own git, on the folder of this code.
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(_ROOT), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _hardware() -> dict[str, str]:
    import torch

    found = {
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "processors": str(os.cpu_count() or 0),
        "threads": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(0), "cuda": str(torch.version.cuda)}
    return found
