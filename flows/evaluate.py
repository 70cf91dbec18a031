"""The flow evaluate: methods x sets x seeds -> one table of scores, its summary, the history and a report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.states import Completed

from flows.checks import check_evaluation
from flows.config.overrides import checkpoint_source, parse_checkpoints
from flows.config.profiles import EVALUATE, Profile, resolve
from flows.config.tree import EvaluationConfig, RunConfig
from flows.engine.runner import Done, FanOut, Future, Step, TaskRuns, task_runs
from flows.errors import SourceError
from flows.reporting.artifacts import publish_evaluation
from flows.reporting.progress import CompositeProgress, Progress, RunProgress, current_progress
from flows.sources import open_set
from iedit_model.models.source import ModelSource
from storage import Files, ShardReport, ShardStore, canonical_json, until_whole
from tasks.evaluate.driver import (
    EvaluationPart,
    ShardReports,
    edit_part,
    model_identities,
    reference_features,
    run_evaluation,
    score_part,
)
from tasks.evaluate.errors import RegressionError
from tasks.evaluate.history import (
    append_history,
    check_regressions,
    pin_baseline,
    pinned_baseline,
    read_history,
    what_changed,
)
from tasks.evaluate.plan import FULL_METHOD, EvaluationPlan, method_plans
from tasks.evaluate.record import code_version
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
        strengths: Also plot the trade-off over these strengths.
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
    check_evaluation(chosen, root, checkpoints or (), version)
    store = ShardStore.at(root)
    evalsets = [open_set(name, root, chosen) for name in chosen.sets]
    progress = CompositeProgress([current_progress(), RunProgress("evaluate")])
    with task_runs(run.runner, run.tag_limits) as runs:
        done = until_whole(
            store.files,
            lambda: run_evaluation(
                plan,
                weights,
                evalsets,
                store,
                model=model,
                strengths=strengths or (),
                runner=_AsTaskRuns(run, root, runs, progress, runs.fan_out(progress)),
            ),
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
    """Do the work of one task run, in this process or on a Ray worker."""
    import torch

    torch.set_num_threads(threads)
    return work(ShardStore.at(root))


UNCHANGED = "unchanged"
NOTHING = "nothing to judge"
REGRESSION_EVENT = "iedit.regression"
"""Event that a run emits before it fails; an automation can listen to it."""


@flow(name="re-evaluate", persist_result=False)
def re_evaluate(
    root: str,
    checkpoint: str,
    profile: Profile = "mini",
    model: str = "iedit",
    sets: list[str] | None = None,
    config: dict[str, Any] | None = None,
) -> str:
    """Evaluate the newest checkpoint of a model if anything changed, and compare it to the baseline.

    The first evaluation becomes the baseline; another one is pinned with iedit history MODEL --pin EVALUATION.

    Args:
        root: Folder or fsspec address of the store that holds the history.
        checkpoint: Folder of a training run, whose newest checkpoint counts, of such runs, or of a checkpoint.
        profile: Whose untrained models, sets and networks to take.
        model: Name under which the history remembers the checkpoints and their baseline.
        sets: Evaluation sets, by name or folder; by default the profile's.
        config: Other values, like {"evaluate.plan.settings.sampling.strength": 0.8}.

    Returns:
        The verdict in words; it begins with "unchanged" when there was nothing to do, and with "nothing to judge" when
        nobody has trained yet.

    Raises:
        RegressionError: a metric fell by more than its interval against the pinned baseline.
        SourceError: the checkpoint of a model that has a history is gone.
    """
    chosen = resolve(profile, config, uses=EVALUATE).evaluate
    if sets:
        chosen = replace(chosen, sets=tuple(sets))
    files = ShardStore.at(root).files
    try:
        run = newest_run(checkpoint)
    except SourceError as error:
        if read_history(files, model):
            raise  # there was one
        reason = f"{NOTHING}: {error}"
        get_run_logger().info(reason)
        return cast("str", Completed(message=reason, data=reason))  # the page shows it beside the state
    if not (changes := _changes(chosen, checkpoint_source(run), root=root, model=model)):
        get_run_logger().info("%s: model, sets, code and metrics of %s", UNCHANGED, model)
        _pin_first(files, model)
        # A regression that nobody mended stays one: only the evaluation is spared, not the verdict.
        return f"{UNCHANGED}: {_verdict(root, model)}"
    get_run_logger().info("evaluating %s: changed %s", model, ", ".join(changes))
    evaluate(root, profile=profile, checkpoints=[run], model=model, sets=sets, config=config)
    _pin_first(files, model)
    return _verdict(root, model)


def _pin_first(files: Files, model: str) -> None:
    if pinned_baseline(files, model) is None:
        pin_baseline(files, model, read_history(files, model)[-1]["evaluation"])


def newest_run(path: str) -> str:
    """Return the training run that is meant: the folder itself, or the one below it that was written last.

    Raises:
        SourceError: there is no checkpoint.
    """
    folder = Path(path)
    if (folder / "model_index.json").is_file() or (folder / "checkpoints" / "latest").exists():
        return path
    runs = [run for run in folder.glob("*") if (run / "checkpoints" / "latest").exists()]
    if not runs:
        raise SourceError(f"there is no checkpoint in {path}: give the folder of a training run, or of several")
    return str(max(runs, key=lambda run: (run / "checkpoints" / "latest").resolve().stat().st_mtime))


def _changes(config: EvaluationConfig, source: ModelSource, *, root: str, model: str) -> list[str]:
    """Return in words what differs from the newest evaluation; costs the hashes of the weights and nothing more."""
    rows = method_plans(config.plan, {FULL_METHOD: {0: source}})
    return what_changed(
        read_history(ShardStore.at(root).files, model),
        models=model_identities(rows, config.plan),
        evalsets={(evalset := open_set(name, root, config)).info.name: evalset.digest for name in config.sets},
        code=code_version(),
        config=canonical_json(config.plan),
    )


def _verdict(root: str, model: str) -> str:
    """Return the verdict, and leave it in the Prefect page; a regression is emitted as an event before it is raised."""
    try:
        verdict = check_regressions(ShardStore.at(root).files, model)
    except RegressionError as error:
        create_markdown_artifact(key="verdict", markdown=f"**Regression.** {error}\n", description=model)
        resource = {"prefect.resource.id": f"iedit.model.{model}"}
        emit_event(REGRESSION_EVENT, resource=resource, payload={"reason": str(error)})
        raise
    create_markdown_artifact(key="verdict", markdown=f"{verdict}\n", description=model)
    return verdict
