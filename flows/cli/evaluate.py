"""``iedit evaluate``: every method on some evaluation sets, the numbers with intervals, and the report."""

import argparse
import sys
from typing import Any

from flows.cli.options import add_config, add_root, config_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_root(parser)
    add_config(parser)
    parser.add_argument(
        "--evalset", action="append", metavar="SET", help="name or folder of a set, several times for several"
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        metavar="[TRAINING[@SEED]=]DIR",
        help="trained weights: of iedit, or of another row of Table 2; several seeds of one training may be given",
    )
    parser.add_argument("--methods", metavar="A,B", help="only these methods (default: all)")
    parser.add_argument("--seeds", metavar="0,1", help="draws a pair (default: the profile's)")
    parser.add_argument("--strengths", metavar="0.4,0.8", help="also draw the trade-off over these strengths")
    parser.add_argument(
        "--model-name", default="iedit", metavar="NAME", help="key of the history (default: %(default)s)"
    )
    parser.add_argument("--version", metavar="ID", help="dataset version of the training, for the report's funnel")


def run(options: argparse.Namespace) -> int:
    """Evaluate, and print the tables and where the report is."""
    config = _config(options)
    strengths = numbers("--strengths", options.strengths)
    from flows.cli.build import telling
    from flows.config.checkpoints import parse_checkpoints

    parse_checkpoints(options.checkpoint or ())
    from flows.server.temporary import orchestrator

    with telling(as_json=False), orchestrator():
        from flows.evaluate import evaluate

        done = evaluate(
            options.root,
            profile=options.profile,
            checkpoints=options.checkpoint,
            model=options.model_name,
            sets=options.evalset,
            strengths=strengths,
            version=options.version,
            config=config,
        )
    print_evaluation(options.root, done)
    return 0


def print_evaluation(root: str, evaluation_id: str) -> None:
    """Print an evaluation's tables and where its report is."""
    from storage import Files
    from tasks.evaluate.record import FOLDER, read_evaluation
    from tasks.evaluate.report.write import evaluation_text

    files = Files(root)
    print(evaluation_text(read_evaluation(files, evaluation_id)))
    print(f"report: {files.address(f'{FOLDER}/{evaluation_id}/report.html')}")
    sys.stdout.flush()


def numbers(option: str, text: str | None) -> list[float]:
    """Return the numbers of an option like ``0.4,0.8``.

    Raises:
        ConfigError: one of them is none.
    """
    from iedit_model.errors import ConfigError

    try:
        return [float(word) for word in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(f"{option} takes numbers like 0.4,0.8, got {text!r}") from None


def _config(options: argparse.Namespace) -> dict[str, Any]:
    from flows.config.profiles import EVALUATE

    return config_of(
        options,
        EVALUATE,
        evaluate__plan__methods=options.methods.split(",") if options.methods else None,
        evaluate__plan__editing__seeds=[int(seed) for seed in numbers("--seeds", options.seeds)] or None,
    )
