"""The flow evaluate: methods x sets x seeds -> one table of scores, its summary, the history and a report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from flows.evalset_sources import open_set
from flows.evaluate_artifacts import publish_evaluation
from flows.evaluate_profiles import EvaluateConfig, resolve_evaluation
from flows.fan_out import Done, FanOut, Future, Step
from flows.profiles import Profile
from flows.progress import Progress, Several, current_progress
from flows.run_progress import RunProgress
from iedit_model.editing.registry import EditorSpec, build_editor, editor_spec
from storage import ShardReport, ShardStore, canonical_value
from tasks._prefect import stage_task
from tasks.evalsets.evalset import EvalPair, EvalSet
from tasks.evaluate import edit_shard, pair_slices, reference_shard, score_shard
from tasks.evaluation.finish import finish_evaluation
from tasks.evaluation.networks import load_networks
from tasks.evaluation.provenance import gather_provenance
from tasks.evaluation.record import Evaluation
from tasks.evaluation.results import NOT_TRAINED, MethodScores
from tasks.evaluation.summary import SummaryConfig
from tasks.history import append_history


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One method with its weights, as it takes part."""

    method: str
    """Name in the tables."""
    spec: EditorSpec
    train_seed: int = NOT_TRAINED


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """An evaluation and the shards that it was made of."""

    evaluation: Evaluation
    runs: tuple[MethodScores, ...]


@flow(name="evaluate", persist_result=False)
def evaluate(
    root: str,
    profile: Profile = "mini",
    checkpoint: str | None = None,
    model: str = "iedit",
    sets: list[str] | None = None,
    methods: list[str] | None = None,
    settings: dict[str, Any] | None = None,
) -> str:
    """Evaluate a checkpoint against the baselines.

    Args:
        root: Folder or fsspec address of the store; edits and scores that are there are not made again.
        profile: Whose untrained models, sets and networks to take.
        checkpoint: Folder of a training run or of one of its checkpoints; without it only untrained methods take part.
        model: Name under which the history remembers the checkpoint.
        sets: Evaluation sets, by name or folder; by default the profile's.
        methods: Methods that take part; by default all.
        settings: Other values, like {"settings.sampling.strength": 0.8}.

    Returns:
        The evaluation's id.
    """
    config = resolve_evaluation(profile, settings)
    config = replace(config, sets=tuple(sets or config.sets), methods=tuple(methods or config.methods))
    config = config.with_checkpoint(newest_checkpoint(checkpoint) if checkpoint else None)
    contestants = contestants_of(config)
    done = evaluate_all(contestants, config, root=root, model=model)
    append_history(ShardStore.at(root).files, done.evaluation)
    publish_evaluation(done.evaluation, done.runs, root, size_px=config.editing.size_px)
    get_run_logger().info("evaluation %s of %s", done.evaluation.id, model)
    return done.evaluation.id


def contestants_of(config: EvaluateConfig) -> list[Contestant]:
    """Return one contestant a method of the configuration."""
    return [Contestant(method=name, spec=editor_spec(name, config.models, config.settings)) for name in config.methods]


def newest_checkpoint(place: str) -> Path:
    """Return the checkpoint that a person means: a pipeline folder, or the newest of a training run."""
    folder = Path(place)
    latest = folder / "checkpoints" / "latest"
    return latest.resolve() if latest.exists() else folder


def evaluate_all(contestants: Sequence[Contestant], config: EvaluateConfig, *, root: str, model: str) -> Evaluated:
    """Have all contestants edit all sets and score them; must be called inside a flow run.

    Raises:
        ShardsFailedError: edits or scores failed after all their tries; all others are finished.
    """
    progress = Several([current_progress(), RunProgress("evaluate")])
    evalsets = [open_set(name, root, config) for name in config.sets]
    with ThreadPoolTaskRunner(max_workers=config.workers) as runner:
        run = _Evaluation(config, root, runner, progress)
        references = {evalset.info.name: run.reference(evalset) for evalset in evalsets}
        runs = run.through(contestants, evalsets)
    provenance = gather_provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=config_text(config),
        models=identities(contestants),
        evalsets={evalset.info.name: evalset.digest for evalset in evalsets},
    )
    evaluation = finish_evaluation(
        ShardStore.at(root),
        runs,
        references,
        model=model,
        config=SummaryConfig(bootstrap=config.bootstrap, training_clip=config.scoring.training_clip.name),
        provenance=provenance,
        encoders=[encoder.name for encoder in config.scoring.encoders],
    )
    return Evaluated(evaluation=evaluation, runs=tuple(runs))


def config_text(config: EvaluateConfig) -> str:
    """Return what decides the numbers beside weights, sets and code, as canonical JSON."""
    decides = ("settings", "editing", "scoring", "methods", "bootstrap")
    return json.dumps({name: canonical_value(getattr(config, name)) for name in decides}, sort_keys=True)


def identities(contestants: Sequence[Contestant]) -> dict[str, str]:
    """Return what each contestant is, weights and settings included."""
    return {
        one.method if one.train_seed == NOT_TRAINED else f"{one.method}, seed {one.train_seed}": build_editor(
            one.spec
        ).identity
        for one in contestants
    }


@dataclass(frozen=True)
class _Evaluation:
    """One run: how its task runs are made, handed out and waited for."""

    config: EvaluateConfig
    root: str
    runner: ThreadPoolTaskRunner[Any]
    progress: Progress

    def reference(self, evalset: EvalSet) -> ShardReport:
        """Return the features of a set's source images."""
        self.progress.begin("evaluate", 1)
        report = self._submit("reference", take_reference, evalset.info.name, evalset=evalset).result()
        self.progress.finish(report)
        return report

    def through(self, contestants: Sequence[Contestant], evalsets: Sequence[EvalSet]) -> list[MethodScores]:
        """Edit and score every slice of every set with every contestant."""
        parts = {
            _name(evalset, number, place): (evalset, one, pairs)
            for number, one in enumerate(contestants)
            for evalset in evalsets
            for place, pairs in enumerate(pair_slices(evalset, pairs_a_shard=self.config.pairs_a_shard))
        }

        def edit(shard: str, done: Mapping[str, ShardReport]) -> Future:  # noqa: ARG001 - the first step
            evalset, one, pairs = parts[shard]
            return self._submit("edit", edit_pairs, shard, evalset=evalset, pairs=pairs, spec=one.spec)

        def score(shard: str, done: Mapping[str, ShardReport]) -> Future:
            return self._submit("score", score_pairs, shard, evalset=parts[shard][0], edits=done["edit"])

        fan_out = FanOut(lanes={"compute": self.config.workers, "network": 1}, max_failed=0, progress=self.progress)
        steps = [
            Step(stage=name, submit=submit, shown_as="evaluate") for name, submit in (("edit", edit), ("score", score))
        ]
        empty: dict[str, Done] = {shard: {} for shard in parts}
        done = fan_out.run(empty, steps)
        return [
            MethodScores(
                evalset=evalset,
                method=one.method,
                train_seed=one.train_seed,
                edits=tuple(found["edit"] for found in slices),
                scores=tuple(found["score"] for found in slices),
                seeds=self.config.editing.seeds,
            )
            for number, one in enumerate(contestants)
            for evalset in evalsets
            if (slices := [done[shard] for shard in parts if shard.startswith(_name(evalset, number))])
        ]

    def _submit(self, stage: str, function: Any, shard: str, **given: Any) -> Future:
        task = stage_task(
            function,
            stage=stage,
            retries=self.config.retries,
            retry_delay_s=self.config.retry_delay_s,
            timeout_s=None,
            tags=self.config.tags,
        )
        parameters = {name: quote(value) for name, value in given.items()}
        parameters |= {"shard": shard, "config": quote(self.config), "root": self.root}
        return self.runner.submit(task, parameters=parameters)


def _name(evalset: EvalSet, number: int, place: int | None = None) -> str:
    return f"{evalset.info.name}-{number}-{'' if place is None else f'{place:05d}'}"


def edit_pairs(
    shard: str,
    *,
    evalset: EvalSet,
    pairs: tuple[EvalPair, ...],
    spec: EditorSpec,
    config: EvaluateConfig,
    root: str,
) -> ShardReport:
    """Edit one slice of a set with one method."""
    _limit_threads(config)
    return edit_shard(
        evalset, pairs, config.editing, ShardStore.at(root), build_editor(spec), shard=shard.rsplit("-", 1)[1]
    )


def score_pairs(
    shard: str,  # noqa: ARG001 - it names the task run
    *,
    evalset: EvalSet,
    edits: ShardReport,
    config: EvaluateConfig,
    root: str,
) -> ShardReport:
    """Score the edits of one slice."""
    _limit_threads(config)
    networks = load_networks(config.scoring)
    return score_shard(edits, evalset, config.scoring, ShardStore.at(root), networks, size_px=config.editing.size_px)


def take_reference(shard: str, *, evalset: EvalSet, config: EvaluateConfig, root: str) -> ShardReport:  # noqa: ARG001
    """Take the features of a set's source images."""
    _limit_threads(config)
    networks = load_networks(config.scoring)
    return reference_shard(evalset, config.scoring, ShardStore.at(root), networks, size_px=config.editing.size_px)


def _limit_threads(config: EvaluateConfig) -> None:
    import torch

    torch.set_num_threads(config.model_threads)
