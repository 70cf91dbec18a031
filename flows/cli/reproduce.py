"""``iedit reproduce``: the paper's Tables 1 and 2, each training under several seeds."""

import argparse

from flows.cli.evaluate import numbers, print_evaluation
from flows.cli.options import add_root


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_root(parser)
    parser.add_argument("--profile", default="mini", help="mini or sd14 (default: mini)")
    parser.add_argument("--metadata", help="LAION-style parquet (default: what the profile names)")
    parser.add_argument(
        "--base", default="stable", help="training that the rows of Table 2 change: stable or paper (default: stable)"
    )
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the trainings (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="optimiser steps of each training")
    parser.add_argument("--strengths", metavar="0.4,0.8", help="also draw the trade-off over these strengths")


def run(options: argparse.Namespace) -> int:
    """Run the flow and print our tables beside the paper's."""
    seeds = [int(seed) for seed in numbers("--seeds", options.seeds)]
    strengths = numbers("--strengths", options.strengths)
    from flows.cli.build import telling
    from flows.cli.train import training_telling
    from flows.server.temporary import orchestrator

    with telling(as_json=False), training_telling(as_json=False), orchestrator():
        from flows.reproduce import reproduce

        done = reproduce(
            options.root,
            profile=options.profile,
            metadata=options.metadata,
            base=options.base,
            seeds=seeds,
            strengths=strengths,
            train_settings={} if options.steps is None else {"train.num_steps": options.steps},
        )
    print_evaluation(options.root, done)
    return 0
