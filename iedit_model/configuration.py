"""How every configuration of the project is declared: a frozen pydantic dataclass whose errors are ``ConfigError``."""

import dataclasses
import functools
import json
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import ErrorDetails

from iedit_model.errors import ConfigError

Kind = TypeVar("Kind")

Share = Annotated[float, Field(ge=0, le=1)]
"""A number in [0, 1]."""
Cosine = Annotated[float, Field(ge=-1, le=1)]
"""A number in [-1, 1]."""
Probability = Annotated[float, Field(gt=0, le=1)]
"""A threshold or share in (0, 1]."""
Seed = Annotated[int, Field(ge=0, lt=2**31)]
"""A seed that every generator takes."""

_BOUNDS = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than"}
_BOUNDS |= {"less_than_equal": "at most"}
_LIMITS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
_RULES = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, Field))
def configuration(kind: type[Kind]) -> type[Kind]:
    """Make a class a frozen dataclass with keyword fields that checks types and ranges when an object is made.

    Ranges stand in the annotations (``Annotated[float, Field(ge=0, le=1)]``, ``Literal``); a rule on several fields is
    a ``__post_init__`` that raises ``ValueError``. Whatever is wrong becomes a ``ConfigError`` that names field, value
    and expectation: ``QueryConfig.text_weight is 1.5, expected at most 1``.
    """
    made: Any = pydantic_dataclass(frozen=True, kw_only=True, config=_RULES)(kind)
    validated: Callable[..., None] = made.__init__

    @functools.wraps(validated)
    def checked(self: Any, *given: Any, **values: Any) -> None:
        try:
            validated(self, *given, **values)
        except ValidationError as error:
            raise ConfigError(_message(error, at=kind.__name__)) from None

    made.__init__ = checked
    return made


def from_values(kind: type[Kind], values: Mapping[str, Any], *, at: str = "") -> Kind:
    """Return a configuration of plain values as YAML and JSON know them, nested ones included.

    Args:
        kind: a class made by ``configuration``.
        values: field -> value; a missing field has its default.
        at: what an error puts before the fields' names.

    Raises:
        ConfigError: an unknown or missing field, or a value of another type or out of its range.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise ConfigError(_message(error, at=at)) from None


def as_values(config: Any) -> Any:
    """Return a configuration as nested plain values, which ``from_values`` takes back."""
    if dataclasses.is_dataclass(config):
        return {entry.name: as_values(getattr(config, entry.name)) for entry in dataclasses.fields(config)}
    if isinstance(config, tuple | list):
        return [as_values(value) for value in config]
    return config


def parsed_json(data: bytes | str) -> Any:
    """Return what JSON from outside means; of a key that stands twice in an object one value would be lost.

    Raises:
        ValueError: it is no JSON, or has a key twice.
        RecursionError: it is nested too deeply.
    """
    return json.loads(data, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, number in Counter(name for name, _ in pairs).items() if number > 1)
        raise ValueError(f"it has {twice!r:.80} twice in one object")
    return found


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _message(error: ValidationError, *, at: str) -> str:
    """Return the first thing that is wrong: several mostly follow from one."""
    first = error.errors(include_url=False)[0]
    where = at
    for part in first["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else part
    where = where or "the configuration"
    match first["type"]:
        case "value_error":  # what a __post_init__ says
            return f"{where}: {first['ctx']['error']}" if "ctx" in first else f"{where}: {first['msg']}"
        case "missing" | "missing_keyword_only_argument":
            return f"{where} is missing"
        case "unexpected_keyword_argument":
            return f"there is no setting {where}"
        case _:
            return f"{where} is {_shown(first['input'])}, expected {_expectation(first)}"


def _expectation(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if (bound := _BOUNDS.get(error["type"])) is not None:
        limit = context[_LIMITS[error["type"]]]
        return f"{bound} {int(limit) if isinstance(limit, float) and limit.is_integer() else limit}"
    if error["type"] == "literal_error":
        return f"one of {context['expected'].replace(' or ', ', ')}"
    return error["msg"].removeprefix("Input should be ")


def _shown(value: Any) -> str:
    # YAML's references can make a small file a huge value, which must not be written out.
    return repr(value)[:80] if isinstance(value, str | int | float | bool | None) else reprlib.repr(value)[:80]
