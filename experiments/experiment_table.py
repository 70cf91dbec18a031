"""What the experiments came to: each run's means, and differences to another run on the same edits with intervals."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.edit_cases import UNEDITED
from experiments.edit_scores import METRICS
from iedit_model.metrics.bootstrap import BootstrapConfig, difference_interval, sample_resamples

BASELINE: Final = "baseline"
"""Name under which the untrained model's scores stand."""
COMPARED: Final = ("clip_held_out", "success", "ssim_outside", "ssim_kept")
_SETTINGS: Final = ("evalset", "strength", "guidance", "num_steps", "dilate_cells")
UNTRAINED: Final = (BASELINE, *UNEDITED)
"""Runs without a training seed, so that each seed of a trained one is compared with the same edits."""
_HELD_OUT: Final = ("real", "generated")
_TOGETHER: Final = "+".join(_HELD_OUT)

Rows = Sequence[Mapping[str, Any]]
Groups = Mapping[tuple[Any, ...], Rows]


@dataclass(frozen=True, kw_only=True)
class Against:
    """The run that all others are compared with, under the same settings."""

    name: str = BASELINE
    method: str | None = "sdedit"
    """None: the one of the same form, with masks for a run with masks."""

    @classmethod
    def of(cls, text: str) -> "Against":
        """Return what ``NAME`` or ``NAME:METHOD`` means."""
        name, _, method = text.partition(":")
        return cls(name=name, method=method or None)

    def __str__(self) -> str:
        """Return it as it is written on the command line."""
        return self.name if self.method is None else f"{self.name}:{self.method}"

    def rows(self, groups: Groups, settings: tuple[Any, ...], method: str) -> Rows:
        """Return the edits that a run's are compared with, none where there are none under its settings."""
        if self.method is not None:
            return groups.get((*settings, self.name, self.method), ())
        masked = method.endswith("_m")
        same = [key for key in groups if key[:-1] == (*settings, self.name) and key[-1].endswith("_m") == masked]
        return groups[same[0]] if same else ()


def experiment_table(
    scores: Path, *, against: Against | None = None, names: Collection[str] = (), kind: str | None = None
) -> list[list[str]]:
    """Return head and lines of the table of all score files: one line a run, method and setting, its seeds together.

    Differences are taken edit by edit; the bootstrap samples source images, and training seeds where there are several.
    Where both held-out sets are there, a run has a line for the two together as well.

    Args:
        scores: folder of the score files.
        against: what a run is compared with; SDEdit of the untrained model by default.
        names: only the lines of these runs; all by default.
        kind: only the edits of this kind, noun or colour; all by default.
    """
    against, groups = against or Against(), _groups(scores, kind)
    lines = []
    for key, found in sorted(groups.items()):
        *settings, name, method = key
        if names and name not in names:
            continue
        reference = against.rows(groups, tuple(settings), method)
        seeds = len({row["train_seed"] for row in found})
        lines.append(
            [
                *(str(part) for part in key),
                f"{seeds} x {len(found) // seeds}",
                *(f"{mean_of(found, metric):.1f}" for metric in METRICS),
                *(difference_of(found, reference, metric) for metric in COMPARED),
            ]
        )
    head = [*_SETTINGS, "name", "method", "seeds x edits", *METRICS, *(f"{one} - {against}" for one in COMPARED)]
    return [head, *lines]


def _groups(scores: Path, kind: str | None) -> Groups:
    """Return settings, name and method -> the score rows of its edits."""
    tables = [pq.read_table(path) for path in sorted(scores.glob("*.parquet"))]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in pa.concat_tables(tables, promote_options="default").to_pylist() if tables else ():
        if kind in (None, row["kind"]):
            key = (*(row[name] for name in _SETTINGS), row["name"], row["method"])
            groups.setdefault(key, []).append(row)
    for evalset, *rest in [key for key in groups if key[0] == _HELD_OUT[0]]:
        if all((name, *rest) in groups for name in _HELD_OUT):
            groups[(_TOGETHER, *rest)] = groups[(evalset, *rest)] + groups[(_HELD_OUT[1], *rest)]
    return groups


def mean_of(rows: Rows, metric: str) -> float:
    """Return the mean over the rows where a metric is defined, NaN where there is none."""
    values = [row[metric] for row in rows if row.get(metric) is not None and not np.isnan(row[metric])]
    return float(np.mean(values)) if values else float("nan")


def difference_of(rows: Rows, reference: Rows, metric: str) -> str:
    """Return "difference [low, high]" over the edits that both have, or nothing where no value is defined.

    Edits of two trained runs belong together where their training seeds are equal. The untrained model has the seed 0.
    """
    seeded = any(row["name"] not in UNTRAINED for row in reference)
    known = {_edit(row, seeded=seeded): row.get(metric) for row in reference}
    both = [row for row in rows if _edit(row, seeded=seeded) in known]
    first = np.array([row.get(metric) for row in both], float)
    second = np.array([known[_edit(row, seeded=seeded)] for row in both], float)
    if not both or np.isnan(first - second).all():
        return ""
    seeds = [row["train_seed"] for row in both]
    draws = sample_resamples(
        [row["image_id"] for row in both],
        replicate_ids=seeds if len(set(seeds)) > 1 else None,
        config=BootstrapConfig(num_resamples=2_000),
    )
    found = difference_interval(first, second, draws).interval
    return f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"


def _edit(row: Mapping[str, Any], *, seeded: bool) -> tuple[Any, ...]:
    return (row["case_id"], row["seed"], row["train_seed"] if seeded else None)
