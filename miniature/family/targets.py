"""Dense training targets: what stands under each patch of a picture.

A vision transformer from scratch learns "something is there" long before it learns what. Classifying every patch
besides the main task gives its trunk the nouns and colours directly; the heads are thrown away after training.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from miniature.family.pool import Pool
from miniature.vocabulary import BACKGROUNDS, COLOURS, NOUNS
from miniature.world import SIZE_PX

PATCH_PX = 8
_SIDE = SIZE_PX // PATCH_PX


def patch_targets(pool: Pool, chosen: np.ndarray) -> Tensor:
    """Return noun and colour of each patch and the ground's colour, int64 (b, 3, 64 patches).

    A patch belongs to the object that covers a fifth of it or more; noun and colour of the ground are one extra class.
    """
    out = np.empty((len(chosen), 3, _SIDE * _SIDE), np.int64)
    for row, index in zip(out, chosen, strict=True):
        scene = pool.scene(int(index))
        row[0], row[1] = len(NOUNS), len(COLOURS)
        row[2] = tuple(BACKGROUNDS).index(scene.background)
        for position, thing in enumerate(scene.objects):
            covered = pool.mask(int(index), position).reshape(_SIDE, PATCH_PX, _SIDE, PATCH_PX).mean((1, 3)) > 0.2
            row[0, covered.ravel()] = NOUNS.index(thing.noun)
            row[1, covered.ravel()] = tuple(COLOURS).index(thing.colour)
    return torch.from_numpy(out)


class PatchHeads(nn.Module):
    """Three linear classifiers on patch tokens: noun, colour, ground."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        sizes = (len(NOUNS) + 1, len(COLOURS) + 1, len(BACKGROUNDS))
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross-entropy of patch tokens (b, 64, width) against ``patch_targets``."""
        normed = self.norm(tokens)
        losses = [
            functional.cross_entropy(head(normed).float().flatten(0, 1), targets[:, i].flatten())
            for i, head in enumerate(self.heads)
        ]
        return torch.stack(losses).sum()
