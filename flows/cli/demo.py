"""``iedit demo``: the whole of it on the miniature: build, fine-tune, evaluate, report."""

import argparse
import sys
from pathlib import Path

from flows.cli.options import add_config, add_root, config_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_root(parser)
    add_config(parser, recipe=True, training=True)
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of the configuration's")


def run(options: argparse.Namespace) -> int:
    """Run the flow full and print the tables, the report and the gallery."""
    from flows.cli.build import telling
    from flows.cli.evaluate import print_evaluation
    from flows.cli.train import training_telling
    from flows.config.profiles import ALL
    from flows.server.temporary import orchestrator

    config = config_of(options, ALL, train__train__num_steps=options.steps)
    print(f"building a dataset, fine-tuning and evaluating in {options.root}; minutes on two cores", flush=True)
    with telling(as_json=False), training_telling(as_json=False), orchestrator():
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
