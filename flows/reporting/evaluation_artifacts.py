"""What an evaluation leaves: the report beside its record, and its headline in the Prefect page."""

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.reporting.version_text import find_version
from storage import ShardStore, VersionStore
from tasks.evaluate.driver import FinishedEvaluation
from tasks.evaluate.history import pinned_baseline, read_history
from tasks.evaluate.record import Evaluation
from tasks.evaluate.report.page import ReportExtras
from tasks.evaluate.report.view import FunnelRow, ReportConfig
from tasks.evaluate.report.write import write_report


def publish_evaluation(
    done: FinishedEvaluation,
    root: str,
    *,
    size_px: int,
    version: str | None = None,
) -> str:
    """Write the report and the artifacts; return the report's address."""
    store, evaluation = ShardStore.at(root), done.evaluation
    extras = ReportExtras(
        sweep=done.sweep,
        history=read_history(store.files, evaluation.model),
        baseline=pinned_baseline(store.files, evaluation.model),
        funnel=funnel_of(store, version),
    )
    config = ReportConfig(title=f"Evaluation of {evaluation.model}")
    written = write_report(evaluation, store, done.runs, size_px=size_px, config=config, extras=extras)
    create_markdown_artifact(
        key="report", markdown=f"`{written.html}`\n", description=f"Report of evaluation {evaluation.id}"
    )
    create_table_artifact(key="scores", table=headline(evaluation), description=f"Evaluation {evaluation.id}")
    return str(written.html)


def headline(evaluation: Evaluation) -> list[dict[str, str]]:
    """Return one row a set and method with the means of the paper's metrics."""
    rows: list[dict[str, str]] = []
    results = evaluation.results
    for evalset in results.evalsets:
        for method in results.methods:
            row = {"set": evalset, "method": method}
            for metric in results.metrics:
                cell = evaluation.summary.cell(evalset, method, metric)
                if cell is not None and metric.startswith(("clip_score", "ssim")):
                    row[metric] = f"{cell.value:.2f}"
            rows.append(row)
    return rows


def funnel_of(store: ShardStore, version: str | None) -> list[FunnelRow]:
    """Return the stages of a dataset version, none where none is named.

    Raises:
        UnknownVersionError: there is no such version.
    """
    if version is None:
        return []
    info = find_version(VersionStore(store.files), version)
    return [
        FunnelRow(stage=record.stage, num_in=record.num_in, num_out=record.num_out, dropped=record.dropped)
        for record in info.stages
    ]
