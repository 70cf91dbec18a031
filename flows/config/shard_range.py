"""``--shards a:b``: a part of the plan, as Python slices a list."""

import re
from collections.abc import Sequence
from typing import TypeVar

from iedit_model.errors import ConfigError

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
