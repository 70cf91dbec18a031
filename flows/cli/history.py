"""``iedit history``: what a model reached when, its baseline, and whether it fell."""

import argparse
from typing import TYPE_CHECKING, Any

from flows.cli.options import add_root

if TYPE_CHECKING:
    from storage import Files


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_root(parser)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="which model; without it, all are listed")
    parser.add_argument("--pin", metavar="EVALUATION", help="make this evaluation (or latest) the baseline")
    parser.add_argument("--check", action="store_true", help="fail when the newest evaluation fell below the baseline")
    parser.add_argument(
        "--metrics", default="clip_score,ssim_zero_fill_outside,fid", metavar="A,B", help="what to print"
    )


def run(options: argparse.Namespace) -> int:
    """List, pin or check."""
    from storage import ShardStore
    from tasks.evaluate.history import check_regressions, history_models, pin_baseline, pinned_baseline, read_history

    files = ShardStore.at(options.root).files
    if options.model is None:
        print("\n".join(history_models(files)) or "no evaluation has been made yet")
        return 0
    if options.pin is not None:
        pin_baseline(files, options.model, _evaluation(files, options.model, options.pin))
    rows = read_history(files, options.model)
    print(history_text(rows, metrics=options.metrics.split(","), baseline=pinned_baseline(files, options.model)))
    if options.check:
        print(check_regressions(files, options.model))
    return 0


def history_text(rows: list[dict[str, Any]], *, metrics: list[str], baseline: str | None) -> str:
    """Return a history as lines: a block an evaluation, a line a set and method."""
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
