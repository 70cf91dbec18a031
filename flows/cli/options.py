"""Options that several commands share."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from storage import VersionInfo, VersionStore

DEFAULT_ROOT = "runs/data"
"""Where datasets go when nothing else is said."""


class Command(NamedTuple):
    """A command of ``iedit``."""

    configure: Callable[[argparse.ArgumentParser], None]
    """Adds its arguments."""
    run: Callable[[argparse.Namespace], int]
    """Runs it and returns the exit code."""
    changes: Callable[[argparse.Namespace], dict[str, Any]] | None = None
    """Returns its changes of the profile's configuration, where it takes one."""


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add ``--root``."""
    parser.add_argument(
        "--root", default=DEFAULT_ROOT, help="folder or fsspec address of the store (default: %(default)s)"
    )


def add_config(parser: argparse.ArgumentParser, *, recipe: bool = False, training: bool = False) -> None:
    """Add ``--profile``, ``--config`` and ``--set``; and ``--recipe`` and ``--training`` where they are asked for."""
    parser.add_argument("--profile", default="mini", help="whose values to start from: mini or sd14 (default: mini)")
    if recipe:
        parser.add_argument(
            "--recipe", default="ours", help="how pairs are made: ours, or as the paper does: paper (default: ours)"
        )
    if training:
        parser.add_argument(
            "--training",
            metavar="NAME",
            help="stable, paper or a row of Table 2, iedit for instance (default: mini stable, sd14 paper)",
        )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML as iedit config prints it; says what differs from the profile"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        dest="assignments",
        help="one other value, as YAML; may be given several times and goes over --config",
    )


def config_of(
    options: argparse.Namespace, uses: Sequence[str], *, metadata: str | None = None, **shortcuts: Any
) -> dict[str, Any]:
    """Return the changes of ``--config``, ``--set`` and a command's shortcuts, the later over the earlier.

    They are tried on the profile, so that a wrong one is an error before anything starts.

    Args:
        options: of the command line.
        uses: the sections that the command uses; any other one is refused.
        metadata: of the command line.
        shortcuts: dotted setting with ``__`` for each dot -> value of an option of its own; None is not given.

    Raises:
        ConfigError: a file or an assignment cannot be read, a setting does not exist, is not used or cannot have that
            value.
    """
    from flows.config.overrides import leaves, merged, nested, parse_assignments, read_settings
    from flows.config.profiles import changed_leaves, check_used, resolve

    assigned = parse_assignments(options.assignments)
    check_used(dict(leaves(nested(assigned))), uses)
    file = changed_leaves(options.profile, read_settings(options.config)) if options.config is not None else {}
    given = {name.replace("__", "."): value for name, value in shortcuts.items() if value is not None}
    changes = merged(merged(file, assigned), given)
    recipe, training = getattr(options, "recipe", "ours"), getattr(options, "training", None)
    resolve(options.profile, changes, recipe=recipe, training=training, metadata=metadata, uses=uses)
    return changes


def print_version(versions: "VersionStore", name: str, *, as_json: bool = False) -> "VersionInfo":
    """Find a version and print its id, the first line of every command that takes one; return the version.

    Args:
        versions: of the store.
        name: its id, the beginning of one, or ``latest``.
        as_json: whether the standard output is for JSON, so that the line goes to the standard error.

    Raises:
        UnknownVersionError: there is none, or several begin so.
    """
    from flows.reporting.version_text import find_version

    info = find_version(versions, name)
    print(f"version {info.id}: {size_text(info)}", file=sys.stderr if as_json else sys.stdout, flush=True)
    return info


def size_text(info: "VersionInfo") -> str:
    """Return how many pairs a version has, and how many in each split."""
    return ", ".join([f"{info.num_samples:,} pairs", *(f"{split} {count:,}" for split, count in info.splits.items())])
