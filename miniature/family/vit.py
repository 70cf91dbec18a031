"""Initial values for a vision transformer that is trained from scratch.

transformers' own initialisation expects a trained checkpoint (BLIP's towers start at 1e-10) and gives positions so
faint that attention needs very long to find them. Sine positions and Xavier weights learn the nouns in half the
pictures.
"""

import numpy as np
import torch
from torch import Tensor, nn

_POSITION_SCALE = 0.3


def initialise_vit(vision: nn.Module, positions: Tensor) -> None:
    """Give every matrix Xavier values and the positions two-dimensional sines (class token first, at zero).

    Args:
        vision: the vision tower.
        positions: its position embeddings, (..., 1 + patches, width) with a square number of patches; changed in place.
    """
    for module in vision.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.data.view(len(module.weight), -1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    table = sine_positions(round((positions.shape[-2] - 1) ** 0.5), positions.shape[-1])
    with torch.no_grad():
        positions.zero_()
        positions[..., 1:, :] = table * _POSITION_SCALE


def sine_positions(side: int, width: int) -> Tensor:
    """Return sines and cosines of both coordinates at ``width / 4`` wavelengths, (side * side, width)."""
    y, x = np.divmod(np.arange(side * side), side)
    waves = 100.0 ** -(np.arange(width // 4) / (width // 4))
    parts = [function(axis[:, None] * waves) for axis in (x, y) for function in (np.sin, np.cos)]
    return torch.from_numpy(np.concatenate(parts, axis=1)).float()
