"""What the experiments came to: each run's means, and differences to SDEdit on the same edits with intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _edit_scores import METRICS

from iedit_model.metrics.bootstrap import BootstrapConfig, difference_interval, draw_resamples

COMPARED: Final = ("clip_held_out", "ssim_outside")
_SETTINGS: Final = ("evalset", "strength", "guidance", "num_steps", "dilate_cells")
_REFERENCE: Final = ("baseline", "sdedit")

Rows = Sequence[Mapping[str, Any]]


def experiment_table(scores: Path) -> list[list[str]]:
    """Return head and lines of the table of all score files: one line a run, method and setting, its seeds together.

    Differences are taken edit by edit; the bootstrap draws source images, and training seeds where there are several.
    """
    rows = pa.concat_tables(
        [pq.read_table(path) for path in sorted(scores.glob("*.parquet"))], promote_options="default"
    ).to_pylist()
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((*(row[name] for name in _SETTINGS), row["name"], row["method"]), []).append(row)
    lines = []
    for key, found in sorted(groups.items()):
        reference = groups.get((*key[: len(_SETTINGS)], *_REFERENCE))
        seeds = len({row["train_seed"] for row in found})
        lines.append(
            [
                *(str(part) for part in key),
                f"{seeds} x {len(found) // seeds}",
                *(f"{mean_of(found, metric):.1f}" for metric in METRICS),
                *("" if reference is None else difference_of(found, reference, metric) for metric in COMPARED),
            ]
        )
    head = [*_SETTINGS, "name", "method", "seeds x edits", *METRICS, *(f"{metric} - SDEdit" for metric in COMPARED)]
    return [head, *lines]


def mean_of(rows: Rows, metric: str) -> float:
    """Return the mean over the rows where a metric is defined, NaN where there is none."""
    values = [row[metric] for row in rows if row.get(metric) is not None and not np.isnan(row[metric])]
    return float(np.mean(values)) if values else float("nan")


def difference_of(rows: Rows, reference: Rows, metric: str) -> str:
    """Return "difference [low, high]" over the edits that both have, or nothing where no value is defined."""
    known = {(row["case_id"], row["seed"]): row[metric] for row in reference}
    both = [row for row in rows if (row["case_id"], row["seed"]) in known]
    first = np.array([row[metric] for row in both], float)
    second = np.array([known[row["case_id"], row["seed"]] for row in both], float)
    if not both or np.isnan(first - second).all():
        return ""
    seeds = [row["train_seed"] for row in both]
    draws = draw_resamples(
        [row["image_id"] for row in both],
        replicate_ids=seeds if len(set(seeds)) > 1 else None,
        config=BootstrapConfig(num_resamples=2_000),
    )
    found = difference_interval(first, second, draws).interval
    return f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
