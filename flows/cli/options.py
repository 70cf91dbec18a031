"""Options that several commands share."""

import argparse
from pathlib import Path
from typing import Any

from flows.config.overrides import merged, parse_assignments, read_settings

DEFAULT_ROOT = "runs/data"
"""Where datasets go when nothing else is said."""


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add ``--root``."""
    parser.add_argument(
        "--root", default=DEFAULT_ROOT, help="folder or fsspec address of the store (default: %(default)s)"
    )


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Add ``--profile``, ``--recipe``, ``--config`` and ``--set``."""
    parser.add_argument(
        "--recipe", default="ours", help="how pairs are made: ours, or as the paper does: paper (default: ours)"
    )
    add_values(parser)


def add_values(parser: argparse.ArgumentParser) -> None:
    """Add ``--profile``, ``--config`` and ``--set``."""
    parser.add_argument("--profile", default="mini", help="whose values to start from: mini or sd14 (default: mini)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with other values")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        dest="assignments",
        help="one other value, as YAML; may be given several times and goes over --config",
    )


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the changes of ``--config`` and ``--set`` together, those of ``--set`` last.

    Raises:
        SettingError: a file or an assignment cannot be read.
    """
    from_file = read_settings(options.config) if options.config is not None else {}
    return merged(from_file, parse_assignments(options.assignments))


def checked_settings(options: argparse.Namespace, *, metadata: str | None = None) -> dict[str, Any]:
    """Return the changes after trying them on the profile, so that a wrong one is told before anything starts.

    Raises:
        SettingError: a setting does not exist or cannot have that value.
    """
    from flows.config.profiles import resolve

    settings = settings_of(options)
    resolve(options.profile, settings, recipe=options.recipe, metadata=metadata)
    return settings
