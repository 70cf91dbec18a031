"""``iedit demo`` and ``iedit reproduce``: dataset, trainings and evaluation from one command."""

import argparse
import sys
from pathlib import Path
from typing import Any

from flows.cli.build import progress_output
from flows.cli.evaluate import numbers, print_evaluation
from flows.cli.options import Command, add_config, add_root, config_of


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the changes of the profile's configuration."""
    from flows.config.profiles import ALL

    metadata = getattr(options, "metadata", None)  # reproduce takes one
    return config_of(options, ALL, metadata=metadata, train__train__num_steps=options.steps)


def _check(options: argparse.Namespace, config: dict[str, Any]) -> None:
    from flows.checks import check_all
    from flows.config.profiles import resolve

    metadata = getattr(options, "metadata", None)
    resolved = resolve(options.profile, config, recipe=options.recipe, training=options.training, metadata=metadata)
    check_all(resolved, options.root)


def configure_demo(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_root(parser)
    add_config(parser, recipe=True, training=True)
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of the configuration's")


def run_demo(options: argparse.Namespace) -> int:
    """Run the flow full and print the tables, the report and the gallery."""
    from flows.server import orchestrator

    config = changes(options)
    _check(options, config)
    print(f"building a dataset, fine-tuning and evaluating in {options.root}; minutes on two cores", flush=True)
    with progress_output(as_json=False), orchestrator():
        from flows.full import full

        done = full(
            options.root,
            profile=options.profile,
            recipe=options.recipe,
            training=options.training,
            config=config,
        )
    print_evaluation(options.root, done)
    _write_gallery(options.root)
    sys.stdout.flush()
    return 0


def _write_gallery(root: str) -> None:
    from flows.reporting.version_text import latest_version
    from storage import Files, VersionStore
    from tasks.dataset.gallery import write_gallery

    versions = VersionStore(Files(root))
    print(f"pairs:  {write_gallery(versions, latest_version(versions), Path(root) / 'gallery.html')}")


def configure_reproduce(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_root(parser)
    add_config(parser, recipe=True)
    parser.add_argument("--metadata", help="LAION-style parquet (default: what the profile names)")
    parser.add_argument(
        "--training",
        choices=("stable", "paper"),
        help="training that the rows of Table 2 change (default: mini stable, sd14 paper)",
    )
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the trainings (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="optimiser steps of each training")
    parser.add_argument("--strengths", metavar="0.4,0.8", help="also plot the trade-off over these strengths")


def run_reproduce(options: argparse.Namespace) -> int:
    """Run the flow and print our tables beside the paper's."""
    seeds = [int(seed) for seed in numbers("--seeds", options.seeds)]
    strengths = numbers("--strengths", options.strengths)
    from flows.server import orchestrator

    config = changes(options)
    _check(options, config)
    with progress_output(as_json=False), orchestrator():
        from flows.full import reproduce

        done = reproduce(
            options.root,
            profile=options.profile,
            metadata=options.metadata,
            recipe=options.recipe,
            training=options.training,
            seeds=seeds,
            strengths=strengths,
            config=config,
        )
    print_evaluation(options.root, done)
    return 0


COMMANDS = {
    "demo": Command(configure_demo, run_demo, changes),
    "reproduce": Command(configure_reproduce, run_reproduce, changes),
}
