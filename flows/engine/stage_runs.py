"""Runs stages one after the other over the shards of a build; what a stage is, it says itself (``tasks.stage``)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from flows.config.tree import OptionsByStage
from flows.engine.runner import Done, FanOut, Future, Step, TaskRuns
from flows.reporting.progress import Progress
from storage import ShardReport, ShardStore
from tasks.stage import AnyStage, Job, Work, find_config

ALL: Final = "all"
"""What stands for the shard in the task runs that take all of them."""


Corpus = Mapping[str, tuple[ShardReport, ...]]
"""Stage -> its reports of all shards."""


@dataclass(kw_only=True)
class StageRuns:
    """The stages of one build: how their task runs are handed out, and which reports there are by now."""

    configs: object
    """Holds the configurations of the stages as its fields."""
    root: str
    runs: TaskRuns
    options: OptionsByStage
    progress: Progress
    fan_out: FanOut
    retry: bool = False
    """Whether to ask again for what failed for a transient reason."""
    barriers: dict[str, ShardReport] = field(default_factory=dict)
    """Stage that takes all shards at once -> its report."""

    def through(
        self, shards: Mapping[str, Done], stages: Sequence[AnyStage], *, corpus: Corpus | None = None
    ) -> dict[str, Done]:
        """Take shards through stages; those that fail are left out, unless the run has too many of them by now.

        Stages that follow each other run side by side, each shard at its own pace, up to the next one that needs the
        reports of all shards.

        Args:
            shards: shard -> its reports so far.
            stages: in order; one that the configuration does not ask for is skipped.
            corpus: the reports of all shards that the stages read, if not those of ``shards``.

        Raises:
            ShardsFailedError: more shards failed than may, or one for a reason that would hit all.
        """
        done = dict(shards)
        for part in _parts([stage for stage in stages if self._is_wanted(stage)]):
            known = self.corpus(done)
            if part[0].barrier:
                self.barriers[part[0].name] = self._alone(part[0], known)
            else:
                steps = [self._step(stage, _named(known, stage.corpus) if corpus is None else corpus) for stage in part]
                done = self.fan_out.run(done, steps)
        return done

    def corpus(self, done: Mapping[str, Done]) -> Corpus:
        """Return stage -> its reports of all shards, those of barriers included."""
        names = dict.fromkeys(name for reports in done.values() for name in reports)
        found = {name: tuple(reports[name] for reports in done.values()) for name in names}
        return found | {name: (report,) for name, report in self.barriers.items()}

    def once(self, stage: AnyStage, work: Work[Any], corpus: Corpus) -> Any:
        """Run work of a stage that takes all shards at once, in a task run of its own, and return its result."""
        return self._submit(stage, work, ALL, corpus=corpus).result()

    def _alone(self, stage: AnyStage, known: Corpus) -> ShardReport:
        self.progress.begin(stage.name, 1)
        report = self.once(stage, stage.work, _named(known, stage.corpus))
        self.progress.finish(report)
        return report

    def _step(self, stage: AnyStage, corpus: Corpus) -> Step:
        """Return the step that gives a stage the shard's reports that it needs, and those of the corpus."""

        def submit(shard: str, done: Mapping[str, ShardReport]) -> Future:
            reports = {name: done[name] for name in stage.needs}
            return self._submit(stage, stage.work, shard, reports=reports, corpus=corpus)

        return Step(stage=stage.name, submit=submit, lane="network" if stage.network else "compute")

    def _submit(self, stage: AnyStage, work: Work[Any], shard: str, **given: Any) -> Future:
        threads = self.runs.config.model_threads if stage.weights else None
        bound = partial(
            run_work, work=work, configs=self.configs, root=self.root, retry=self.retry, threads=threads, **given
        )
        return self.runs.submit(bound, shard=shard, stage=stage.name, options=self.options.of(stage.name))

    def _is_wanted(self, stage: AnyStage) -> bool:
        return stage.wanted(find_config(self.configs, stage.config))


def run_work(
    shard: str,
    *,
    work: Work[Any],
    configs: object,
    root: str,
    retry: bool,
    threads: int | None,
    reports: Mapping[str, ShardReport] | None = None,
    corpus: Corpus | None = None,
) -> Any:
    """Do the work of a stage on a shard: what a task run of this process, or of a worker of a Ray cluster, calls."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    store = ShardStore.at(root)
    return work(Job(shard=shard, store=store, configs=configs, reports=reports or {}, corpus=corpus or {}, retry=retry))


def _named(corpus: Corpus, stages: Iterable[str]) -> Corpus:
    return {name: corpus[name] for name in stages if name in corpus}


def _parts(stages: Iterable[AnyStage]) -> list[list[AnyStage]]:
    """Cut stages where one needs all reports of one before it that would still be under way."""
    parts: list[list[AnyStage]] = []
    for stage in stages:
        under_way = {other.name for other in parts[-1]} if parts else set[str]()
        if not parts or stage.barrier or parts[-1][-1].barrier or under_way & set(stage.corpus):
            parts.append([])
        parts[-1].append(stage)
    return parts
