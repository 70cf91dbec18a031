"""A dataset built by a plain loop over the stage functions: no Prefect, no retries, no progress, no artifacts.

``python -m benchmarks.plain_build ROOT [SETTING ...]`` prints the version's id. As many threads compute and download
as in the flow, and a shard is captioned as soon as it is downloaded, as there.
"""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flows import stages
from flows.config.overrides import parse_assignments
from flows.config.profiles import resolve
from flows.config.tree import Config
from flows.server.environment import apply_defaults
from flows.source import open_source
from storage import ShardReport, VersionInfo
from tasks.pack.stage import PackInputs, tar_names

Reports = tuple[ShardReport, ...]


def plain_build(config: Config, root: str) -> VersionInfo:
    """Build the dataset and return its version."""
    run: dict[str, Any] = {"config": config, "root": root}
    with open_source(config.data.source) as address, ThreadPoolExecutor(config.run.runner.workers) as pool:

        def each(function: Callable[..., ShardReport], **columns: Reports) -> Reports:
            """Call a stage for every shard: the columns are its reports of earlier stages."""
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            return tuple(pool.map(lambda row: function(next(iter(row.values())).shard, **row, **run), rows))

        plan = stages.plan("all", metadata=address, **run)
        downloads, captions = _fetched(plan.reports, pool, run)
        counts = stages.count_words("all", captions=captions, **run) if config.data.swap.min_corpus_count else None
        swaps = tuple(pool.map(lambda one: stages.swap(one.shard, caption=one, counts=counts, **run), captions))
        embeds = each(stages.embed, download=downloads, caption=captions, swap=swaps)
        index = stages.index("all", embeds=embeds, downloads=downloads, captions=captions, **run)
        retrieved = tuple(pool.map(lambda one: stages.retrieve(one.shard, embed=one, index=index, **run), embeds))
        run["downloads"] = downloads
        masks = each(stages.mask, retrieve=retrieved, swap=swaps)
        del run["downloads"]
        inputs = PackInputs(
            plan=tuple(plan.reports),
            download=downloads,
            caption=captions,
            swap=swaps,
            embed=embeds,
            retrieve=retrieved,
            mask=masks,
        )
        packing = stages.plan_tars("all", inputs=inputs, **run)
        packed = tuple(pool.map(lambda tar: stages.pack(tar, plan=packing, inputs=inputs, **run), tar_names(packing)))
        return stages.version(
            "all",
            plan=packing,
            packed=packed,
            inputs=inputs,
            index=index,
            word_counts=counts,
            input_digest=plan.input_digest,
            **run,
        )


def _fetched(plan: Sequence[ShardReport], pool: ThreadPoolExecutor, run: dict[str, Any]) -> tuple[Reports, Reports]:
    """Download and caption all shards, a caption beginning when its download is there."""
    config: Config = run["config"]
    with ThreadPoolExecutor(config.run.runner.downloads) as network:
        fetches = [network.submit(stages.download, one.shard, plan=one, retry=False, **run) for one in plan]
        captions = pool.map(lambda one: stages.caption(one.result().shard, download=one.result(), **run), fetches)
        return tuple(one.result() for one in fetches), tuple(captions)


def main() -> None:
    """Build and print the id."""
    apply_defaults()
    root, *assignments = sys.argv[1:]
    print(plain_build(resolve("mini", parse_assignments(assignments)), root).id)


if __name__ == "__main__":
    main()
