"""The flow evaluate: methods x sets x seeds -> one table of scores, its summary, the history and a report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from prefect import flow, get_run_logger

from flows.config.checkpoints import parse_checkpoints
from flows.config.profiles import EVALUATE, Profile, resolve
from flows.config.tree import RunConfig
from flows.engine.fan_out import Done, FanOut, Future, Step
from flows.engine.runner import TaskRuns, task_runs
from flows.evalset_sources import open_set
from flows.reporting.evaluation_artifacts import publish_evaluation
from flows.reporting.progress import Progress, Several, current_progress
from flows.reporting.run_progress import RunProgress
from storage import ShardReport, ShardStore
from tasks.evaluate.driver import (
    EvaluationPart,
    ShardReports,
    edit_part,
    reference_features,
    run_evaluation,
    score_part,
)
from tasks.evaluate.history import append_history
from tasks.evaluate.plan import FULL_METHOD, EvaluationPlan
from tasks.evaluate.sets.evalset import EvalSet


@flow(name="evaluate", persist_result=False)
def evaluate(
    root: str,
    profile: Profile = "mini",
    checkpoints: list[str] | None = None,
    model: str = FULL_METHOD,
    sets: list[str] | None = None,
    strengths: list[float] | None = None,
    version: str | None = None,
    config: dict[str, Any] | None = None,
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
        config: Other values, like {"evaluate.plan.settings.sampling.strength": 0.8}.

    Returns:
        The evaluation's id.

    Raises:
        ShardsFailedError: edits or scores failed after all their tries; all others are finished.
    """
    resolved = resolve(profile, config, uses=EVALUATE)
    chosen = resolved.evaluate if not sets else replace(resolved.evaluate, sets=tuple(sets))
    plan, run = chosen.plan, resolved.run
    weights = parse_checkpoints(checkpoints or ())
    store = ShardStore.at(root)
    evalsets = [open_set(name, root, chosen) for name in chosen.sets]
    progress = Several([current_progress(), RunProgress("evaluate")])
    with task_runs(run.runner, run.tag_limits) as runs:
        done = run_evaluation(
            plan,
            weights,
            evalsets,
            store,
            model=model,
            strengths=strengths or (),
            runner=_AsTaskRuns(run, root, runs, progress, runs.fan_out(progress)),
        )
    append_history(store.files, done.evaluation)
    address = publish_evaluation(done, root, size_px=plan.size_px, version=version)
    get_run_logger().info("evaluation %s of %s: %s", done.evaluation.id, model, address)
    return done.evaluation.id


@dataclass(frozen=True)
class _AsTaskRuns:
    """Runs the work of an evaluation as task runs: two for each shard, one for each set's references."""

    run: RunConfig
    root: str
    runs: TaskRuns
    progress: Progress
    fan_out: FanOut

    def reference(self, evalset: EvalSet, plan: EvaluationPlan) -> ShardReport:
        """Return the features of a set's source images."""
        self.progress.begin("evaluate", 1)
        report = self._submit("reference", evalset.info.name, partial(reference_features, evalset, plan)).result()
        self.progress.finish(report)
        return report

    def parts(self, parts: Sequence[EvaluationPart]) -> dict[str, ShardReports]:
        """Edit and score shards, several at a time; those that fail are left out, unless they are too many by now."""
        by_shard = {part.shard: part for part in parts}

        def edit(shard: str, done: Mapping[str, ShardReport]) -> Future:  # noqa: ARG001 - the first step
            return self._submit("edit", shard, partial(edit_part, by_shard[shard]))

        def score(shard: str, done: Mapping[str, ShardReport]) -> Future:
            return self._submit("score", shard, partial(score_part, by_shard[shard], done["edit"]))

        steps = [
            Step(stage="edit", submit=edit, shown_as="evaluate"),
            Step(stage="score", submit=score, shown_as="evaluate"),
        ]
        begun: dict[str, Done] = {shard: {} for shard in by_shard}
        done = self.fan_out.run(begun, steps)
        return {shard: ShardReports(edits=found["edit"], scores=found["score"]) for shard, found in done.items()}

    def _submit(self, stage: str, shard: str, work: Callable[[ShardStore], ShardReport]) -> Future:
        bound = partial(_done_here, work=work, root=self.root, threads=self.run.runner.model_threads)
        return self.runs.submit(bound, shard=shard, stage=stage, options=self.run.options.evaluate)


def _done_here(
    shard: str,  # noqa: ARG001 - it names the task run
    *,
    work: Callable[[ShardStore], ShardReport],
    root: str,
    threads: int,
) -> ShardReport:
    """Do the work of one task run, wherever it was placed."""
    import torch

    torch.set_num_threads(threads)
    return work(ShardStore.at(root))
