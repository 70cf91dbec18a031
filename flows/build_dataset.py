"""The flow build-dataset: metadata shards -> a versioned dataset of editing pairs. Reads as the stages follow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect import flow, get_run_logger

from flows import stages
from flows.config.profiles import BUILD, Profile, Recipe, resolve
from flows.config.shard_range import chosen_shards
from flows.config.tree import Config
from flows.engine.fan_out import Done, FanOut, Future, Step
from flows.engine.runner import TaskRuns, task_runs
from flows.reporting.artifacts import publish_version
from flows.reporting.progress import Progress, Several, Tally, current_progress
from flows.reporting.run_progress import RunProgress
from flows.source import open_source
from storage import ShardReport, VersionInfo
from tasks.pack.stage import PackInputs, tar_names

ALL = "all"
"""What stands for the shard in the task runs that take all of them."""


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
        retry_downloads: Ask again for pictures that failed for a passing reason.

    Returns:
        The version's id.

    Raises:
        ConfigError: a setting does not exist or cannot have that value.
        ShardsFailedError: shards failed after all their tries; all others are finished.
        EmptyVersionError: no pair is left.
    """
    resolved = resolve(profile, config, recipe=recipe, metadata=metadata, uses=BUILD)
    run = resolved.run
    with open_source(resolved.data.source) as address, task_runs(run.runner, run.tag_limits) as runs:
        tally = Tally()
        progress = Several([current_progress(), RunProgress("build-dataset"), tally])
        build = _Build(resolved, root, runs, progress, runs.fan_out(progress))
        plan, input_digest = build.plan(address, shards)
        captioned = build.through(plan, build.download(retry=retry_downloads), build.caption())
        counts = build.word_counts(captioned)
        embedded = build.through(captioned, build.swap(counts), build.embed())
        index = build.index(embedded)
        masked = build.through(embedded, build.retrieve(index), build.mask(embedded))
        version = build.pack(masked, embedded, index=index, counts=counts, input_digest=input_digest)
    publish_version(version, root, tally)
    get_run_logger().info("version %s: %s pairs in %s", version.id, f"{version.num_samples:,}", root)
    return version.id


@dataclass(frozen=True)
class _Build:
    """One run: how its task runs are made, handed out and waited for."""

    config: Config
    root: str
    runs: TaskRuns
    progress: Progress
    fan_out: FanOut

    def plan(self, metadata: str, shards: str | None) -> tuple[dict[str, Done], str]:
        plan = self._result("plan", stages.plan, metadata=metadata)
        chosen = chosen_shards(plan.reports, shards)
        self.progress.begin("plan", len(chosen))
        for report in chosen:
            self.progress.finish(report)
        return {report.shard: {"plan": report} for report in chosen}, plan.input_digest

    def download(self, *, retry: bool) -> Step:
        def submit(shard: str, done: Mapping[str, ShardReport]) -> Future:
            return self._submit("download", stages.download, shard, plan=done["plan"], retry=retry)

        return Step(stage="download", submit=submit, lane="network")

    def caption(self) -> Step:
        return self._step("caption", stages.caption, needs=("download",))

    def word_counts(self, shards: Mapping[str, Done]) -> ShardReport | None:
        """The first barrier, only where the swap asks how often the corpus uses a word."""
        if not self.config.data.swap.min_corpus_count:
            return None
        return self._one("words", stages.count_words, captions=_all("caption", shards))

    def swap(self, counts: ShardReport | None) -> Step:
        return self._step("swap", stages.swap, needs=("caption",), counts=counts)

    def embed(self) -> Step:
        return self._step("embed", stages.embed, needs=("download", "caption", "swap"))

    def index(self, shards: Mapping[str, Done]) -> ShardReport:
        """The barrier: every picture may be the target of every other."""
        return self._one(
            "index",
            stages.index,
            embeds=_all("embed", shards),
            downloads=_all("download", shards),
            captions=_all("caption", shards),
        )

    def retrieve(self, index: ShardReport) -> Step:
        return self._step("retrieve", stages.retrieve, needs=("embed",), index=index)

    def mask(self, shards: Mapping[str, Done]) -> Step:
        return self._step("mask", stages.mask, needs=("retrieve", "swap"), downloads=_all("download", shards))

    def pack(
        self,
        masked: Mapping[str, Done],
        embedded: Mapping[str, Done],
        *,
        index: ShardReport,
        counts: ShardReport | None,
        input_digest: str,
    ) -> VersionInfo:
        inputs = PackInputs(
            plan=_all("plan", embedded),
            download=_all("download", embedded),
            caption=_all("caption", embedded),
            swap=_all("swap", embedded),
            embed=_all("embed", embedded),
            retrieve=_all("retrieve", masked),
            mask=_all("mask", masked),
        )
        plan = self._result("pack", stages.plan_tars, inputs=inputs)
        tars: dict[str, Done] = {name: {} for name in tar_names(plan)}
        packed = self.through(tars, self._step("pack", stages.pack, plan=plan, inputs=inputs))
        return self._result(
            "pack",
            stages.version,
            plan=plan,
            packed=_all("pack", packed),
            inputs=inputs,
            index=index,
            word_counts=counts,
            input_digest=input_digest,
        )

    def through(self, shards: Mapping[str, Done], *steps: Step) -> dict[str, Done]:
        """Take shards through stages; those that fail are left out, unless the run has too many of them by now."""
        return self.fan_out.run(shards, steps)

    def _step(self, stage: str, function: Callable[..., Any], *, needs: tuple[str, ...] = (), **given: Any) -> Step:
        """Return the step that calls ``function`` with the shard's reports of the stages in ``needs``."""

        def submit(shard: str, done: Mapping[str, ShardReport]) -> Future:
            return self._submit(stage, function, shard, **{name: done[name] for name in needs}, **given)

        return Step(stage=stage, submit=submit)

    def _one(self, stage: str, function: Callable[..., Any], **given: Any) -> ShardReport:
        """Run the task of a stage that takes all shards at once."""
        self.progress.begin(stage, 1)
        report = self._result(stage, function, **given)
        self.progress.finish(report)
        return report

    def _result(self, stage: str, function: Callable[..., Any], **given: Any) -> Any:
        return self._submit(stage, function, ALL, **given).result()

    def _submit(self, stage: str, function: Callable[..., Any], shard: str, **given: Any) -> Future:
        bound = partial(function, config=self.config, root=self.root, **given)
        return self.runs.submit(bound, shard=shard, stage=stage, options=self.config.run.options.of(stage))


def _all(stage: str, shards: Mapping[str, Done]) -> tuple[ShardReport, ...]:
    return tuple(done[stage] for done in shards.values())
