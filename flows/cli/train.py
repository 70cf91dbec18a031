"""``iedit train``: a dataset version to a fine-tuned model."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.build import progress_output
from flows.cli.options import Command, add_config, add_root, config_of

if TYPE_CHECKING:
    from tasks.train.stage import TrainReport

_INTERRUPTED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_root(parser)
    add_config(parser, training=True)
    parser.add_argument("--version", dest="dataset", default="latest", help="dataset version (default: latest)")
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of the configuration's")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--no-flow", action="store_true", help="train without a flow run: starts sooner, but no retries, no artifacts"
    )
    parser.add_argument("--json", action="store_true", help="events on standard error and the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Train and print where the model is; 130 when Ctrl-C ended it, 0 when it is finished."""
    from flows.config.profiles import TRAIN

    config = config_of(options, TRAIN, train__train__num_steps=options.steps)
    _tell_version(options)
    with progress_output(as_json=options.json):
        report = _trained(options, config)
    if options.json:
        from flows.train import outcome

        print(json.dumps(outcome(report)))
    else:
        _tell(report, options)
    return 0 if report.status == "finished" else _INTERRUPTED


def _tell_version(options: argparse.Namespace) -> None:
    from flows.reporting.version_text import find_version
    from storage import Files, VersionStore

    info = find_version(VersionStore(Files(options.root)), options.dataset)
    if not options.json:
        print(f"dataset version {info.id}: {info.num_samples:,} pairs", flush=True)


def _trained(options: argparse.Namespace, config: dict[str, Any]) -> "TrainReport":
    from flows.config.profiles import resolve
    from flows.train import train, train_shard

    # Each of several processes of accelerate or torchrun: a flow run of its own would only be in the way.
    if options.no_flow or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        run = resolve(options.profile, config, training=options.training).train
        out = str(options.out)
        return train_shard(options.out.name, root=options.root, version=options.dataset, config=run, out=out)
    from flows.server import orchestrator

    with orchestrator():
        return train(
            options.root,
            str(options.out),
            profile=options.profile,
            version=options.dataset,
            training=options.training,
            config=config,
        )


def _tell(report: "TrainReport", options: argparse.Namespace) -> None:
    print(f"{report.status} after {report.step:,} of {report.num_steps:,} steps on {report.num_samples:,} pairs")
    print(f"model: {report.checkpoint}")
    if report.status == "finished":
        print(f'try it: iedit edit PICTURE "what it shall show" --model {report.checkpoint} -o DIR')
    else:
        print(f"the same command goes on from there (folder {options.out})")


COMMANDS = {"train": Command(configure, run)}
