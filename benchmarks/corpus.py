"""The miniature's web as a corpus: every stage up to the index run for real, under the profile ``mini``."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from flows.config.tree import DataConfig
from iedit_model.models.captioner import load_captioner
from iedit_model.models.clip import load_clip
from miniature.web import FaultShares, Site, serve, write_metadata
from miniature.world import Scene
from storage import ShardReport, ShardStore, sample_id
from tasks.caption import caption_shard
from tasks.download.stage import download_shard
from tasks.embed.stage import embed_shard
from tasks.index.stage import build_index
from tasks.plan.stage import PlanConfig, plan_shards
from tasks.swap.stage import swap_shard
from tasks.swap.words import count_words, read_counts

FAULTS = FaultShares.only(copy=0.03, near_copy=0.03)
"""The faults of the web that bear on retrieval: images that are there twice. The others only cost time."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The finished stages and the truth behind them."""

    site: Site
    store: ShardStore
    plans: Sequence[ShardReport]
    downloads: Sequence[ShardReport]
    captions: Sequence[ShardReport]
    swaps: Sequence[ShardReport]
    embeds: Sequence[ShardReport]
    index: ShardReport
    url_numbers: dict[str, int]
    """Sample id -> number of its URL on the site."""
    seconds: dict[str, float]
    """Stage -> wall time."""

    def scene(self, sample: str) -> Scene:
        """Return what the image of a sample shows."""
        return self.site.scene(self.url_numbers[sample])

    def origin(self, sample: str) -> str:
        """Return a name that an image shares with its copies."""
        return str(self.site.original(self.url_numbers[sample]))


def build_corpus(site: Site, config: DataConfig, folder: Path, *, port: int, shard_size: int = 1_000) -> Corpus:
    """Run the stages; those that lie finished in ``folder`` are taken as they are.

    Args:
        site: what to crawl.
        config: settings of all stages; the plan's filters are left out, so that every image counts.
        folder: where the store is made.
        port: where the site is served; part of all addresses and so of all sample ids.
        shard_size: URLs a shard.
    """
    store = ShardStore.at(folder / "store")
    seconds: dict[str, float] = {}
    with serve(site, port=port) as running:
        write_metadata(folder / "metadata", site=site, base_url=running.base_url)
        url_numbers = {sample_id(running.url(number)): number for number in range(site.num_urls)}
        plan = plan_shards(str(folder / "metadata"), PlanConfig(shard_size=shard_size), store)
        fetch = replace(config.download.fetch, allowed_hosts=(urlsplit(running.base_url).netloc,))
        with _timed(seconds, "download"):
            downloads = [download_shard(one, replace(config.download, fetch=fetch), store) for one in plan.reports]
    with _timed(seconds, "caption"):
        captioner = load_captioner(config.caption.model) if config.caption.model else None
        captions = [caption_shard(one, config.caption, store, captioner) for one in downloads]
    with _timed(seconds, "swap"):
        counts = read_counts(store, count_words(captions, config.swap, store))
        swaps = [swap_shard(one, config.swap, store, counts=counts) for one in captions]
    with _timed(seconds, "embed"):
        encoder = load_clip(config.embed.model)
        embeds = [
            embed_shard(download, config.embed, store, encoder, caption=caption, swap=swap)
            for download, caption, swap in zip(downloads, captions, swaps, strict=True)
        ]
    with _timed(seconds, "index"):
        index = build_index(embeds, downloads=downloads, captions=captions, config=config.index, store=store)
    return Corpus(
        site=site,
        store=store,
        plans=plan.reports,
        downloads=downloads,
        captions=captions,
        swaps=swaps,
        embeds=embeds,
        index=index,
        url_numbers=url_numbers,
        seconds=seconds,
    )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began
