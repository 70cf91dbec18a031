"""What an evaluation leaves: the report beside its record, and its headline in the Prefect page."""

from collections.abc import Sequence
from typing import Final

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from storage import ShardStore
from tasks.evaluation.record import FOLDER, Evaluation
from tasks.evaluation.results import MethodScores
from tasks.history import pinned_baseline, read_history
from tasks.report.page import ReportExtras, report_html

REPORT: Final = "report.html"
_HEADLINE: Final = ("clip_score", "ssim_background", "ssim_edit_region")


def publish_evaluation(evaluation: Evaluation, runs: Sequence[MethodScores], root: str, *, size_px: int) -> str:
    """Write the report and the artifacts; return the report's address."""
    store = ShardStore.at(root)
    extras = ReportExtras(
        history=read_history(store.files, evaluation.model), baseline=pinned_baseline(store.files, evaluation.model)
    )
    page = report_html(evaluation, store, runs, size_px=size_px, extras=extras)
    path = f"{FOLDER}/{evaluation.id}/{REPORT}"
    store.files.write_bytes(path, page.encode())
    address = store.files.address(path)
    create_markdown_artifact(
        key="report", markdown=f"Report of evaluation {evaluation.id}: `{address}`\n", description="Where the report is"
    )
    create_table_artifact(key="scores", table=headline(evaluation), description=f"Evaluation {evaluation.id}")
    return address


def headline(evaluation: Evaluation) -> list[dict[str, str]]:
    """Return one row a set and method with the means of the paper's metrics."""
    rows: list[dict[str, str]] = []
    results = evaluation.results
    for evalset in results.evalsets:
        for method in results.methods:
            row = {"set": evalset, "method": method}
            for metric in results.metrics:
                cell = evaluation.summary.cell(evalset, method, metric)
                if cell is not None and metric.partition("@")[0].startswith(("clip_score", "ssim")):
                    row[metric] = f"{cell.value:.2f}"
            rows.append(row)
    return rows
