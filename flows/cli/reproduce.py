"""``iedit reproduce``: the paper's Tables 1 and 2, each training under several seeds."""

import argparse

from flows.cli.evaluate import numbers, print_evaluation
from flows.cli.options import add_config, add_root, config_of


def configure(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument("--strengths", metavar="0.4,0.8", help="also draw the trade-off over these strengths")


def run(options: argparse.Namespace) -> int:
    """Run the flow and print our tables beside the paper's."""
    seeds = [int(seed) for seed in numbers("--seeds", options.seeds)]
    strengths = numbers("--strengths", options.strengths)
    from flows.cli.build import telling
    from flows.cli.train import training_telling
    from flows.config.profiles import ALL
    from flows.server.temporary import orchestrator

    config = config_of(options, ALL, metadata=options.metadata, train__train__num_steps=options.steps)

    with telling(as_json=False), training_telling(as_json=False), orchestrator():
        from flows.reproduce import reproduce

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
