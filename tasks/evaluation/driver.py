"""Run an evaluation shard by shard in this process; a flow runs the same functions as tasks of their own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from iedit_model.editing.registry import build_editor
from storage import ShardReport, ShardStore, canonical_json
from tasks.evalsets.evalset import EvalSet
from tasks.evalsets.folder import open_evalset
from tasks.evaluate import edit_shard, pair_slices, reference_shard, score_shard
from tasks.evaluation.finish import finish_evaluation
from tasks.evaluation.networks import load_networks, networks_identity
from tasks.evaluation.plan import Checkpoints, EvaluationPlan, MethodPlan, at_strength, method_plans
from tasks.evaluation.provenance import gather_provenance
from tasks.evaluation.record import Evaluation
from tasks.evaluation.results import MethodScores, SweepPoint, collect_results

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many shards are done, and of how many."""


@dataclass(frozen=True, kw_only=True)
class SliceReports:
    """What became of one slice of a set under one method."""

    edits: ShardReport
    scores: ShardReport


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedEvaluation:
    """An evaluation with the shards that it was made of, for a report."""

    evaluation: Evaluation
    runs: tuple[MethodScores, ...]


def evaluate_slice(
    shard: str, *, row: MethodPlan, plan: EvaluationPlan, evalset_root: str, store_root: str
) -> SliceReports:
    """Edit and score one slice of a set, or return its finished reports; loads what it needs once a process.

    Args:
        shard: number of the slice: ``00003``.
        row: the method with its weights.
        plan: the settings.
        evalset_root: address of the set.
        store_root: address of the store.

    Raises:
        EvalSetError: the set cannot be read.
        WeightsError: a model cannot be had.
        MemoryLimitError: not even one image fits into memory.
    """
    evalset, store = open_evalset(evalset_root), ShardStore.at(store_root)
    pairs = pair_slices(evalset, pairs_a_shard=plan.pairs_a_shard)[int(shard)]
    edits = edit_shard(evalset, pairs, row.editing, store, build_editor(row.spec), shard=shard)
    networks = load_networks(plan.scoring)
    scores = score_shard(edits, evalset, plan.scoring, store, networks, size_px=plan.size_px)
    return SliceReports(edits=edits, scores=scores)


def slice_names(evalset: EvalSet, plan: EvaluationPlan) -> list[str]:
    """Return the names of a set's slices."""
    return [f"{index:05d}" for index in range(len(pair_slices(evalset, pairs_a_shard=plan.pairs_a_shard)))]


def method_scores(evalset: EvalSet, row: MethodPlan, reports: Sequence[SliceReports]) -> MethodScores:
    """Return what a method reached on a set, from the reports of all slices in order."""
    return MethodScores(
        evalset=evalset,
        method=row.label,
        train_seed=row.train_seed,
        edits=tuple(report.edits for report in reports),
        scores=tuple(report.scores for report in reports),
        seeds=row.editing.seeds,
    )


def run_evaluation(
    plan: EvaluationPlan,
    checkpoints: Checkpoints,
    evalsets: Sequence[EvalSet],
    store: ShardStore,
    *,
    model: str,
    created: str,
    progress: Progress | None = None,
) -> FinishedEvaluation:
    """Evaluate every method on every set, one shard after the other, and write the evaluation.

    What is finished is read, so that a run that was stopped goes on where it stood.

    Args:
        plan: the settings.
        checkpoints: trained weights.
        evalsets: the sets.
        store: where shards and evaluation go.
        model: name of the model, the history's key.
        created: ISO 8601 with its zone; the caller owns the clock.
        progress: told about every shard.

    Raises:
        MissingScoresError: there is no method.
        WeightsError: a model cannot be had.
        EvalSetError: a set cannot be read.
    """
    rows = method_plans(plan, checkpoints)
    runs = run_methods(rows, plan, evalsets, store, progress=progress)
    networks = load_networks(plan.scoring)
    references = {
        evalset.info.name: reference_shard(evalset, plan.scoring, store, networks, size_px=plan.size_px)
        for evalset in evalsets
    }
    evaluation = finish_evaluation(
        store,
        runs,
        references,
        model=model,
        config=plan.summary,
        provenance=gather_provenance(
            created=created,
            config=canonical_json(plan),
            models=model_identities(rows, plan),
            evalsets={evalset.info.name: evalset.digest for evalset in evalsets},
        ),
        encoders=[clip.name for clip in plan.scoring.encoders],
    )
    return FinishedEvaluation(evaluation=evaluation, runs=tuple(runs))


def run_methods(
    rows: Sequence[MethodPlan],
    plan: EvaluationPlan,
    evalsets: Sequence[EvalSet],
    store: ShardStore,
    *,
    progress: Progress | None = None,
) -> list[MethodScores]:
    """Return the shards of every method on every set, made one after the other."""
    total = len(rows) * sum(len(slice_names(evalset, plan)) for evalset in evalsets)
    done, runs = 0, []
    for row in rows:
        for evalset in evalsets:
            reports = []
            for shard in slice_names(evalset, plan):
                if progress is not None:
                    progress(f"{row.name} on {evalset.info.name}", done, total)
                root = evalset.files.root
                reports.append(
                    evaluate_slice(shard, row=row, plan=plan, evalset_root=root, store_root=store.files.root)
                )
                done += 1
            runs.append(method_scores(evalset, row, reports))
    return runs


def run_sweep(
    plan: EvaluationPlan,
    checkpoints: Checkpoints,
    evalsets: Sequence[EvalSet],
    store: ShardStore,
    strengths: Sequence[float],
    *,
    methods: Sequence[str] = ("sdedit", "iedit", "iedit_m"),
    progress: Progress | None = None,
) -> list[SweepPoint]:
    """Return the points of the trade-off curve; of several training seeds the first is taken.

    Raises:
        ConfigError: a strength is outside [0, 1].
    """
    first = {name: dict(sorted(weights.items())[:1]) for name, weights in checkpoints.items()}
    points = []
    for strength in strengths:
        here = at_strength(plan, strength, methods=[name for name in methods if name in plan.methods])
        rows = method_plans(here, {"iedit": first["iedit"]} if "iedit" in first else {})
        for row in rows:
            runs = run_methods([row], here, evalsets, store, progress=progress)
            points.append(SweepPoint(method=row.label, strength=strength, results=collect_results(store, runs)))
    return points


def model_identities(rows: Sequence[MethodPlan], plan: EvaluationPlan) -> dict[str, str]:
    """Return what decides the results of every method, and of the networks that score; loads no weights."""
    found: Mapping[str, str] = {row.name: build_editor(row.spec).identity for row in rows}
    return {**found, "scoring": networks_identity(plan.scoring)}
