"""The noise of each request: drawn on the CPU from its own seed, so that device and batch mates do not change it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class SeededNoise:
    """Draws standard normal noise for a batch, every row from a generator of its own."""

    def __init__(self, seeds: Sequence[int], *, shape: tuple[int, ...], device: torch.device | None = None) -> None:
        """Prepare one generator a row.

        Args:
            seeds: one a row, in [0, 2**63).
            shape: of one row: (channels, height, width).
            device: where the noise is wanted; None is the CPU.
        """
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._shape = shape
        self._device = device or torch.device("cpu")

    def __call__(self) -> Float[Tensor, "b c h w"]:
        """Return the next noise, fp32."""
        rows = [torch.randn(self._shape, generator=generator) for generator in self._generators]
        return torch.stack(rows).to(self._device)
