"""Gates: which candidate pairs are good enough, and the choice of the target. Works on the scores alone.

Thresholds are compared in steps of 1e-4, which is more than batch size or hardware can shift.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from iedit_model.configuration import Cosine, configuration
from storage import SAMPLE_ID, Dropped, TableSchema, col, in_manifest
from storage.tables import COSINE, compute
from tasks.embed.vectors import Bools, Int64s, rounded_scores
from tasks.retrieve.candidates import EXCLUSIONS
from tasks.retrieve.pair_scores import MissingScoreError

if TYPE_CHECKING:
    import pyarrow as pa

_CANDIDATE_SIMILARITIES: Final = tuple(
    col(name, "list<float32>", f"{meaning}, one per candidate; empty when it was not measured.", COSINE)
    for name, meaning in (
        ("candidate_similarities", "Query against the candidate's image"),
        ("candidate_text_similarities", "Candidate's image against the edit prompt"),
        ("candidate_image_similarities", "Source image against the candidate's image"),
        ("candidate_directional_similarities", "Change of the images against change of the texts"),
        ("candidate_layout_similarities", "Agreement of the two images' layouts"),
    )
)

RETRIEVE: Final = TableSchema(
    name="retrieve",
    description="One row per query with its ranked candidates; `target_id` is null when every candidate was rejected.",
    columns=(
        SAMPLE_ID,
        *in_manifest(
            col("target_id", "string", "Sample whose image is the pseudo-target.", "20 hex characters", nullable=True),
            col("similarity", "float32", "Query embedding against the target's image.", COSINE, nullable=True),
            col("rank", "int32", "Rank of the target among the candidates.", "from 0", nullable=True),
            certain=True,
        ),
        *in_manifest(
            col("source_text_similarity", "float32", "Source image against the caption.", COSINE, nullable=True),
            col("target_text_similarity", "float32", "Target image against the edit prompt.", COSINE, nullable=True),
            col("image_similarity", "float32", "Source image against the target image.", COSINE, nullable=True),
            col(
                "directional_similarity",
                "float32",
                "Change of the images against change of the texts.",
                COSINE,
                nullable=True,
            ),
            col("layout_similarity", "float32", "Agreement of the two images' layouts.", "[-1, 1]", nullable=True),
            col("candidate_ids", "list<string>", "Samples found, best first."),
            col("candidate_scores", "list<float32>", "Scores of the candidates, as ranked.", COSINE),
            col("candidate_reasons", "list<string>", "Why each candidate was rejected; empty for one that passed."),
        ),
        *_CANDIDATE_SIMILARITIES,
    ),
)

GATE_STEP: Final = 1e-4
"""Scores and thresholds are rounded to multiples of this before they are compared."""


_OF_TARGET: Final = {
    "similarity": "candidate_similarities",
    "target_text_similarity": "candidate_text_similarities",
    "image_similarity": "candidate_image_similarities",
    "directional_similarity": "candidate_directional_similarities",
    "layout_similarity": "candidate_layout_similarities",
}
"""Column of the chosen target -> list column from which it is taken."""


@configuration
class GateConfig:
    """Least or greatest scores of a pair, cosines; None lets everything pass."""

    source_text_min: Cosine | None = None
    """Source image against its caption."""
    target_text_min: Cosine | None = None
    """Target image against the edit prompt."""
    image_min: Cosine | None = None
    """Source image against target image."""
    image_max: Cosine | None = None
    """Source image against target image."""
    directional_min: Cosine | None = None
    """Change of the images against change of the texts."""

    def __post_init__(self) -> None:
        if self.image_min is not None and self.image_max is not None and self.image_min > self.image_max:
            raise ValueError(f"image_min {self.image_min} is above image_max {self.image_max}")


_GATES: Final = (
    ("source_text_min", "source_text_similarity", "source_text_low"),
    ("target_text_min", "candidate_text_similarities", "target_text_low"),
    ("image_min", "candidate_image_similarities", "image_low"),
    ("image_max", "candidate_image_similarities", "image_high"),
    ("directional_min", "candidate_directional_similarities", "directional_low"),
)
"""Field of ``GateConfig``, column that it looks at, reason; a candidate that fails several has the first as reason."""

REJECTIONS: Final = (*EXCLUSIONS, *(reason for _, _, reason in _GATES))
"""All that can stand in ``candidate_reasons``; the empty one is for candidates that passed."""


def gated(table: "pa.Table", exclusions: npt.NDArray[Any], gates: GateConfig) -> "pa.Table":
    """Return ``table`` with ``candidate_reasons`` and the columns of the chosen target filled in.

    The target is the first candidate in the stored order that is neither excluded nor fails a gate.

    Args:
        table: with all columns of ``RETRIEVE`` that do not depend on gates.
        exclusions: for all candidates, row after row, the exclusion or an empty string.
        gates: what must hold.

    Raises:
        MissingScoreError: a gate asks for a score that was not measured.
    """
    import pyarrow as pa

    lengths = _lengths(table, "candidate_ids")
    rows = np.repeat(np.arange(table.num_rows), lengths)
    reasons = exclusions.astype(f"U{max(map(len, REJECTIONS))}")
    for name, column, reason in reversed(_GATES):
        threshold = getattr(gates, name)
        if threshold is not None and len(rows):
            failed = _failed(table, column, threshold, rows, highest=name.endswith("_max"))
            reasons[failed & (exclusions == "")] = reason
    passed = np.flatnonzero(reasons == "")
    chosen_rows, first = np.unique(rows[passed], return_index=True)
    chosen = passed[first]
    starts = np.cumsum(lengths) - lengths
    columns = {name: table[name] for name in RETRIEVE.names if name in table.column_names}
    columns |= _target_columns(table, chosen_rows, chosen, chosen - starts[chosen_rows])
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    columns["candidate_reasons"] = pa.ListArray.from_arrays(offsets, pa.array(reasons, pa.string()))
    return pa.table([columns[name] for name in RETRIEVE.names], names=list(RETRIEVE.names))


def dropped_rows(table: "pa.Table") -> Iterator[Dropped]:
    """Yield a dropped sample for each row without a target, with why.

    ``no_candidates``: nothing was found. ``all_excluded``: all that was found shows the source again.
    ``source_text_low``: the source itself fails its gate. ``all_gated``: each candidate fails some gate.
    """
    pc = compute()
    lost = table.filter(pc.field("target_id").is_null()).select(["sample_id", "candidate_reasons"])
    for row in lost.to_pylist():
        counts = Counter(row["candidate_reasons"])
        gates = {reason: count for reason, count in counts.items() if reason not in EXCLUSIONS}
        if not counts:
            reason = "no_candidates"
        elif not gates:
            reason = "all_excluded"
        else:
            reason = "source_text_low" if set(gates) == {"source_text_low"} else "all_gated"
        detail = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        yield Dropped(sample_id=row["sample_id"], reason=reason, detail=detail)


def _failed(table: "pa.Table", column: str, threshold: float, rows: Int64s, *, highest: bool) -> Bools:
    values = table[column].to_numpy()[rows] if column == "source_text_similarity" else _flat(table, column)
    if len(values) != len(rows) or np.isnan(values.astype(np.float64)).any():
        raise MissingScoreError(
            f"a gate asks for {column}, which was not measured: leave the gate out (None) or let the embed stage store "
            "caption_embeds"
        )
    rounded = rounded_scores(values.astype(np.float64), GATE_STEP)
    limit = round(threshold / GATE_STEP)
    return rounded > limit if highest else rounded < limit


def _target_columns(table: "pa.Table", rows: Int64s, chosen: Int64s, ranks: Int64s) -> "dict[str, pa.Array]":
    import pyarrow as pa

    columns = {
        "target_id": _spread(_flat(table, "candidate_ids")[chosen], rows, table.num_rows, pa.string()),
        "rank": _spread(ranks, rows, table.num_rows, pa.int32()),
    }
    for name, source in _OF_TARGET.items():
        values = _flat(table, source)
        measured = len(values) > 0
        taken = (values[chosen], rows) if measured else (values, rows[:0])
        columns[name] = _spread(*taken, table.num_rows, pa.float32())
    return columns


def _spread(values: npt.NDArray[Any], rows: Int64s, num_rows: int, kind: "pa.DataType") -> "pa.Array":
    """Return a column with ``values`` at ``rows`` and null elsewhere."""
    import pyarrow as pa

    column = np.zeros(num_rows, values.dtype)
    column[rows] = values
    absent = np.ones(num_rows, bool)
    absent[rows] = False
    return pa.array(column, mask=absent).cast(kind) if kind != pa.string() else pa.array(column, kind, mask=absent)


def _flat(table: "pa.Table", column: str) -> npt.NDArray[Any]:
    import pyarrow as pa

    pc = compute()
    values = pc.list_flatten(table[column]).combine_chunks()
    if pa.types.is_string(values.type):
        return np.array(values.to_pylist(), dtype=str) if len(values) else np.zeros(0, "U1")
    return values.to_numpy(zero_copy_only=False)


def _lengths(table: "pa.Table", column: str) -> Int64s:
    pc = compute()
    return pc.list_value_length(table[column]).combine_chunks().to_numpy().astype(np.int64)
