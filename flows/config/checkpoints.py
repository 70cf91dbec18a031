"""Trained weights as a person names them: ``DIR``, or ``TRAINING@SEED=DIR`` for a row of Table 2 and its seed."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from iedit_model.errors import ConfigError
from iedit_model.models.source import ModelSource

_TEXT: Final = re.compile(r"(?:(?P<training>[a-z][a-z0-9_]*)(?:@(?P<seed>\d{1,9}))?=)?(?P<place>.+)")
_FULL_METHOD: Final = "iedit"


def parse_checkpoints(texts: Sequence[str]) -> dict[str, dict[int, ModelSource]]:
    """Return the weights that texts like ``iedit@1=runs/b`` name: training -> seed -> weights.

    Raises:
        ConfigError: a text cannot be read, or one training comes twice with one seed.
    """
    found: dict[str, dict[int, ModelSource]] = {}
    for text in texts:
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ConfigError(f"a checkpoint is named like DIR or TRAINING@SEED=DIR, got {text!r}")
        training, seed = match["training"] or _FULL_METHOD, int(match["seed"] or 0)
        if seed in found.setdefault(training, {}):
            raise ConfigError(f"the training {training} with the seed {seed} is named twice")
        found[training][seed] = checkpoint_source(match["place"])
    return found


def checkpoint_source(place: str) -> ModelSource:
    """Return the weights in a pipeline folder, or the newest checkpoint of a training run."""
    latest = Path(place) / "checkpoints" / "latest"
    return ModelSource(name=str(latest.resolve() if latest.exists() else place))
