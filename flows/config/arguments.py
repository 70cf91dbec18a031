"""Trained weights as a person names them: ``DIR``, or ``TRAINING@SEED=DIR`` for a row of Table 2 and its seed."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

from iedit_model.errors import ConfigError
from iedit_model.models.source import ModelSource

Shard = TypeVar("Shard")

_RANGE = re.compile(r"([0-9]*):([0-9]*)|([0-9]+)")


def parse_shard_range(text: str) -> slice:
    """Return the slice that ``a:b``, ``a:``, ``:b`` or a single number means.

    Raises:
        ConfigError: it is none of these, or empty.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--shards is {text!r}, expected like 0:4, 8: or 3")
    if match[3] is not None:
        return slice(int(match[3]), int(match[3]) + 1)
    start, stop = int(match[1] or 0), int(match[2]) if match[2] else None
    if stop is not None and stop <= start:
        raise ConfigError(f"--shards {text!r} holds no shard: the end is excluded, as in 0:4 for the first four")
    return slice(start, stop)


def chosen_shards(shards: Sequence[Shard], text: str | None) -> tuple[Shard, ...]:
    """Return the shards that a range names; all without one.

    Raises:
        ConfigError: it cannot be read, or names no shard of the plan.
    """
    if text is None:
        return tuple(shards)
    if not (chosen := tuple(shards[parse_shard_range(text)])):
        raise ConfigError(f"--shards {text!r} names none of the plan's {len(shards)} shard(s), 0 to {len(shards) - 1}")
    return chosen


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
