"""A report as files and as text: HTML, JSON and LaTeX (best of a column in bold), and tables for a terminal."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from storage import ShardStore
from tasks.evaluate.record import FOLDER, Evaluation
from tasks.evaluate.report.page import ReportExtras, report_html
from tasks.evaluate.report.tables import Table, TableRow, metric_tables, paper_tables
from tasks.evaluate.report.view import ReportConfig, ranking_views
from tasks.evaluate.results import MethodScores

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\N{UPWARDS ARROW}": r"$\uparrow$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
}
_SPECIAL = re.compile("|".join(re.escape(character) for character in _LATEX))


def report_json(evaluation: Evaluation) -> bytes:
    """Return the tables, the rankings and the summary behind them as JSON."""
    content: dict[str, Any] = {
        "evaluation": evaluation.id,
        "model": evaluation.model,
        "tables": [asdict(table) for table in (*paper_tables(evaluation), *metric_tables(evaluation))],
        "rankings": [asdict(ranking) for ranking in ranking_views(evaluation)],
        "summary": evaluation.summary.to_json(),
        "provenance": asdict(evaluation.provenance),
    }
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def report_latex(evaluation: Evaluation) -> str:
    """Return the paper's tables with our numbers as LaTeX (needs booktabs), the paper's in brackets."""
    return "\n\n".join(latex_table(table) for table in paper_tables(evaluation)) + "\n"


def latex_table(table: Table) -> str:
    """Return one table: means with the paper's number behind them, best bold, second best underlined."""
    heads = [f"{head} {unit}".strip() for head, unit in zip(table.heads, table.units, strict=True)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(' '.join([f'{table.title}.', table.caption, *table.trainings()]))}}}",
        rf"\label{{tab:{re.sub('[^a-z0-9]+', '-', table.name.lower())}}}",
        rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
        r"\toprule",
        _exports_line(["Method", *(escape_latex(head) for head in heads)]),
        r"\midrule",
        *(_latex_row(row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def escape_latex(text: str) -> str:
    """Return text in which nothing is a command."""
    return _SPECIAL.sub(lambda match: _LATEX[match[0]], " ".join(text.split()))


def _latex_row(row: TableRow) -> str:
    cells = []
    for cell in row.cells:
        text = escape_latex(cell.text)
        text = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(cell.rank, text)
        cells.append(f"{text} ({escape_latex(cell.aside.removeprefix('paper '))})" if cell.aside else text)
    return _exports_line([escape_latex(row.title), *cells])


def _exports_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def evaluation_text(evaluation: Evaluation) -> str:
    """Return the paper's tables with our numbers, and which of its orderings hold."""
    parts = [table_text(table) for table in paper_tables(evaluation)]
    rankings = ranking_views(evaluation)
    lines = [
        f"{ranking.verdict:>13} ({ranking.confidence} of resamples): {ranking.text} [{ranking.evalset}]: "
        f"{ranking.numbers}"
        for ranking in rankings
    ]
    lines += [
        f"{'':>13} {ranking.text} [{ranking.evalset}] breaks at {ranking.broken_at}: "
        + ", ".join(f"{part} {difference} {interval}".rstrip() for part, difference, interval, _ in ranking.parts)
        for ranking in rankings
        if ranking.broken_at
    ]
    if lines:
        parts.append("\n".join(["The paper's orderings:", *lines]))
    if evaluation.provenance.deviations:
        parts.append("\n  ".join(["Other than in the paper:", *evaluation.provenance.deviations]))
    return "\n\n".join(parts)


def table_text(table: Table) -> str:
    """Return one table in columns: each mean with its interval, the paper's number behind it."""
    heads = [f"{head} {unit}".strip() for head, unit in zip(table.heads, table.units, strict=True)]
    body = [
        [
            row.title,
            *(
                " ".join(part for part in (cell.text, cell.interval, _bracketed(cell.aside)) if part)
                for cell in row.cells
            ),
        ]
        for row in table.rows
    ]
    rows = [["", *heads], *body]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join([table.title, *(_text_line(row, widths) for row in rows), *table.trainings()])


def _text_line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (text.ljust(width) for text, width in zip(row, widths, strict=True))
    return "  ".join([first, *others]).rstrip()


def _bracketed(text: str) -> str:
    return f"({text})" if text else ""


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
