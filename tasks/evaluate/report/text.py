"""The tables of a report for a terminal."""

from collections.abc import Sequence

from tasks.evaluate.record import Evaluation
from tasks.evaluate.report.tables import Table, paper_tables
from tasks.evaluate.report.view import claim_views


def evaluation_text(evaluation: Evaluation) -> str:
    """Return the paper's tables with our numbers, and which of its orderings hold."""
    parts = [table_text(table) for table in paper_tables(evaluation)]
    claims = claim_views(evaluation)
    lines = [
        f"{claim.verdict:>13} ({claim.confidence} of resamples): {claim.text} [{claim.evalset}]: {claim.numbers}"
        for claim in claims
    ]
    lines += [
        f"{'':>13} {claim.text} [{claim.evalset}] breaks at {claim.broken_at}: "
        + ", ".join(f"{part} {difference} {interval}".rstrip() for part, difference, interval, _ in claim.parts)
        for claim in claims
        if not claim.holds
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
    return "\n".join([table.title, *(_line(row, widths) for row in rows), *table.trainings()])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (text.ljust(width) for text, width in zip(row, widths, strict=True))
    return "  ".join([first, *others]).rstrip()


def _bracketed(text: str) -> str:
    return f"({text})" if text else ""
