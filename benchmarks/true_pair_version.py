"""A real dataset version of true pairs of the miniature's world, for tests and experiments of the training."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from benchmarks.planted_pairs import Corpus, Pair, png
from miniature.pairs import TruePair, true_pair
from miniature.world import Scene, World
from storage import ShardStore, VersionInfo, sample_id
from tasks.pack.splits import SplitConfig
from tasks.pack.stage import PackConfig


def true_pairs(num_pairs: int, *, seed: int = 0, first: int = 0, only_seen: bool = True) -> list[TruePair]:
    """Return edits of fresh scenes: the source and the target that an ideal edit would give."""
    world = World(seed)
    rng = np.random.default_rng((seed, first))
    return [true_pair(world.scene(first + number), rng, only_seen=only_seen) for number in range(num_pairs)]


def build_version(
    store: ShardStore, pairs: Sequence[TruePair], *, config: PackConfig | None = None, size_px: int = 64
) -> VersionInfo:
    """Write the tables of all stages and the tars of ``pairs`` into a store and return the version made of them.

    Images and masks of another size than the world's 64 pixels are enlarged.
    """
    named, images = [], {}
    for number, pair in enumerate(pairs):
        ids = {side: sample_id(f"https://world.example/true/{number}/{side}") for side in ("source", "target")}
        rows = {}
        if size_px != 64:
            scenes = {"source": pair.source, "target": pair.target}
            images |= {ids[side]: png(scene.render().resize((size_px, size_px))) for side, scene in scenes.items()}
            rows = {"mask": {f"{side}_mask_png": _mask(scenes[side], pair, size_px) for side in scenes}}
        named.append(Pair(source_id=ids["source"], target_id=ids["target"], truth=pair, rows=rows))
    corpus = Corpus(pairs=tuple(named), shard_size=500, images=images)
    return corpus.build(store, config or PackConfig(splits=all_in_train()))


def all_in_train() -> SplitConfig:
    """Return splits that put every pair into train."""
    return SplitConfig(val_share=0.0, test_share=0.0)


def _mask(scene: Scene, pair: TruePair, size_px: int) -> bytes:
    mask = Image.fromarray(scene.masks()[pair.position].astype(np.uint8) * 255)
    return png(mask.resize((size_px, size_px), Image.Resampling.NEAREST))
