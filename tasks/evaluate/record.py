"""Evaluations on disk: ``evaluations/<id>/`` with ``results.parquet`` and ``evaluation.json``, written once.

An id begins with the time and ends with a digest of the content, so that a listing shows the order and nothing is ever
overwritten. The summary stands in the JSON for other programs; here it is computed again from the rows.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from iedit_model.metrics.bootstrap import BootstrapConfig
from storage import (
    CorruptFileError,
    Files,
    MissingFileError,
    SchemaError,
    json_document,
    parquet_bytes,
    read_parquet,
    validated,
)
from tasks.evaluate.errors import EvalSetError, EvaluationError, UnknownEvaluationError
from tasks.evaluate.provenance import Provenance
from tasks.evaluate.results import Results, results_of
from tasks.evaluate.score_tables import results_schema
from tasks.evaluate.set_metrics import SetMetric
from tasks.evaluate.sets.evalset import EvalSetInfo
from tasks.evaluate.summary import Summary, SummaryConfig, summarise

FOLDER, RESULTS, RECORD = "evaluations", "results.parquet", "evaluation.json"
_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{12}")
_MAX_RECORD_BYTES: Final = 256 << 20
_FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """One evaluation as it was written."""

    id: str
    model: str
    """Name of the model that was evaluated: the history's key."""
    results: Results
    summary: Summary
    config: SummaryConfig
    infos: Mapping[str, EvalSetInfo]
    """Set -> what it is."""
    provenance: Provenance

    @property
    def origins(self) -> dict[str, str]:
        """Set -> real, generated or imported."""
        return {name: info.origin for name, info in self.infos.items()}


def write_evaluation(
    files: Files,
    results: Results,
    *,
    model: str,
    config: SummaryConfig,
    infos: Mapping[str, EvalSetInfo],
    provenance: Provenance,
    distances: Mapping[str, Sequence[SetMetric]],
) -> Evaluation:
    """Summarise the rows and write the evaluation; the record comes last, so that a killed run leaves none.

    Raises:
        EvaluationError: the model's name cannot be one.
        TooFewSamplesError: there are fewer than two source images.
        DiskFullError: no room.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", model):
        raise EvaluationError(f"a model cannot be called {model!r:.80}: 1 to 64 letters, digits, '_', '.' or '-'")
    summary = summarise(
        results, config, origins={name: info.origin for name, info in infos.items()}, distances=distances
    )
    table = parquet_bytes(results.table, results_schema(results.metrics))
    content = {
        "format": _FORMAT,
        "model": model,
        "results_sha256": hashlib.sha256(table).hexdigest(),
        "config": asdict(config),
        "evalsets": {name: asdict(info) for name, info in infos.items()},
        "provenance": asdict(provenance),
        "summary": summary.to_json(),
    }
    data = json_document(content)
    evaluation_id = f"{_stamp(provenance.created)}-{hashlib.sha256(data).hexdigest()[:12]}"
    files.write_bytes(f"{FOLDER}/{evaluation_id}/{RESULTS}", table)
    files.write_bytes(f"{FOLDER}/{evaluation_id}/{RECORD}", data)
    return Evaluation(
        id=evaluation_id,
        model=model,
        results=results,
        summary=summary,
        config=config,
        infos=infos,
        provenance=provenance,
    )


def list_evaluations(files: Files) -> list[str]:
    """Return the ids of all finished evaluations, the oldest first."""
    found = [path.split("/") for path in files.list(FOLDER)]
    return sorted(parts[1] for parts in found if len(parts) == 3 and parts[2] == RECORD and _ID.fullmatch(parts[1]))


def read_evaluation(files: Files, evaluation_id: str = "latest") -> Evaluation:
    """Return a finished evaluation.

    Args:
        files: the store's files.
        evaluation_id: an id, the beginning of one, or ``latest``.

    Raises:
        UnknownEvaluationError: none, or more than one, begins like this.
        EvaluationError: its files are damaged.
    """
    name = _found(list_evaluations(files), evaluation_id)
    try:
        data = files.read_bytes(f"{FOLDER}/{name}/{RECORD}", max_bytes=_MAX_RECORD_BYTES)
        table_bytes = files.read_bytes(f"{FOLDER}/{name}/{RESULTS}")
        content: dict[str, Any] = json.loads(data)
        if hashlib.sha256(table_bytes).hexdigest() != content["results_sha256"] or content["format"] != _FORMAT:
            raise EvaluationError(f"the rows of evaluation {name} are not those that its record names")
        with files.open(f"{FOLDER}/{name}/{RESULTS}") as stream:
            results = results_of(read_parquet(stream, name=name))
        validated(results.table, results_schema(results.metrics))
        return _evaluation(name, content, results)
    except (MissingFileError, CorruptFileError, SchemaError, EvalSetError) as error:
        raise EvaluationError(f"evaluation {name} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(f"the record of evaluation {name} is damaged: {error!r}") from error


def _evaluation(name: str, content: dict[str, Any], results: Results) -> Evaluation:
    stored = content["config"]
    config = SummaryConfig(
        bootstrap=BootstrapConfig(**stored["bootstrap"]),
        baselines=tuple(stored["baselines"]),
        training_clip=stored["training_clip"],
    )
    infos = {set_name: EvalSetInfo(**info) for set_name, info in content["evalsets"].items()}
    distances = {
        set_name: [SetMetric(**{key: _number(value) for key, value in metric.items()}) for metric in metrics]
        for set_name, metrics in content["summary"]["set_metrics"].items()
    }
    origins = {set_name: info.origin for set_name, info in infos.items()}
    return Evaluation(
        id=name,
        model=content["model"],
        results=results,
        summary=summarise(results, config, origins=origins, distances=distances),
        config=config,
        infos=infos,
        provenance=replace(Provenance(**content["provenance"])),
    )


def _number(value: Any) -> Any:
    # JSON has no NaN: an undefined distance is null there.
    return float("nan") if value is None else value


def _found(known: Sequence[str], wanted: str) -> str:
    if wanted == "latest" and known:
        return known[-1]
    matches = [name for name in known if name.startswith(wanted)]
    if len(matches) != 1:
        raise UnknownEvaluationError(f"{len(matches)} of {len(known)} evaluations begin with {wanted!r:.80}")
    return matches[0]


def _stamp(created: str) -> str:
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(created)
    except ValueError as error:
        raise EvaluationError(f"the time {created!r:.40} is not ISO 8601") from error
    if moment.tzinfo is None:
        raise EvaluationError(f"the time {created!r:.40} has no zone")
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
