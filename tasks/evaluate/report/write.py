"""Write a report beside its evaluation: ``report.html``, ``report.json`` and ``tables.tex``."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage import ShardStore
from tasks.evaluate.record import FOLDER, Evaluation
from tasks.evaluate.report.exports import report_json, report_latex
from tasks.evaluate.report.page import ReportExtras, report_html
from tasks.evaluate.report.view import ReportConfig
from tasks.evaluate.results import MethodScores


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Where a report lies, as full addresses."""

    html: str
    json: str
    latex: str


def write_report(
    evaluation: Evaluation,
    store: ShardStore,
    runs: Sequence[MethodScores],
    *,
    size_px: int,
    config: ReportConfig | None = None,
    extras: ReportExtras | None = None,
) -> ReportFiles:
    """Write all three files and return where they lie; an earlier report of the same evaluation is replaced.

    Raises:
        EvalSetError: an image of a set cannot be read.
        MissingFileError: edited images are gone.
        DiskFullError: no room.
    """
    page = report_html(evaluation, store, runs, size_px=size_px, config=config, extras=extras)
    folder = f"{FOLDER}/{evaluation.id}"
    contents = {
        "report.html": page.encode(),
        "report.json": report_json(evaluation),
        "tables.tex": report_latex(evaluation).encode(),
    }
    for name, data in contents.items():
        store.files.write_bytes(f"{folder}/{name}", data)
    html, as_json, latex = (store.files.address(f"{folder}/{name}") for name in contents)
    return ReportFiles(html=html, json=as_json, latex=latex)
