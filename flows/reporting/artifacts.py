"""What a run leaves in the Prefect page: the funnel, a sheet of pairs, and where to find the rest."""

import io
from typing import Any, Final

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.reporting.progress import StageTotals
from flows.reporting.version_text import find_version
from iedit_model.imaging.encode import data_url
from storage import ShardStore, StageRecord, VersionInfo, VersionStore
from storage.files import Files
from tasks.dataset.dataset_card import dataset_card
from tasks.dataset.gallery import pair_sheet
from tasks.evaluate.driver import FinishedEvaluation
from tasks.evaluate.history import pinned_baseline, read_history
from tasks.evaluate.record import Evaluation
from tasks.evaluate.report.page import ReportExtras
from tasks.evaluate.report.view import FunnelRow, ReportConfig
from tasks.evaluate.report.write import write_report


def publish_image(data: bytes, *, key: str, title: str, description: str) -> None:
    """Create an artifact that shows an image; must be called inside a flow run.

    Args:
        data: a PNG or WebP file.
        key: of the artifact.
        title: text where the image cannot be shown.
        description: what it shows.
    """
    url = data_url(data, "png" if data.startswith(b"\x89PNG") else "webp")
    create_markdown_artifact(key=key, markdown=f"![{title}]({url})\n", description=description)


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
    """Return one row per set and method with the means of the paper's metrics."""
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


_PAIRS_SHOWN: Final = 12


def publish_version(version: VersionInfo, root: str, totals: StageTotals) -> None:
    """Create the artifacts of a finished build: funnel, gallery and dataset card."""
    create_table_artifact(
        key="funnel", table=funnel_rows(version, totals), description=f"From URLs to pairs: version {version.id}"
    )
    versions = VersionStore(Files(root))
    sheet = pair_sheet(versions, version, limit=_PAIRS_SHOWN)
    stream = io.BytesIO()
    sheet.save(stream, "WEBP", quality=90)
    publish_image(
        stream.getvalue(),
        key="pairs",
        title="pairs",
        description=f"Pairs of version {version.id}: source, its mask, target, its mask, caption > edit prompt",
    )
    create_markdown_artifact(
        key="dataset-card", markdown=dataset_card(versions, version.id), description=f"Card of version {version.id}"
    )


def funnel_rows(version: VersionInfo, totals: StageTotals) -> list[dict[str, Any]]:
    """Return the funnel as rows: stage, in, out, dropped by reason, and samples per second of one worker."""
    return [_row(record, totals) for record in version.stages]


def _row(record: StageRecord, totals: StageTotals) -> dict[str, Any]:
    speed = totals.per_second(record.stage)
    return {
        "stage": record.stage,
        "in": record.num_in,
        "out": record.num_out,
        "per second": round(speed, 1) if speed is not None else None,
        "dropped": ", ".join(f"{reason} {count}" for reason, count in record.dropped.items()) or "none",
    }
