"""``iedit evaluate`` and ``iedit history``: the scores of every method, and those of earlier evaluations."""

import argparse
import sys
from typing import TYPE_CHECKING, Any, Final

from flows.cli.options import Command, add_config, add_root, config_of, print_version

if TYPE_CHECKING:
    from storage import Files


_METRICS: Final = "clip_score,ssim_zero_fill_outside,fid"


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
    parser.add_argument("--seeds", metavar="0,1", help="seeds of the edits of each pair (default: the profile's)")
    parser.add_argument("--strengths", metavar="0.4,0.8", help="also plot the trade-off over these strengths")
    parser.add_argument(
        "--model-name", default="iedit", metavar="NAME", help="key of the history (default: %(default)s)"
    )
    parser.add_argument("--version", metavar="ID", help="dataset version of the training, for the report's funnel")


def run(options: argparse.Namespace) -> int:
    """Evaluate, and print the tables and where the report is."""
    config = changes(options)
    strengths = numbers("--strengths", options.strengths)
    from flows.checks import check_evaluation
    from flows.cli.build import progress_output
    from flows.config.profiles import resolve

    version = None
    if options.version is not None:
        from storage import Files, VersionStore

        version = print_version(VersionStore(Files(options.root)), options.version).id
    resolved = resolve(options.profile, config).evaluate
    check_evaluation(resolved, options.root, options.checkpoint or (), sets=options.evalset)
    from flows.server import orchestrator

    with progress_output(as_json=False), orchestrator():
        from flows.evaluate import evaluate

        done = evaluate(
            options.root,
            profile=options.profile,
            checkpoints=options.checkpoint,
            model=options.model_name,
            sets=options.evalset,
            strengths=strengths,
            version=version,
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


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the changes of the profile's configuration."""
    from flows.config.profiles import EVALUATE

    return config_of(
        options,
        EVALUATE,
        evaluate__plan__methods=options.methods.split(",") if options.methods else None,
        evaluate__plan__editing__seeds=[int(seed) for seed in numbers("--seeds", options.seeds)] or None,
    )


def configure_history(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_root(parser)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="which model; without it, all are listed")
    parser.add_argument("--pin", metavar="EVALUATION", help="make this evaluation (or latest) the baseline")
    parser.add_argument("--check", action="store_true", help="fail when the newest evaluation fell below the baseline")
    parser.add_argument("--metrics", default=_METRICS, metavar="A,B", help="what to print (default: %(default)s)")


def run_history(options: argparse.Namespace) -> int:
    """List, pin or check."""
    from iedit_model.errors import ConfigError
    from storage import ShardStore
    from tasks.evaluate.history import check_regressions, history_models, pin_baseline, pinned_baseline, read_history

    files = ShardStore.at(options.root).files
    if options.model is None:
        if options.check or options.pin is not None:
            raise ConfigError("--check and --pin are about one model: name it, as in iedit history MODEL --check")
        print("\n".join(history_models(files)) or "no evaluation has been made yet")
        return 0
    if options.pin is not None:
        pin_baseline(files, options.model, _evaluation(files, options.model, options.pin))
    rows = read_history(files, options.model)
    wanted, known = options.metrics.split(","), {row["metric"].partition("@")[0] for row in rows}
    default = _METRICS.split(",")
    if rows and (strange := [name for name in wanted if name not in known and name not in default]):
        raise ConfigError(f"no evaluation has the metric {strange[0]!r:.80}; there are {', '.join(sorted(known))}")
    print(history_text(rows, metrics=wanted, baseline=pinned_baseline(files, options.model)))
    if options.check:
        print(check_regressions(files, options.model))
    return 0


def history_text(rows: list[dict[str, Any]], *, metrics: list[str], baseline: str | None) -> str:
    """Return a history as lines: a block per evaluation, a line per set and method."""
    from tasks.evaluate.report.names import metric_title, shown, shown_ends

    lines = []
    for evaluation in dict.fromkeys(row["evaluation"] for row in rows):
        mine = [row for row in rows if row["evaluation"] == evaluation]
        mark = " (baseline)" if evaluation == baseline else ""
        lines.append(f"{evaluation}{mark}  commit {mine[0]['commit'][:12] or 'unknown'}")
        for evalset, method in dict.fromkeys((row["evalset"], row["method"]) for row in mine):
            cells = [
                f"{metric_title(row['metric'])} {shown(row['metric'], row['value'])} "
                f"{shown_ends(row['metric'], _number(row['low']), _number(row['high']))}".rstrip()
                for row in mine
                if (row["evalset"], row["method"]) == (evalset, method) and row["metric"].partition("@")[0] in metrics
            ]
            if cells:
                lines.append(f"  {evalset:<16} {method:<18} {'  '.join(cells)}")
    return "\n".join(lines)


def _evaluation(files: "Files", model: str, wanted: str) -> str:
    from tasks.evaluate.history import read_history

    if wanted != "latest":
        return wanted
    rows = read_history(files, model)
    return rows[-1]["evaluation"] if rows else wanted


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


COMMANDS = {"evaluate": Command(configure, run, changes), "history": Command(configure_history, run_history)}
