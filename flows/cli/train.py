"""``iedit train``: a dataset version to a fine-tuned model."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.build import progress_output
from flows.cli.options import Command, add_config, add_root, config_of, print_version

if TYPE_CHECKING:
    from tasks.train.run_config import TrainRunConfig
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


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the changes of the profile's configuration."""
    from flows.config.profiles import TRAIN

    return config_of(options, TRAIN, train__train__num_steps=options.steps)


def run(options: argparse.Namespace) -> int:
    """Train and print where the model is; 130 when Ctrl-C ended it, 0 when it is finished."""
    from flows.checks import check_train
    from flows.config.profiles import resolve
    from storage import Files, VersionStore

    config = changes(options)
    # The flow is given the id: a version that appears meanwhile changes nothing.
    version = print_version(VersionStore(Files(options.root)), options.dataset, as_json=options.json).id
    run = resolve(options.profile, config, training=options.training).train
    check_train(run, options.root, str(options.out), version)
    with progress_output(as_json=options.json):
        report = _trained(options, config, version, run)
    if options.json:
        from flows.train import outcome

        print(json.dumps(outcome(report)))
    else:
        _print_report(report, options)
    return 0 if report.status == "finished" else _INTERRUPTED


def _trained(options: argparse.Namespace, config: dict[str, Any], version: str, run: "TrainRunConfig") -> "TrainReport":
    from flows.train import train, train_shard

    # Each of several processes of accelerate or torchrun: a flow run of its own would only be in the way.
    if options.no_flow or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        out = str(options.out)
        return train_shard(options.out.name, root=options.root, version=version, config=run, out=out)
    from flows.server import orchestrator

    with orchestrator():
        return train(
            options.root,
            str(options.out),
            profile=options.profile,
            version=version,
            training=options.training,
            config=config,
        )


def _print_report(report: "TrainReport", options: argparse.Namespace) -> None:
    print(f"{report.status} after {report.step:,} of {report.num_steps:,} steps on {report.num_samples:,} pairs")
    print(f"model: {report.checkpoint}")
    if report.status == "finished":
        print(f'try it: iedit edit IMAGE "what it shall show" --model {report.checkpoint} -o DIR')
    else:
        print(f"the same command goes on from there (folder {options.out})")


COMMANDS = {"train": Command(configure, run, changes)}
