"""The flow re-evaluate, for a schedule: the newest checkpoint of a model, if anything changed, against its baseline."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from flows.config.checkpoints import checkpoint_source
from flows.config.profiles import EVALUATE, Profile, resolve
from flows.config.tree import EvaluationConfig
from flows.errors import SourceError
from flows.evalset_sources import open_set
from flows.evaluate import evaluate
from iedit_model.models.source import ModelSource
from storage import ShardStore, canonical_json
from tasks.evaluate.driver import model_identities
from tasks.evaluate.errors import RegressionError
from tasks.evaluate.history import check_regressions, pin_baseline, pinned_baseline, read_history, what_changed
from tasks.evaluate.plan import FULL_METHOD, method_plans
from tasks.evaluate.provenance import code_version

UNCHANGED = "unchanged"
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
    """Evaluate the newest checkpoint of a model if model, data, code or metrics changed, and judge it.

    The first evaluation becomes the baseline; another one is pinned with iedit history MODEL --pin EVALUATION.

    Args:
        root: Folder or fsspec address of the store that holds the history.
        checkpoint: Folder of a training run, whose newest checkpoint counts, of such runs, or of a checkpoint.
        profile: Whose untrained models, sets and networks to take.
        model: Name under which the history remembers the checkpoints and their baseline.
        sets: Evaluation sets, by name or folder; by default the profile's.
        config: Other values, like {"evaluate.plan.settings.sampling.strength": 0.8}.

    Returns:
        The verdict in words; it begins with "unchanged" when there was nothing to do.

    Raises:
        RegressionError: a metric fell by more than its interval against the pinned baseline.
    """
    chosen = resolve(profile, config, uses=EVALUATE).evaluate
    if sets:
        chosen = replace(chosen, sets=tuple(sets))
    place = newest_run(checkpoint)
    files = ShardStore.at(root).files
    if not (changes := _changes(chosen, checkpoint_source(place), root=root, model=model)):
        get_run_logger().info("%s: model, sets, code and metrics of %s", UNCHANGED, model)
        # A regression that nobody mended stays one: only the evaluation is spared, not the verdict.
        return f"{UNCHANGED}: {_judged(root, model)}"
    get_run_logger().info("evaluating %s: changed %s", model, ", ".join(changes))
    done = evaluate(root, profile=profile, checkpoints=[place], model=model, sets=sets, config=config)
    if pinned_baseline(files, model) is None:
        pin_baseline(files, model, done)
    return _judged(root, model)


def newest_run(place: str) -> str:
    """Return the training run that is meant: the folder itself, or the one below it that was written last.

    Raises:
        SourceError: there is no checkpoint.
    """
    folder = Path(place)
    if (folder / "model_index.json").is_file() or (folder / "checkpoints" / "latest").exists():
        return place
    runs = [run for run in folder.glob("*") if (run / "checkpoints" / "latest").exists()]
    if not runs:
        raise SourceError(f"there is no checkpoint in {place}: give the folder of a training run, or of several")
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


def _judged(root: str, model: str) -> str:
    """Return the verdict, and leave it in the Prefect page; a fall is told as an event before it is raised."""
    try:
        verdict = check_regressions(ShardStore.at(root).files, model)
    except RegressionError as error:
        create_markdown_artifact(key="verdict", markdown=f"**Regression.** {error}\n", description=model)
        resource = {"prefect.resource.id": f"iedit.model.{model}"}
        emit_event(REGRESSION_EVENT, resource=resource, payload={"reason": str(error)})
        raise
    create_markdown_artifact(key="verdict", markdown=f"{verdict}\n", description=model)
    return verdict
