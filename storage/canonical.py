"""One canonical JSON text for every configuration, the same in any process, on any machine.

Two configurations that compare equal have the same text, whatever was written ``1`` or ``1.0``. Types whose text could
depend on the machine or on the order of insertion (paths, lists, dicts, dates, functions) are refused.
"""

import dataclasses
import enum
import json
import math
from typing import Any

from storage.errors import FingerprintError

TYPE_KEY = "@"
"""Key under which an object says what it is; no Python field can be called so."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""What JSON can say."""

_Plain = bool | int | float | str | bytes | None


def canonical_json(value: object) -> str:
    """Return the compact canonical text of ``value``, ASCII, keys sorted.

    Raises:
        FingerprintError: see ``canonical_value``.
    """
    return json.dumps(canonical_value(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def json_document(content: object) -> bytes:
    """Return a JSON file for people and programs, ASCII, indented, keys sorted: the same content has the same bytes.

    Raises:
        ValueError: a number is not finite.
    """
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def canonical_value(value: object, *, at: str = "config") -> Json:
    """Return ``value`` as JSON values, readable by a person and without loss of identity.

    Fields with ``metadata={"fingerprint": False}`` are left out: they change how fast, never what.

    Args:
        value: None, bool, int, float, str, bytes, an enum member, a tuple, a frozenset or a frozen dataclass of these.
        at: what an error calls the value.

    Raises:
        FingerprintError: a type outside this list, a dataclass that is not frozen, or a NaN; the message says where.
    """
    if isinstance(value, enum.Enum):  # before the scalars, which many enums also are
        return {TYPE_KEY: type(value).__name__, "value": canonical_value(value.value, at=f"{at}.value")}
    if value is None or isinstance(value, bool | int | str | float | bytes):
        return _canonical_scalar(value, at)
    if isinstance(value, tuple):
        return [canonical_value(item, at=f"{at}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, frozenset):
        items = [canonical_value(item, at=f"{at}{{}}") for item in value]
        return {TYPE_KEY: "frozenset", "items": sorted(items, key=lambda item: json.dumps(item, sort_keys=True))}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _canonical_dataclass(value, at)
    raise FingerprintError(
        f"{at} is a {type(value).__name__} ({value!r:.80}), which has no stable identity: use None, bool, int, float, "
        "str, bytes, an enum, a tuple, a frozenset or a frozen dataclass, or mark the field "
        'metadata={"fingerprint": False}'
    )


def _canonical_scalar(value: _Plain, at: str) -> Json:
    if isinstance(value, bytes):
        return {TYPE_KEY: "bytes", "hex": value.hex()}
    return _canonical_float(value, at) if isinstance(value, float) else value


def _canonical_float(value: float, at: str) -> Json:
    if math.isnan(value):
        raise FingerprintError(f"{at} is NaN, which does not equal itself: use None for an unknown number")
    if math.isinf(value):
        return {TYPE_KEY: "float", "value": "inf" if value > 0 else "-inf"}
    # 1 == 1.0 and -0.0 == 0.0 in Python: equal configurations must not be computed twice
    return int(value) if value.is_integer() else float(value)


def _canonical_dataclass(value: Any, at: str) -> Json:
    kind = type(value)
    if not kind.__dataclass_params__.frozen:
        raise FingerprintError(f"{at} is a {kind.__name__} that is not frozen: it could change after it was hashed")
    named: dict[str, Json] = {TYPE_KEY: kind.__name__}
    for field in dataclasses.fields(value):
        if field.metadata.get("fingerprint", True):
            named[field.name] = canonical_value(getattr(value, field.name), at=f"{at}.{field.name}")
    return named
