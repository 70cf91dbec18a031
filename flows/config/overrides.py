"""How a person changes a configuration: ``--set stage.field=value`` and YAML files, strictly checked.

Works on any tree of frozen dataclasses; a name that does not exist is an error with the nearest names, since a setting
that is silently ignored costs its user days.
"""

import difflib
import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from flows.errors import SettingError

Config = TypeVar("Config")

_MAX_FILE_BYTES = 1 << 20
_BAD_VALUES = (ValueError, RecursionError)
"""What the YAML reader raises for dates that do not exist, endless numbers and deep nesting."""


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy of a configuration with other values.

    Args:
        config: a frozen dataclass, possibly of dataclasses.
        changes: field -> value; a mapping as value changes the fields of a nested dataclass. A key with dots reaches
            down: ``{"retrieve.query.text_weight": 0.5}``.

    Raises:
        SettingError: no such field, or a value of another type or out of its range.
    """
    return _changed(config, _nested(changes), path="")


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the changes that texts like ``mask.threshold=0.4`` mean; values are YAML.

    Raises:
        SettingError: a text has no ``=`` or its value is no YAML.
    """
    import yaml

    changes: dict[str, Any] = {}
    for text in assignments:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise SettingError(f"--set takes stage.field=value, got {text!r}")
        try:
            changes[name.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, *_BAD_VALUES):
            raise SettingError(f"the value of {name.strip()} is {value[:80]!r}, which is no YAML") from None
    return changes


def read_settings(path: Path) -> dict[str, Any]:
    """Return the changes that a YAML file holds.

    Raises:
        SettingError: there is no such file, or it is too large or no YAML mapping.
    """
    import yaml

    try:
        with path.open("rb") as stream:  # not by its size: a pipe has none
            data = stream.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise SettingError(f"{path} has more than {_MAX_FILE_BYTES:,} bytes, which is no configuration")
        content = yaml.safe_load(data.decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the configuration {path} cannot be read: {error}") from None
    except (yaml.YAMLError, *_BAD_VALUES) as error:
        raise SettingError(f"the configuration {path} is no YAML: {' '.join(str(error).split())[:300]}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise SettingError(f"the configuration {path} must map stages to their settings")
    return content


def as_values(config: Any) -> Any:
    """Return a configuration as nested plain values, as YAML and JSON know them."""
    if is_dataclass(config):
        return {entry.name: as_values(getattr(config, entry.name)) for entry in fields(config)}
    if isinstance(config, tuple | list):
        return [as_values(value) for value in config]
    if isinstance(config, Mapping):
        return {str(name): as_values(value) for name, value in config.items()}
    return config


def as_yaml(config: Any) -> str:
    """Return a configuration as YAML that ``read_settings`` takes back."""
    import yaml

    return yaml.safe_dump(as_values(config), sort_keys=False, width=100)


def _nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes with dotted keys unfolded; of two for one field the later wins."""
    result: dict[str, Any] = {}
    for name, value in changes.items():
        head, _, rest = str(name).partition(".")
        if not rest:
            before = result.get(head)
            both = isinstance(value, Mapping) and isinstance(before, dict)
            result[head] = merged(before, value) if both and before is not None else value
            continue
        inner = result.get(head)
        result[head] = merged(inner if isinstance(inner, dict) else {}, {rest: value})
    return result


def merged(before: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes with later ones on top, field by field; dotted names of both are unfolded."""
    result = _nested(before)
    for name, value in _nested(later).items():
        known = result.get(name)
        result[name] = merged(known, value) if isinstance(known, dict) and isinstance(value, Mapping) else value
    return result


def _changed(config: Any, changes: Mapping[str, Any], *, path: str) -> Any:
    known = {entry.name for entry in fields(config) if entry.init}
    hints = _hints(type(config))
    values: dict[str, Any] = {}
    for name, value in _nested(changes).items():
        place = f"{path}{name}"
        if name not in known:
            raise SettingError(f"there is no setting {place!r}{_hint(name, known, path)}")
        values[name] = _value(getattr(config, name), value, hints[name], place=place)
    try:
        return replace(config, **values)
    except (ValueError, TypeError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError(f"{path.rstrip('.') or 'the configuration'}: {error}") from None


def _value(present: Any, given: Any, hint: Any, *, place: str) -> Any:
    if isinstance(given, Mapping):
        if is_dataclass(present):
            return _changed(present, given, path=f"{place}.")
        kind = _dataclass_in(hint)
        if kind is not None:
            return _made(kind, given, place=place)
    elif is_dataclass(present) and given is not None:
        raise SettingError(f"{place} is {_shown(given)}, expected its fields: {', '.join(_names(present))}")
    return _checked(given, hint, place=place)


def _made(kind: Any, given: Mapping[str, Any], *, place: str) -> Any:
    """Return a dataclass of a kind from a mapping alone, which must hold all fields without a default."""
    hints = _hints(kind)
    known = {entry.name for entry in fields(kind) if entry.init}
    values: dict[str, Any] = {}
    for name, value in _nested(given).items():
        if name not in known:
            raise SettingError(f"there is no setting {place}.{name}{_hint(name, known, place + '.')}")
        values[name] = _value(None, value, hints[name], place=f"{place}.{name}")
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise SettingError(f"{place}: {error}") from None


def _checked(given: Any, hint: Any, *, place: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    elements = get_args(hint)
    if isinstance(given, list) and get_origin(hint) is tuple and elements and is_dataclass(elements[0]):
        return tuple(_entry(elements[0], entry, place=f"{place}[{number}]") for number, entry in enumerate(given))
    if isinstance(given, bool) and bool not in (hint, *_options(hint)):  # pydantic takes true for 1
        raise SettingError(f"{place} is {_shown(given)}, expected {_type_name(hint)}")
    try:
        return TypeAdapter(hint).validate_python(given)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise SettingError(f"{place} is {_shown(given)}, expected {_type_name(hint)}: {reason}") from None


def _entry(kind: Any, given: Any, *, place: str) -> Any:
    if not isinstance(given, Mapping):
        raise SettingError(f"{place} is {_shown(given)}, expected its fields: {', '.join(_names(kind))}")
    return _made(kind, given, place=place)


def _hints(kind: Any) -> dict[str, Any]:
    """Return the type of each field; asked of the fields, since a class may hide its annotations from type checkers."""
    types = {entry.name: entry.type for entry in fields(kind)}
    return get_type_hints(kind) if any(isinstance(hint, str) for hint in types.values()) else types


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else ()


def _dataclass_in(hint: Any) -> Any | None:
    found = [kind for kind in (hint, *_options(hint)) if isinstance(kind, type) and is_dataclass(kind)]
    return found[0] if found else None


def _names(config: Any) -> list[str]:
    return [entry.name for entry in fields(config) if entry.init]


def _hint(name: str, known: Iterable[str], path: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    shown = near or sorted(known)
    return f"; did you mean {', '.join(path + entry for entry in shown)}?" if near else f"; known: {', '.join(shown)}"


def _type_name(hint: Any) -> str:
    if options := _options(hint):
        return " or ".join("null" if option is NoneType else _type_name(option) for option in options)
    if (values := get_args(hint)) and all(isinstance(value, str) for value in values):
        return f"one of {', '.join(values)}"
    return getattr(hint, "__name__", str(hint)) if not get_args(hint) else str(hint).replace("typing.", "")


def _shown(value: Any) -> str:
    # YAML's references can make a small file a huge value, which must not be written out.
    if isinstance(value, list | tuple | dict):
        return reprlib.repr(value)[:80]
    return json.dumps(value, default=str, ensure_ascii=False)[:80]
