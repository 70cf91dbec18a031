"""A dataset built by a plain loop over the stage functions: no Prefect, no retries, no progress, no artifacts.

``python -m benchmarks.plain_build ROOT [SETTING ...]`` prints the version's id. As many threads compute and download
as in the flow, and a shard is captioned as soon as it is downloaded, as there.
"""

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from flows.config.overrides import parse_assignments
from flows.config.profiles import resolve
from flows.config.tree import Config, DataConfig
from flows.sources import open_source
from storage import ShardReport, ShardStore, VersionInfo
from tasks.pack import plan as pack
from tasks.pack.rows import PackInputs
from tasks.pack.stage import pack_shard, write_dataset
from tasks.plan.stage import plan_shards
from tasks.stage import AnyStage, Job, find_config
from tasks.stages import DATASET

Done = dict[str, ShardReport]


def plain_build(whole: Config, root: str) -> VersionInfo:
    """Build the dataset and return its version."""
    config, runner = whole.data, whole.run.runner
    store, barriers = ShardStore.at(root), dict[str, ShardReport]()
    plan, *stages = DATASET[:-1]
    with open_source(config.source) as address, ThreadPoolExecutor(runner.workers) as pool:
        planned = plan_shards(address, config.plan, store)
        done = [{plan.name: report} for report in planned.reports]
        while stages and (part := _part(config, stages)):
            corpus = {name: tuple(one[name] for one in done) for name in done[0]}
            corpus |= {name: (report,) for name, report in barriers.items()}
            if part[0].barrier:
                barriers[part[0].name] = part[0].work(Job(shard="all", store=store, configs=config, corpus=corpus))
            else:
                done = list(pool.map(partial(_through, part, config, store, corpus), done))
        corpus = {name: tuple(one[name] for one in done) for name in done[0]}
        inputs = PackInputs(corpus)
        planned_tars = pack.plan_pack(inputs, config.pack, store)
        tars = pack.tar_names(planned_tars)
        packed = tuple(pool.map(lambda tar: pack_shard(planned_tars, tar, inputs, config.pack, store), tars))
        corpus |= {name: (report,) for name, report in barriers.items()}
        runs = [stage.lineage(config, corpus[stage.name]) for stage in DATASET if stage.name in corpus]
        return write_dataset(planned_tars, packed, config.pack, store, runs=runs, input_digest=planned.input_digest)


def _part(config: DataConfig, stages: list[AnyStage]) -> list[AnyStage]:
    """Take the next barrier, or the stages before it, off the list; what the configuration does not ask for goes."""
    stages[:] = [stage for stage in stages if stage.wanted(find_config(config, stage.config))]
    size = next((number for number, stage in enumerate(stages) if stage.barrier), len(stages)) or 1
    part, stages[:] = stages[:size], stages[size:]
    return part


def _through(
    part: list[AnyStage],
    config: DataConfig,
    store: ShardStore,
    corpus: Mapping[str, tuple[ShardReport, ...]],
    done: Done,
) -> Done:
    """Take one shard through some stages."""
    for stage in part:
        reports = {name: done[name] for name in stage.needs}
        job = Job(shard=done["plan"].shard, store=store, configs=config, reports=reports, corpus=corpus)
        done = {**done, stage.name: stage.work(job)}
    return done


def main() -> None:
    """Build and print the id."""
    root, *assignments = sys.argv[1:]
    print(plain_build(resolve("mini", parse_assignments(assignments)), root).id)


if __name__ == "__main__":
    main()
