"""Masks in plain loops, written from their description and not from our code; a mask is a (height, width) array."""

import math

import numpy as np


def latent_mask(mask: np.ndarray, cell: int, mode: str, threshold: float) -> np.ndarray:
    """Bring a mask to 1 / ``cell`` of its size."""
    height, width = mask.shape[0] // cell, mask.shape[1] // cell
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            values = [float(mask[y * cell + dy, x * cell + dx]) for dy in range(cell) for dx in range(cell)]
            value = {"nearest": values[0], "max": max(values)}.get(mode, math.fsum(values) / len(values))
            out[y, x] = value if mode == "soft" else float(value >= threshold)
    return out


def dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """Take the largest value within ``radius`` in both directions."""
    out = np.zeros(mask.shape)
    for y, x in np.ndindex(*mask.shape):
        for other_y, other_x in np.ndindex(*mask.shape):
            if abs(y - other_y) <= radius and abs(x - other_x) <= radius:
                out[y, x] = max(out[y, x], float(mask[other_y, other_x]))
    return out


def shares(mask_1: np.ndarray, mask_2: np.ndarray) -> dict[str, float]:
    """Count the four regions of two binary masks."""
    names = {(0, 1): "overlap", (1, 0): "gap", (1, 1): "shared", (0, 0): "background"}
    counts = dict.fromkeys(names.values(), 0)
    for place in np.ndindex(*mask_1.shape):
        counts[names[int(mask_1[place]), int(mask_2[place])]] += 1
    return {name: count / mask_1.size for name, count in counts.items()}


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the places with a mask; the frame where there is none."""
    places = [place for place in np.ndindex(*mask.shape) if mask[place] >= 0.5]
    if not places:
        return 0, 0, *mask.shape
    rows, columns = [y for y, _ in places], [x for _, x in places]
    return min(rows), min(columns), max(rows) + 1, max(columns) + 1
