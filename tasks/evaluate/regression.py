"""When a fall is a regression: a metric moved the wrong way by more than its baseline's interval reaches that way."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import PositiveFloat

from iedit_model.configuration import configuration
from iedit_model.metrics.catalogue import metric_info, metric_infos


def watched_metrics() -> tuple[str, ...]:
    """Return the names of the metrics whose fall is a regression."""
    return tuple(name for name, info in metric_infos().items() if info.is_watched)


@configuration
class RegressionConfig:
    """When a fall is a regression."""

    metrics: tuple[str, ...] = field(default_factory=watched_metrics)
    """Names in the catalogue, each encoder and network of them; by default those that are registered as watched."""
    methods: tuple[str, ...] = ("iedit", "iedit_m")
    """Methods of the model; the baselines beside them are not ours to guard."""
    factor: PositiveFloat = 1.0
    """How many half intervals a metric may fall."""

    def __post_init__(self) -> None:
        for name in self.metrics:
            if metric_info(name).better == "neither":
                raise ValueError(f"the metric {name} has no better way, so that it cannot fall")


@dataclass(frozen=True, kw_only=True, slots=True)
class Regression:
    """One metric that fell."""

    evalset: str
    method: str
    metric: str
    baseline: float
    value: float | None
    """None where it was measured at the baseline and is not any more."""
    allowed: float
    """How far it might have moved."""

    @property
    def text(self) -> str:
        """What happened, in one sentence with the units of the tables."""
        info = metric_info(self.metric)
        factor, unit = info.display_factor, f" {info.unit}" if info.unit else ""
        where = f"{self.metric} of {self.method} on {self.evalset}"
        if self.value is None:
            return f"{where} was {self.baseline * factor:.4g}{unit} and is not measured any more"
        verb = "fell" if info.better == "higher" else "rose"
        return (
            f"{where} {verb} from {self.baseline * factor:.4g} to {self.value * factor:.4g}{unit}, by "
            f"{abs(self.value - self.baseline) * factor:.3g} where its interval allows {self.allowed * factor:.3g}"
        )


def find_regressions(
    baseline: Iterable[Mapping[str, Any]], newest: Iterable[Mapping[str, Any]], config: RegressionConfig | None = None
) -> list[Regression]:
    """Return every watched metric that fell by more than its interval.

    Args:
        baseline: rows of the pinned evaluation.
        newest: rows of the evaluation to judge.
        config: which metrics and methods; the defaults of ``RegressionConfig`` when left out.
    """
    config = config or RegressionConfig()
    now = {(row["evalset"], row["method"], row["metric"]): row for row in newest}
    found = []
    for row in baseline:
        bare = row["metric"].partition("@")[0]
        if bare not in config.metrics or row["method"] not in config.methods or row["value"] is None:
            continue
        key = (row["evalset"], row["method"], row["metric"])
        value = now[key]["value"] if key in now else None
        higher = metric_info(bare).better == "higher"
        end = row["low"] if higher else row["high"]
        # Without an interval (too few images) any fall counts: there is nothing to allow it.
        allowed = config.factor * abs(row["value"] - end) if end is not None else 0.0
        fall = math.inf if value is None else (row["value"] - value if higher else value - row["value"])
        if fall > allowed:
            found.append(
                Regression(
                    evalset=key[0],
                    method=key[1],
                    metric=key[2],
                    baseline=row["value"],
                    value=value,
                    allowed=allowed,
                )
            )
    return found
