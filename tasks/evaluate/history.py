"""The history of evaluations: what a named model reached when, against a pinned baseline.

Append-only: ``history/<model>/<evaluation>.parquet`` is written once an evaluation; nothing is ever rewritten but the
small pin ``history/<model>/baseline.json``. When a fall is a regression, says ``tasks.evaluate.history``.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import PositiveFloat

from iedit_model.configuration import configuration
from iedit_model.metrics.catalogue import metric_info, metric_infos
from storage import (
    Column,
    CorruptFileError,
    Files,
    MissingFileError,
    SchemaError,
    TableSchema,
    digest_of,
    parquet_bytes,
)
from tasks.evaluate.errors import EvaluationError, RegressionError, UnknownEvaluationError
from tasks.evaluate.record import Evaluation
from tasks.evaluate.results import ALL_SETS
from tasks.evaluate.sets.untrusted import read_bounded

FOLDER, PIN = "history", "baseline.json"
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SUBJECT: Final = ("weights_digest", "evalset_digest", "code", "scoring")
_MEANING: Final = {
    "weights_digest": "the model",
    "evalset_digest": "the evaluation set",
    "code": "the code",
    "scoring": "the configuration or the metrics' networks",
}


def _text(name: str, description: str) -> Column:
    return Column(name=name, type="string", description=description)


HISTORY = TableSchema(
    name="history",
    description="One row a set, method and metric of an evaluation.",
    columns=(
        _text("evaluation", "Id of the evaluation."),
        _text("created", "When it was finished, ISO 8601."),
        _text("model", "Name of the model."),
        _text("weights_digest", "Digest of the weights of all methods."),
        _text("evalset", "Evaluation set."),
        _text("evalset_digest", "Digest of its pairs."),
        _text("code", "Digest of the declared versions of what decides the numbers."),
        _text("scoring", "Digest of the configuration."),
        _text("commit", "Git commit; empty where there is none."),
        _text("method", "Method."),
        _text("metric", "Metric with its network."),
        Column(name="value", type="float64", description="Mean, or distance of the sets.", nullable=True),
        Column(name="low", type="float64", description="Lower end of its interval.", nullable=True),
        Column(name="high", type="float64", description="Upper end of its interval.", nullable=True),
        Column(name="num_values", type="int64", description="Defined values.", unit="count"),
    ),
    sort_by=("evaluation", "evalset", "method", "metric"),
)


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
        newest: rows of the newest evaluation.
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


def history_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the rows that an evaluation adds."""
    provenance = evaluation.provenance
    models = digest_of(*(part for item in sorted(provenance.models.items()) for part in item))
    common = {
        "evaluation": evaluation.id,
        "created": provenance.created,
        "model": evaluation.model,
        "weights_digest": models,
        "code": provenance.code,
        "scoring": digest_of(provenance.config),
        "commit": provenance.commit,
    }
    means = [
        {
            **common,
            **_set_of(provenance.evalsets, cell.evalset),
            "method": cell.method,
            "metric": cell.metric,
            **_numbers(cell.interval.value, cell.interval.low, cell.interval.high),
            "num_values": cell.interval.num_values,
        }
        for cell in evaluation.summary.cells
    ]
    distances = [
        {
            **common,
            **_set_of(provenance.evalsets, evalset),
            "method": metric.method,
            "metric": metric.name,
            **_numbers(metric.value, metric.low, metric.high),
            "num_values": metric.num_edited * metric.num_sets,
        }
        for evalset, metrics in evaluation.summary.set_metrics.items()
        for metric in metrics
    ]
    return means + distances


def append_history(files: Files, evaluation: Evaluation) -> str:
    """Add an evaluation to the history of its model and return the path; adding it again changes nothing.

    Raises:
        DiskFullError: no room.
    """
    path = f"{_folder(evaluation.model)}/{evaluation.id}.parquet"
    if not files.exists(path):
        files.write_bytes(path, parquet_bytes(HISTORY.table(history_rows(evaluation)), HISTORY))
    return path


def read_history(files: Files, model: str) -> list[dict[str, Any]]:
    """Return all rows of a model, the oldest evaluation first.

    Raises:
        EvaluationError: a file of it is damaged.
    """
    rows: list[dict[str, Any]] = []
    for path in files.list(_folder(model)):
        if not path.endswith(".parquet"):
            continue
        try:
            table = read_bounded(files, path)
            rows += HISTORY.table(table.select(list(HISTORY.names)).to_pylist()).to_pylist()
        except (CorruptFileError, SchemaError, KeyError) as error:
            raise EvaluationError(f"the history of {model} is damaged: {error}") from error
    return sorted(rows, key=lambda row: tuple(row[name] for name in HISTORY.sort_by))


def history_models(files: Files) -> list[str]:
    """Return the names of all models with a history, sorted."""
    return sorted({path.split("/")[1] for path in files.list(FOLDER) if path.count("/") == 2})


def what_changed(
    rows: Sequence[Mapping[str, Any]],
    *,
    models: Mapping[str, str],
    evalsets: Mapping[str, str],
    code: str,
    config: str,
) -> list[str]:
    """Return what differs from the newest evaluation of a history, in words; empty where nothing does.

    Args:
        rows: ``read_history``.
        models: what it is -> digest, as an evaluation now would record them.
        evalsets: set -> digest.
        code: ``code_version()``.
        config: canonical JSON of the configuration.
    """
    if not rows:
        return ["there is no evaluation yet"]
    newest = [row for row in rows if row["evaluation"] == rows[-1]["evaluation"]]
    now = {
        "weights_digest": {digest_of(*(part for item in sorted(models.items()) for part in item))},
        "evalset_digest": set(evalsets.values()),
        "code": {code},
        "scoring": {digest_of(config)},
    }
    known = {name: {row[name] for row in newest} for name in _SUBJECT}
    # The sets together have a digest of their own, which follows from the others.
    known["evalset_digest"] = {row["evalset_digest"] for row in newest if row["evalset"] != ALL_SETS}
    return [_MEANING[name] for name in _SUBJECT if known[name] != now[name]]


def pin_baseline(files: Files, model: str, evaluation: str) -> None:
    """Make an evaluation of the history the baseline of its model.

    Raises:
        UnknownEvaluationError: the history does not hold it.
    """
    if evaluation not in {row["evaluation"] for row in read_history(files, model)}:
        raise UnknownEvaluationError(f"the history of {model} holds no evaluation {evaluation!r:.80}")
    files.write_bytes(f"{_folder(model)}/{PIN}", (json.dumps({"evaluation": evaluation}) + "\n").encode())


def pinned_baseline(files: Files, model: str) -> str | None:
    """Return the evaluation that is pinned as baseline, or None.

    Raises:
        EvaluationError: the pin is damaged.
    """
    try:
        content = json.loads(files.read_bytes(f"{_folder(model)}/{PIN}", max_bytes=4096))
        return str(content["evaluation"])
    except MissingFileError:
        return None
    except (ValueError, KeyError, TypeError, CorruptFileError) as error:
        raise EvaluationError(f"the pinned baseline of {model} cannot be read: {error!r}") from error


def check_regressions(files: Files, model: str, *, config: RegressionConfig | None = None) -> str:
    """Compare the newest evaluation of a model with its pinned baseline and return what was compared, in words.

    Raises:
        RegressionError: a metric fell by more than its interval; the message lists them all.
        UnknownEvaluationError: the history is empty, no baseline is pinned, or the pinned one is not in the history.
    """
    rows = read_history(files, model)
    if not rows:
        raise UnknownEvaluationError(f"the model {model} has no history")
    newest, pinned = rows[-1]["evaluation"], pinned_baseline(files, model)
    if pinned is None:
        raise UnknownEvaluationError(
            f"no baseline is pinned for {model}, so that evaluation {newest} can be compared with nothing: pin one "
            f"with iedit history {model} --pin EVALUATION"
        )
    before = [row for row in rows if row["evaluation"] == pinned]
    if not before:
        raise UnknownEvaluationError(f"the baseline {pinned} of {model} is not in its history")
    found = find_regressions(before, [row for row in rows if row["evaluation"] == newest], config)
    if found:
        listed = "; ".join(regression.text for regression in found)
        metrics = "1 metric is" if len(found) == 1 else f"{len(found)} metrics are"
        raise RegressionError(f"{model}: {metrics} worse than in the baseline {pinned}: {listed}")
    return f"evaluation {newest} of {model} holds against the baseline {pinned}"


def _folder(model: str) -> str:
    if not _MODEL.fullmatch(model):
        raise EvaluationError(f"a model cannot be called {model!r:.80}: 1 to 64 letters, digits, '_', '.' or '-'")
    return f"{FOLDER}/{model}"


def _set_of(evalsets: Mapping[str, str], name: str) -> dict[str, str]:
    together = digest_of(*(part for item in sorted(evalsets.items()) for part in item))
    return {"evalset": name, "evalset_digest": evalsets.get(name, together)}


def _numbers(value: float, low: float, high: float) -> dict[str, float | None]:
    numbers = {"value": value, "low": low, "high": high}
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}
