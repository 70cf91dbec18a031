"""Evaluations on disk: ``evaluations/<id>/`` with ``results.parquet`` and ``evaluation.json``, written once.

An id begins with the time and ends with a digest of the content, so that a listing shows the order and nothing is ever
overwritten. The summary stands in the JSON for other programs; here it is computed again from the rows. The provenance
says what decided the numbers: code, configuration, models and their trainings, sets, packages and the machine.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from iedit_model.metrics.bootstrap import BootstrapConfig
from iedit_model.models.source import ModelSource
from storage import (
    CorruptFileError,
    Files,
    MissingFileError,
    SchemaError,
    digest_of,
    json_document,
    parquet_bytes,
    read_parquet,
    validated,
)
from tasks.errors import RunFolderError
from tasks.evaluate.errors import EvalSetError, EvaluationError, UnknownEvaluationError
from tasks.evaluate.plan import Checkpoints
from tasks.evaluate.results import Results, results_of, results_schema
from tasks.evaluate.sets.evalset import EvalSetInfo
from tasks.evaluate.summary import SetMetric, Summary, SummaryConfig, summarise
from tasks.train.run_folder import MANIFEST_NAME, RunFolder

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES: Final = (
    *("iedit", "torch", "torchvision", "diffusers", "transformers", "open_clip_torch", "numpy", "pillow", "pyarrow"),
)
_GIT_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What decided the numbers of an evaluation, and what it ran on."""

    created: str
    """When it was finished, ISO 8601 with its zone."""
    commit: str
    """Git commit of the code; empty where there is no repository."""
    is_dirty: bool
    """Whether files differed from that commit."""
    code: str
    """16 hex characters over the declared versions of what decides the numbers."""
    config: str
    """Canonical JSON of the configuration."""
    models: Mapping[str, str]
    """What it is -> digest of its weights."""
    evalsets: Mapping[str, str]
    """Set -> digest of its pairs."""
    packages: Mapping[str, str]
    hardware: Mapping[str, str]
    deviations: Sequence[str] = field(default_factory=list)
    """What the evaluation does otherwise than the paper, one line each."""
    trainings: Mapping[str, str] = field(default_factory=dict)
    """Training -> what was trained; none in evaluations of untrained methods."""


def gather_provenance(
    *,
    created: str,
    config: str,
    models: Mapping[str, str],
    evalsets: Mapping[str, str],
    trainings: Mapping[str, str] | None = None,
    deviations: Sequence[str] = (),
) -> Provenance:
    """Return the record of this machine and this code; a machine without git or a repository has no commit.

    Args:
        created: ISO 8601 with its zone; given by the caller.
        config: canonical JSON of the configuration.
        models: what it is -> digest of its weights.
        evalsets: set -> digest.
        trainings: training -> what was trained.
        deviations: from the paper, in words.
    """
    commit = _git("rev-parse", "HEAD")
    return Provenance(
        created=created,
        commit=commit,
        is_dirty=bool(commit) and bool(_git("status", "--porcelain", "--untracked-files=no")),
        code=code_version(),
        config=config,
        models=dict(models),
        evalsets=dict(evalsets),
        packages={name: found for name in _PACKAGES if (found := _version(name))},
        hardware=_hardware(),
        trainings=dict(trainings or {}),
        deviations=list(deviations),
    )


def code_versions() -> dict[str, int]:
    """Return what decides an evaluation's numbers -> its declared version, raised by hand when results change.

    A change of a docstring or a moved file changes none of them; another way of decoding images, of editing or of
    measuring does.
    """
    from iedit_model.editing import batches
    from iedit_model.imaging import decode
    from iedit_model.metrics.catalogue import metric_versions
    from tasks.evaluate import stage

    return {
        "evaluate": stage.VERSION,
        "decoding": decode.VERSION,
        "editing": batches.EDITING_VERSION,
        **{f"metric {name}": version for name, version in metric_versions().items()},
    }


def code_version() -> str:
    """Return 16 hex characters over ``code_versions``."""
    return digest_of(*(f"{name}={version}" for name, version in sorted(code_versions().items())))[:16]


def _git(*arguments: str) -> str:
    try:
        # Fixed words to the user's own git, on the folder of this code.
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(_ROOT), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _hardware() -> dict[str, str]:
    import torch

    found = {
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "cpus": str(os.cpu_count() or 0),
        "threads": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(0), "cuda": str(torch.version.cuda)}
    return found


_UNKNOWN: Final = "weights without a record of their training"
_NOISE_LOSSES: Final = {"ldm": "L_LDM", "paired": "L_paired", "mask": "L_mask"}


def training_lines(checkpoints: Checkpoints) -> dict[str, str]:
    """Return training -> what was trained: losses, steps, data; seeds that differ in more than the seed stand apart."""
    found = {}
    for training, weights in checkpoints.items():
        lines: dict[str, list[str]] = {}
        for seed, source in sorted(weights.items()):
            lines.setdefault(_line(source), []).append(str(seed))
        found[training] = "; ".join(
            f"{line} (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})" for line, seeds in lines.items()
        )
    return found


def _line(source: ModelSource) -> str:
    try:
        return _told(RunFolder(Path(source.name).parent.parent).read_json(MANIFEST_NAME) or {})
    except (RunFolderError, KeyError, TypeError, ValueError):  # none, or not one of ours
        return _UNKNOWN


def _told(manifest: Mapping[str, Any]) -> str:
    train = manifest["config"]["train"]
    losses = " + ".join(_losses(train["loss"]))
    prompts = "original captions" if manifest["config"]["rows"]["prompts"] == "caption" else "edit prompts"
    return (
        f"{losses}; layers {train['layers']}, {train['num_steps']:,} steps of "
        f"{train['batch_size'] * train['accumulation']} at {train['learning_rate']:g}, {train['precision']}; "
        f"{prompts}, {manifest['num_samples']:,} pairs of version {manifest['version']:.16}"
    )


def _losses(loss: Mapping[str, Any]) -> list[str]:
    found = []
    if loss["noise_weight"]:
        low, high = loss["t_min"], loss["t_max"]
        limits = [f"t >= {low}"] * bool(low) + [f"t < {high}"] * (high is not None)
        found.append(_NOISE_LOSSES[loss["noise_loss"]] + (f" ({', '.join(limits)})" if limits else ""))
    found += [f"L_{name}" for name in ("global", "loc", "perc") if loss[f"use_{name}"]]
    found += [f"denoising of the {side}" for side in ("target", "source") if loss[f"{side}_denoising_weight"]]
    return found


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
