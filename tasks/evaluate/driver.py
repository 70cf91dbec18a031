"""An evaluation from its plan to its record: which shards, references and points of the trade-off it is made of.

How the shards are worked on is the caller's: here in this process (``InThisProcess``), or as task runs of a flow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from iedit_model.editing.methods import build_editor
from storage import ShardReport, ShardStore, canonical_json
from tasks.evaluate.errors import MissingScoresError
from tasks.evaluate.networks import load_networks, networks_fingerprint
from tasks.evaluate.plan import (
    FULL_METHOD,
    Checkpoints,
    EvaluationPlan,
    MethodPlan,
    at_strength,
    deviations,
    method_plans,
)
from tasks.evaluate.record import Evaluation, Provenance, gather_provenance, training_lines, write_evaluation
from tasks.evaluate.results import MethodScores, SweepPoint, collect_results
from tasks.evaluate.sets.evalset import EvalSet
from tasks.evaluate.stage import edit_shard, pair_shards, reference_shard, score_shard
from tasks.evaluate.summary import SummaryConfig, measure_distances

SWEPT: Final = ("sdedit", "iedit", "iedit_m")
"""Methods of the trade-off curve."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many shards are done, and of how many."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationPart:
    """Some pairs of a set under one method: what is edited, then scored, as a whole."""

    row: MethodPlan
    evalset: EvalSet
    plan: EvaluationPlan
    name: str
    """Number of the shard within its set: ``00003``."""

    @property
    def shard(self) -> str:
        """Name that no other shard of the same plan has."""
        return f"{self.row.name} {self.evalset.info.name} {self.name}"


@dataclass(frozen=True, kw_only=True)
class ShardReports:
    """What became of one shard."""

    edits: ShardReport
    scores: ShardReport


class ShardRunner(Protocol):
    """How the work of an evaluation is run."""

    def reference(self, evalset: EvalSet, plan: EvaluationPlan) -> ShardReport:
        """Return the features of a set's source images, see ``reference_features``."""
        ...

    def parts(self, parts: Sequence[EvaluationPart]) -> Mapping[str, ShardReports]:
        """Edit and score shards (``edit_part``, ``score_part``); return ``EvaluationPart.shard`` -> its reports."""
        ...


class InThisProcess:
    """Works on one shard after the other, here: for an evaluation from Python, without an orchestrator."""

    def __init__(self, store: ShardStore, *, progress: Progress | None = None) -> None:
        """Keep where the shards go, and who is told before each shard."""
        self._store, self._progress = store, progress

    def reference(self, evalset: EvalSet, plan: EvaluationPlan) -> ShardReport:
        """Return the features of a set's source images."""
        return reference_features(evalset, plan, self._store)

    def parts(self, parts: Sequence[EvaluationPart]) -> Mapping[str, ShardReports]:
        """Edit and score shards in their order."""
        found: dict[str, ShardReports] = {}
        for part in parts:
            if self._progress is not None:
                self._progress(f"{part.row.name} on {part.evalset.info.name}", len(found), len(parts))
            edits = edit_part(part, self._store)
            found[part.shard] = ShardReports(edits=edits, scores=score_part(part, edits, self._store))
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedEvaluation:
    """An evaluation with the shards that it was made of, for a report."""

    evaluation: Evaluation
    runs: tuple[MethodScores, ...]
    sweep: tuple[SweepPoint, ...] = ()
    """Points of the trade-off curve."""


def run_evaluation(
    plan: EvaluationPlan,
    checkpoints: Checkpoints,
    evalsets: Sequence[EvalSet],
    store: ShardStore,
    *,
    model: str,
    strengths: Sequence[float] = (),
    created: str | None = None,
    runner: ShardRunner | None = None,
) -> FinishedEvaluation:
    """Evaluate every method on every set, and write the evaluation.

    What is finished is read, so that a run that was stopped goes on where it stood.

    Args:
        plan: the settings.
        checkpoints: trained weights.
        evalsets: the sets.
        store: where shards and evaluation go.
        model: name of the model, the history's key.
        strengths: points of the trade-off curve.
        created: ISO 8601 with its zone; None is the moment when everything is scored.
        runner: how the shards are run, with the same store; None runs them in this process.

    Raises:
        MissingScoresError: there is no method, or shards are missing.
        ConfigError: a strength is outside [0, 1].
        WeightsError: a model cannot be had.
        EvalSetError: a set cannot be read.
    """
    runner = runner or InThisProcess(store)
    references = {evalset.info.name: runner.reference(evalset, plan) for evalset in evalsets}
    rows = method_plans(plan, checkpoints)
    runs = run_methods(rows, plan, evalsets, runner)
    sweep = run_sweep(plan, checkpoints, evalsets, store, strengths, runner=runner)
    evaluation = finish_evaluation(
        store,
        runs,
        references,
        model=model,
        config=plan.summary,
        provenance=gather_provenance(
            created=created or datetime.now(UTC).isoformat(timespec="seconds"),
            config=canonical_json(plan),
            models=model_identities(rows, plan),
            evalsets={evalset.info.name: evalset.digest for evalset in evalsets},
            trainings=training_lines(checkpoints),
            deviations=deviations(plan),
        ),
        encoders=[clip.name for clip in plan.scoring.encoders],
    )
    return FinishedEvaluation(evaluation=evaluation, runs=tuple(runs), sweep=tuple(sweep))


def finish_evaluation(
    store: ShardStore,
    runs: Sequence[MethodScores],
    references: Mapping[str, ShardReport],
    *,
    model: str,
    config: SummaryConfig,
    provenance: Provenance,
    encoders: Sequence[str],
) -> Evaluation:
    """Collect what the shards hold, summarise it and write the evaluation.

    Args:
        store: where the shards lie; the evaluation goes beside them.
        runs: every method (and training seed) on every set.
        references: set -> report of ``reference_shard``.
        model: name of the model, the history's key.
        config: what is summarised.
        provenance: what decided the numbers.
        encoders: names of the CLIP encoders; any other network's features serve FID and KID.

    Raises:
        MissingScoresError: a set has no reference, or a shard of scores is missing.
        TooFewSamplesError: there are fewer than two source images.
    """
    results = collect_results(store, runs)
    infos = {run.evalset.info.name: run.evalset.info for run in runs}
    if missing := sorted(set(infos) - set(references)):
        raise MissingScoresError(f"the set {missing[0]} has no features of its source images")
    return write_evaluation(
        store.files,
        results,
        model=model,
        config=config,
        infos=infos,
        provenance=provenance,
        distances=measure_distances(store, runs, references, encoders=encoders),
    )


def run_methods(
    rows: Sequence[MethodPlan], plan: EvaluationPlan, evalsets: Sequence[EvalSet], runner: ShardRunner
) -> list[MethodScores]:
    """Return the shards of every method on every set."""
    parts = [
        EvaluationPart(row=row, evalset=evalset, plan=plan, name=name)
        for row in rows
        for evalset in evalsets
        for name in _shard_names(evalset, plan)
    ]
    found = runner.parts(parts)
    return [_method_scores(row, evalset, parts, found) for row in rows for evalset in evalsets]


def run_sweep(
    plan: EvaluationPlan,
    checkpoints: Checkpoints,
    evalsets: Sequence[EvalSet],
    store: ShardStore,
    strengths: Sequence[float],
    *,
    runner: ShardRunner,
    methods: Sequence[str] = SWEPT,
) -> list[SweepPoint]:
    """Return the points of the trade-off curve; of several training seeds the first is taken.

    Raises:
        ConfigError: a strength is outside [0, 1].
    """
    first = {FULL_METHOD: dict(sorted(checkpoints.get(FULL_METHOD, {}).items())[:1])}
    points = []
    for strength in strengths:
        here = at_strength(plan, strength, methods=methods)
        for row in method_plans(here, first):
            runs = run_methods([row], here, evalsets, runner)
            points.append(SweepPoint(method=row.label, strength=strength, results=collect_results(store, runs)))
    return points


def edit_part(part: EvaluationPart, store: ShardStore) -> ShardReport:
    """Edit a shard, or return its finished report; loads what it needs once per process.

    Raises:
        EvalSetError: the set cannot be read.
        WeightsError: a model cannot be had.
        MemoryLimitError: not even one image fits into memory.
    """
    pairs = pair_shards(part.evalset, pairs_per_shard=part.plan.pairs_per_shard)[int(part.name)]
    return edit_shard(part.evalset, pairs, part.row.editing, store, build_editor(part.row.spec), shard=part.name)


def score_part(part: EvaluationPart, edits: ShardReport, store: ShardStore) -> ShardReport:
    """Score the edits of a shard, or return the finished report; loads the networks once per process.

    Raises:
        EvalSetError: the set cannot be read.
        WeightsError: a network cannot be had.
    """
    plan = part.plan
    return score_shard(edits, part.evalset, plan.scoring, store, load_networks(plan.scoring), size_px=plan.size_px)


def reference_features(evalset: EvalSet, plan: EvaluationPlan, store: ShardStore) -> ShardReport:
    """Take the features of a set's source images, or return the finished report."""
    return reference_shard(evalset, plan.scoring, store, load_networks(plan.scoring), size_px=plan.size_px)


def model_identities(rows: Sequence[MethodPlan], plan: EvaluationPlan) -> dict[str, str]:
    """Return what decides the results of every method, and of the networks that score; loads no weights."""
    found: Mapping[str, str] = {row.name: build_editor(row.spec).fingerprint for row in rows}
    return {**found, "scoring": networks_fingerprint(plan.scoring)}


def _shard_names(evalset: EvalSet, plan: EvaluationPlan) -> list[str]:
    return [f"{index:05d}" for index in range(len(pair_shards(evalset, pairs_per_shard=plan.pairs_per_shard)))]


def _method_scores(
    row: MethodPlan, evalset: EvalSet, parts: Sequence[EvaluationPart], found: Mapping[str, ShardReports]
) -> MethodScores:
    """Return what a method reached on a set, from the reports of its shards in order."""
    own = [part.shard for part in parts if part.row is row and part.evalset is evalset]
    reports = [found[shard] for shard in own if shard in found]
    return MethodScores(
        evalset=evalset,
        method=row.label,
        train_seed=row.train_seed,
        edits=tuple(report.edits for report in reports),
        scores=tuple(report.scores for report in reports),
        seeds=row.editing.seeds,
    )
