"""The flow build-dataset: metadata -> a versioned dataset of editing pairs, through the stages of ``DATASET``."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from prefect import flow, get_run_logger

from flows.checks import check_build
from flows.config.overrides import chosen_shards
from flows.config.profiles import BUILD, Profile, Recipe, resolve
from flows.config.tree import Config
from flows.engine.runner import Done, TaskRuns, task_runs
from flows.engine.stage_runs import StageRuns
from flows.reporting.artifacts import publish_version
from flows.reporting.progress import CompositeProgress, Progress, RunProgress, StageTotals, current_progress
from flows.sources import open_source
from storage import Files, ShardReport, VersionInfo, until_whole
from tasks.pack import plan as pack
from tasks.pack.stage import write_dataset
from tasks.plan import stage as plan
from tasks.plan.stage import Plan, PlanConfig, plan_shards
from tasks.stage import AnyStage, Job
from tasks.stages import DATASET


@flow(name="build-dataset", persist_result=False)
def build_dataset(
    root: str,
    profile: Profile = "mini",
    recipe: Recipe = "ours",
    metadata: str | None = None,
    config: dict[str, Any] | None = None,
    shards: str | None = None,
    retry_downloads: bool = False,  # noqa: FBT001, FBT002 - a parameter of a deployment
) -> str:
    """Build a versioned dataset of editing pairs from LAION-style metadata.

    Args:
        root: Folder or fsspec address of the store; what is finished there is not done again.
        profile: Whose values to start from: the embedded miniature, or the paper's real models.
        recipe: How pairs are made: ours, or as the paper does.
        metadata: Parquet file, folder or pattern at any fsspec address; by default what the profile names.
        config: Other values, like {"data.retrieve.query.text_weight": 0.5}.
        shards: Only these shards of the plan, like 0:4.
        retry_downloads: Ask again for images that failed for a transient reason.

    Returns:
        The version's id.

    Raises:
        ConfigError: a setting does not exist or cannot have that value.
        ShardsFailedError: shards failed after all their tries; all others are finished.
        EmptyVersionError: no pair is left.
    """
    resolved = resolve(profile, config, recipe=recipe, metadata=metadata, uses=BUILD)
    run = resolved.run
    check_build(resolved, root, shards=shards)

    with open_source(resolved.data.source) as address, task_runs(run.runner, run.tag_limits) as runs:

        def build() -> tuple[VersionInfo, StageTotals]:
            totals = StageTotals()
            progress = CompositeProgress([current_progress(), RunProgress("build-dataset"), totals])
            stages = stage_runs(resolved, root, runs, progress, retry=retry_downloads)
            planned, input_digest = plan_metadata(stages, address, shards)
            done = stages.through(planned, [stage for stage in DATASET if stage not in (plan.STAGE, pack.STAGE)])
            return pack_version(stages, done, DATASET, input_digest), totals

        version, totals = until_whole(Files(root), build)
    publish_version(version, root, totals)
    get_run_logger().info("version %s: %s pairs in %s", version.id, f"{version.num_samples:,}", root)
    return version.id


def stage_runs(config: Config, root: str, runs: TaskRuns, progress: Progress, *, retry: bool = False) -> StageRuns:
    """Return what runs the stages of a build with a configuration, in the store at ``root``."""
    return StageRuns(
        configs=config.data,
        root=root,
        runs=runs,
        options=config.run.options,
        progress=progress,
        fan_out=runs.fan_out(progress),
        retry=retry,
    )


def plan_metadata(stages: StageRuns, metadata: str, shards: str | None) -> tuple[dict[str, Done], str]:
    """Cut the metadata into shards; return those that are asked for with their reports, and the digest of the input."""
    stages.progress.begin(plan.STAGE.name, 0)  # it takes its time, though its shards are known at its end only
    planned = stages.once(plan.STAGE, partial(_plan, metadata=metadata), {})
    chosen = chosen_shards(planned.reports, shards)
    stages.progress.begin(plan.STAGE.name, len(chosen))
    for report in chosen:
        stages.progress.finish(report)
    return {report.shard: {plan.STAGE.name: report} for report in chosen}, planned.input_digest


def pack_version(
    stages: StageRuns, done: Mapping[str, Done], declared: tuple[AnyStage, ...], input_digest: str
) -> VersionInfo:
    """Pack the pairs of all shards into tars and write the dataset version, with the lineage of the declared stages."""
    corpus = stages.corpus(done)
    inputs = {name: reports for name, reports in corpus.items() if name not in stages.barriers}
    planned = stages.once(pack.STAGE, pack.plan_job, inputs)
    tars: dict[str, Done] = {name: {pack.STAGE.name: planned} for name in pack.tar_names(planned)}
    packed = stages.corpus(stages.through(tars, [pack.STAGE], corpus=inputs))[pack.STAGE.name]
    write = partial(_write, declared=declared, plan=planned, packed=packed, input_digest=input_digest)
    return stages.once(pack.STAGE, write, corpus)


def _plan(job: Job, *, metadata: str) -> Plan:
    return plan_shards(metadata, job.config(PlanConfig), job.store)


def _write(
    job: Job, *, declared: tuple[AnyStage, ...], plan: ShardReport, packed: tuple[ShardReport, ...], input_digest: str
) -> VersionInfo:
    runs = [stage.lineage(job.configs, job.corpus[stage.name]) for stage in declared if stage.name in job.corpus]
    config = job.config(pack.PackConfig)
    return write_dataset(plan, packed, config, job.store, runs=runs, input_digest=input_digest)
