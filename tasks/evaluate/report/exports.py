"""The tables of a report for other programs: JSON, and LaTeX with the best of a column in bold."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tasks.evaluate.record import Evaluation
from tasks.evaluate.report.tables import Table, TableRow, metric_tables, paper_tables
from tasks.evaluate.report.view import claim_views

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
    """Return the tables, the claims and the summary behind them as JSON."""
    content: dict[str, Any] = {
        "evaluation": evaluation.id,
        "model": evaluation.model,
        "tables": [asdict(table) for table in (*paper_tables(evaluation), *metric_tables(evaluation))],
        "claims": [asdict(claim) for claim in claim_views(evaluation)],
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
        _line(["Method", *(escape_latex(head) for head in heads)]),
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
    return _line([escape_latex(row.title), *cells])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
