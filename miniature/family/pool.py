"""The training scenes, drawn once and kept as arrays on disk, so that every member reads pixels at memory speed."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from miniature.world import SIZE_PX, Scene, World

TRAIN_SEED = 0
MEASURE_SEED = 1
"""World seeds: the family is trained on one and measured on the other."""


@dataclass(frozen=True)
class Pool:
    """Scenes ``0 .. len - 1`` of a world with their pixels and masks."""

    world: World
    images: np.ndarray
    """uint8 (scenes, 64, 64, 3)."""
    masks: np.ndarray
    """Packed bits, uint8 (scenes, 2, 512); the second mask is empty in scenes of one object."""

    def __len__(self) -> int:
        return len(self.images)

    def scene(self, index: int) -> Scene:
        """Return the truth of scene ``index``."""
        return self.world.scene(index)

    def mask(self, index: int, position: int) -> np.ndarray:
        """Return one object's mask, bool (64, 64)."""
        return np.unpackbits(self.masks[index, position]).reshape(SIZE_PX, SIZE_PX).astype(bool)


def load_pool(folder: Path, *, num_scenes: int, seed: int = TRAIN_SEED) -> Pool:
    """Return the first ``num_scenes`` scenes of the training world, drawing them into ``folder`` when not there yet.

    Takes about half a second a thousand scenes on the first call and no time afterwards.
    """
    world = World(seed)
    images_path, masks_path = (folder / f"{kind}-{seed}-{num_scenes}.npy" for kind in ("images", "masks"))
    if not (images_path.exists() and masks_path.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        images = np.zeros((num_scenes, SIZE_PX, SIZE_PX, 3), np.uint8)
        masks = np.zeros((num_scenes, 2, SIZE_PX * SIZE_PX // 8), np.uint8)
        for index in track(range(num_scenes), description="drawing the training scenes"):
            scene = world.scene(index)
            images[index] = np.asarray(scene.render())
            packed = np.packbits(scene.masks().reshape(len(scene.objects), -1), axis=1)
            masks[index, : len(packed)] = packed
        for path, array in ((images_path, images), (masks_path, masks)):
            partial = path.with_suffix(f".{os.getpid()}.partial.npy")
            np.save(partial, array)
            partial.replace(path)
    return Pool(world, np.load(images_path, mmap_mode="r"), np.load(masks_path, mmap_mode="r"))
