"""What users write, strictly checked: ``--set a.b.c=value``, YAML files, ranges of shards and names of checkpoints.

A name that does not exist is an error with the nearest names, since a setting that is silently ignored costs its user
days.
"""

import difflib
import re
import reprlib
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from iedit_model.configuration import as_values, from_values
from iedit_model.errors import ConfigError
from iedit_model.models.source import ModelSource

if TYPE_CHECKING:
    import yaml


Config = TypeVar("Config")

_MAX_FILE_BYTES: Final = 1 << 20
_EXPONENT: Final = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_BAD_VALUES: Final = (ValueError, RecursionError)
"""What the YAML reader raises for dates that do not exist, endless numbers and deep nesting."""
Shard = TypeVar("Shard")

_RANGE = re.compile(r"([0-9]*):([0-9]*)|([0-9]+)")


_TEXT: Final = re.compile(r"(?:(?P<training>[a-z][a-z0-9_]*)(?:@(?P<seed>\d{1,9}))?=)?(?P<path>.+)")
_FULL_METHOD: Final = "iedit"


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy of a configuration with other values.

    Args:
        config: an object of a class made by ``configuration``.
        changes: field -> value; a mapping as value changes the fields of a nested one. A key with dots reaches down:
            ``{"data.retrieve.query.text_weight": 0.5}``.

    Raises:
        ConfigError: no such field, or a value of another type or out of its range.
    """
    values = as_values(config)
    unfolded = nested(changes)
    _check_names(values, unfolded)
    return from_values(type(config), merged(values, unfolded))


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the changes that texts like ``data.mask.threshold=0.4`` mean; values are YAML.

    Raises:
        ConfigError: a text has no ``=`` or its value is no YAML.
    """
    changes: dict[str, Any] = {}
    for text in assignments:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"--set takes section.field=value, got {text!r}")
        changes[name.strip()] = _yaml(value, what=f"the value of {name.strip()}")
    return changes


def read_settings(path: Path) -> dict[str, Any]:
    """Return the changes that a YAML file holds.

    Raises:
        ConfigError: there is no such file, or it is too large, no YAML mapping, or has a key twice or a reference.
    """
    try:
        with path.open("rb") as stream:  # not by its size: a pipe has none
            data = stream.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_FILE_BYTES:,} bytes, which is no configuration")
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error}") from None
    content = _yaml(text, what=f"the configuration {path}")
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigError(f"the configuration {path} must map sections to their settings")
    named = Counter(name for name, _ in leaves(content))
    if twice := [name for name, number in named.items() if number > 1]:
        raise ConfigError(
            f"the configuration {path} has {twice[0]!r:.80} twice, once with a dot and once in its section"
        )
    return content


def as_yaml(config: Any) -> str:
    """Return a configuration as YAML that ``read_settings`` takes back."""
    import yaml

    return yaml.safe_dump(as_values(config), sort_keys=False, width=100)


def leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of each setting; a list is one value."""
    if isinstance(values, Mapping) and (values or not path):
        for name, value in values.items():
            yield from leaves(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, values


def nested(changes: Mapping[str, Any]) -> dict[str, Any]:
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
    result = nested(before)
    for name, value in nested(later).items():
        known = result.get(name)
        result[name] = merged(known, value) if isinstance(known, dict) and isinstance(value, Mapping) else value
    return result


def _check_names(known: Mapping[str, Any], changes: Mapping[str, Any], path: str = "") -> None:
    for name, value in changes.items():
        if name not in known:
            raise ConfigError(f"there is no setting {f'{path}{name}'!r}{_hint(str(name), known, path)}")
        present = known[name]
        if not isinstance(present, Mapping) or value is None:
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}{name} is {reprlib.repr(value)}, expected its fields: {', '.join(present)}")
        _check_names(present, value, f"{path}{name}.")


def _hint(name: str, known: Iterable[str], path: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    shown = near or sorted(known)
    return f"; did you mean {', '.join(path + entry for entry in shown)}?" if near else f"; known: {', '.join(shown)}"


def _yaml(text: str, *, what: str) -> Any:
    """Return what YAML text means.

    Refused are a key twice, of which one would be lost, and references, by which a small file unfolds to a huge value.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: "yaml.Node | None", index: int) -> "yaml.Node | None":
            if self.check_event(yaml.events.AliasEvent):
                raise ConfigError(f"{what} refers to another part of it (*name): write the value out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: "yaml.MappingNode", deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
            keys = Counter(str(key.value) for key, _ in node.value)
            if twice := [key for key, number in keys.items() if number > 1]:
                raise ConfigError(f"{what} has {twice[0]!r:.80} twice in one section")
            return super().construct_mapping(node, deep=deep)

    # YAML 1.1 takes 1e-5, which has no dot, for a word.
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, *_BAD_VALUES) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{what} is {text[:80]!r}, which is no YAML: {' '.join(str(error).split())[:300]}") from None


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
        found[training][seed] = checkpoint_source(match["path"])
    return found


def checkpoint_source(path: str) -> ModelSource:
    """Return the weights in a pipeline folder, or the newest checkpoint of a training run."""
    latest = Path(path) / "checkpoints" / "latest"
    return ModelSource(name=str(latest.resolve() if latest.exists() else path))
