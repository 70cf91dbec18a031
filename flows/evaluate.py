"""The flow evaluate: methods x sets x seeds -> one table of scores, its summary, the history and a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prefect import flow, get_run_logger
from prefect.task_runners import TaskRunner

from flows.checkpoints import parse_checkpoints
from flows.evalset_sources import open_set
from flows.evaluation_artifacts import publish_evaluation
from flows.evaluation_profiles import EvaluationConfig, resolve_evaluation
from flows.fan_out import Done, FanOut, Future, Step
from flows.profiles import Profile
from flows.progress import Progress, Several, current_progress
from flows.run_progress import RunProgress
from flows.runner import placed, task_runner
from iedit_model.editing.registry import build_editor
from storage import ShardReport, ShardStore, canonical_json
from tasks._prefect import stage_task
from tasks.evalsets.evalset import EvalSet
from tasks.evaluate import edit_shard, pair_slices, reference_shard, score_shard
from tasks.evaluation.driver import FinishedEvaluation, SliceReports, method_scores, model_identities, slice_names
from tasks.evaluation.finish import finish_evaluation
from tasks.evaluation.networks import load_networks
from tasks.evaluation.plan import FULL_METHOD, Checkpoints, EvaluationPlan, MethodPlan, at_strength, method_plans
from tasks.evaluation.provenance import gather_provenance
from tasks.evaluation.results import MethodScores, SweepPoint, collect_results
from tasks.history import append_history

SWEPT = ("sdedit", "iedit", "iedit_m")
"""Methods of the trade-off curve."""


@flow(name="evaluate", persist_result=False)
def evaluate(
    root: str,
    profile: Profile = "mini",
    checkpoints: list[str] | None = None,
    model: str = FULL_METHOD,
    sets: list[str] | None = None,
    strengths: list[float] | None = None,
    version: str | None = None,
    settings: dict[str, Any] | None = None,
) -> str:
    """Evaluate a checkpoint against the baselines.

    Args:
        root: Folder or fsspec address of the store; edits and scores that are there are not made again.
        profile: Whose untrained models, sets and networks to take.
        checkpoints: Trained weights: the folder of a training run or of one of its checkpoints; TRAINING@SEED=DIR names
            another row of Table 2 or another seed. Without any, only untrained methods take part.
        model: Name under which the history remembers the checkpoint.
        sets: Evaluation sets, by name or folder; by default the profile's.
        strengths: Also draw the trade-off over these strengths.
        version: Dataset version of the training, for the report's funnel.
        settings: Other values, like {"plan.settings.sampling.strength": 0.8}.

    Returns:
        The evaluation's id.
    """
    config = resolve_evaluation(profile, settings)
    if sets:
        config = replace(config, sets=tuple(sets))
    weights = parse_checkpoints(checkpoints or ())
    done, sweep = evaluate_all(config, weights, root=root, model=model, strengths=strengths or ())
    append_history(ShardStore.at(root).files, done.evaluation)
    address = publish_evaluation(done, root, size_px=config.plan.size_px, sweep=sweep, version=version)
    get_run_logger().info("evaluation %s of %s: %s", done.evaluation.id, model, address)
    return done.evaluation.id


def evaluate_all(
    config: EvaluationConfig,
    checkpoints: Checkpoints,
    *,
    root: str,
    model: str,
    strengths: Sequence[float] = (),
) -> tuple[FinishedEvaluation, list[SweepPoint]]:
    """Have all methods edit all sets and score them; must be called inside a flow run.

    Args:
        config: the evaluation.
        checkpoints: trained weights.
        root: where shards and evaluation go.
        model: name of the model, the history's key.
        strengths: points of the trade-off curve.

    Raises:
        ShardsFailedError: edits or scores failed after all their tries; all others are finished.
    """
    plan = config.plan
    evalsets = [open_set(name, root, config) for name in config.sets]
    progress = Several([current_progress(), RunProgress("evaluate")])
    with task_runner(config.runner) as runner:
        run = _Evaluation(config, root, runner, progress)
        references = {evalset.info.name: run.reference(evalset) for evalset in evalsets}
        rows = method_plans(plan, checkpoints)
        runs = run.through(rows, plan, evalsets)
        sweep = run.sweep(checkpoints, evalsets, strengths)
    evaluation = finish_evaluation(
        ShardStore.at(root),
        runs,
        references,
        model=model,
        config=plan.summary,
        provenance=gather_provenance(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            config=canonical_json(plan),
            models=model_identities(rows, plan),
            evalsets={evalset.info.name: evalset.digest for evalset in evalsets},
        ),
        encoders=[clip.name for clip in plan.scoring.encoders],
    )
    return FinishedEvaluation(evaluation=evaluation, runs=tuple(runs)), sweep


@dataclass(frozen=True)
class _Evaluation:
    """One run: how its task runs are made, handed out and waited for."""

    config: EvaluationConfig
    root: str
    runner: TaskRunner[Any]
    progress: Progress

    def reference(self, evalset: EvalSet) -> ShardReport:
        """Return the features of a set's source images."""
        self.progress.begin("evaluate", 1)
        plan = self.config.plan
        report = self._submit("reference", reference_features, evalset.info.name, evalset=evalset, plan=plan).result()
        self.progress.finish(report)
        return report

    def sweep(
        self, checkpoints: Checkpoints, evalsets: Sequence[EvalSet], strengths: Sequence[float]
    ) -> list[SweepPoint]:
        """Return the points of the trade-off curve; of several training seeds the first is taken."""
        first = {FULL_METHOD: dict(sorted(checkpoints.get(FULL_METHOD, {}).items())[:1])}
        points = []
        for strength in strengths:
            plan = at_strength(self.config.plan, strength, methods=SWEPT)
            for row in method_plans(plan, first):
                runs = self.through([row], plan, evalsets)
                results = collect_results(ShardStore.at(self.root), runs)
                points.append(SweepPoint(method=row.label, strength=strength, results=results))
        return points

    def through(
        self, rows: Sequence[MethodPlan], plan: EvaluationPlan, evalsets: Sequence[EvalSet]
    ) -> list[MethodScores]:
        """Edit and score every slice of every set with every method."""
        slices = {
            f"{row.name} {evalset.info.name} {name}": (row, evalset, name)
            for row in rows
            for evalset in evalsets
            for name in slice_names(evalset, plan)
        }

        def edit(shard: str, done: Mapping[str, ShardReport]) -> Future:  # noqa: ARG001 - the first step
            row, evalset, name = slices[shard]
            return self._submit("edit", edit_slice, shard, evalset=evalset, row=row, name=name, plan=plan)

        def score(shard: str, done: Mapping[str, ShardReport]) -> Future:
            evalset = slices[shard][1]
            return self._submit("score", score_slice, shard, evalset=evalset, edits=done["edit"], plan=plan)

        runner = self.config.runner
        fan_out = FanOut(
            lanes={"compute": runner.workers, "network": runner.downloads},
            max_failed=runner.max_failed_shards,
            progress=self.progress,
        )
        steps = [
            Step(stage="edit", submit=edit, shown_as="evaluate"),
            Step(stage="score", submit=score, shown_as="evaluate"),
        ]
        begun: dict[str, Done] = {shard: {} for shard in slices}
        done = fan_out.run(begun, steps)
        return [
            method_scores(evalset, row, _of_row(done, slices, row, evalset)) for row in rows for evalset in evalsets
        ]

    def _submit(self, stage: str, function: Any, shard: str, **given: Any) -> Future:
        options = self.config.options
        # Bound and not passed, see flows.build_dataset.
        bound = partial(function, root=self.root, threads=self.config.runner.model_threads, **given)
        task = stage_task(
            bound,
            stage=stage,
            retries=options.retries,
            retry_delay_s=options.retry_delay_s,
            timeout_s=options.timeout_s,
            tags=options.tags,
        )
        with placed(self.config.runner, options):
            return self.runner.submit(task, parameters={"shard": shard})


def edit_slice(
    shard: str,  # noqa: ARG001 - it names the task run
    *,
    evalset: EvalSet,
    row: MethodPlan,
    name: str,
    plan: EvaluationPlan,
    root: str,
    threads: int,
) -> ShardReport:
    """Edit one slice of a set with one method."""
    _limit_threads(threads)
    pairs = pair_slices(evalset, pairs_a_shard=plan.pairs_a_shard)[int(name)]
    return edit_shard(evalset, pairs, row.editing, ShardStore.at(root), build_editor(row.spec), shard=name)


def score_slice(
    shard: str,  # noqa: ARG001 - it names the task run
    *,
    evalset: EvalSet,
    edits: ShardReport,
    plan: EvaluationPlan,
    root: str,
    threads: int,
) -> ShardReport:
    """Score the edits of one slice."""
    _limit_threads(threads)
    networks = load_networks(plan.scoring)
    return score_shard(edits, evalset, plan.scoring, ShardStore.at(root), networks, size_px=plan.size_px)


def reference_features(
    shard: str,  # noqa: ARG001 - it names the task run
    *,
    evalset: EvalSet,
    plan: EvaluationPlan,
    root: str,
    threads: int,
) -> ShardReport:
    """Take the features of a set's source images."""
    _limit_threads(threads)
    networks = load_networks(plan.scoring)
    return reference_shard(evalset, plan.scoring, ShardStore.at(root), networks, size_px=plan.size_px)


def _of_row(
    done: Mapping[str, Done],
    slices: Mapping[str, tuple[MethodPlan, EvalSet, str]],
    row: MethodPlan,
    evalset: EvalSet,
) -> list[SliceReports]:
    """Return the reports of one method on one set, in the order of the slices."""
    return [
        SliceReports(edits=found["edit"], scores=found["score"])
        for shard, found in done.items()
        if slices[shard][0] is row and slices[shard][1] is evalset
    ]


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
