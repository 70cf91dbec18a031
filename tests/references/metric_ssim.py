"""Slow reference of the masked SSIM definitions: pixel by pixel, centred moments, a two-dimensional window."""

import math

import numpy as np

RADIUS, SIGMA = 5, 1.5
C1, C2 = 0.01**2, 0.03**2


def gauss(rows: int, columns: int) -> float:
    return math.exp(-(rows**2 + columns**2) / (2 * SIGMA**2))


def mirrored(position: int, size: int) -> int:
    if position < 0:
        return -position
    return 2 * (size - 1) - position if position >= size else position


def local_ssim(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    w = weights / weights.sum()
    mean_x, mean_y = (w * x).sum(), (w * y).sum()
    var_x, var_y = (w * (x - mean_x) ** 2).sum(), (w * (y - mean_y) ** 2).sum()
    covariance = (w * (x - mean_x) * (y - mean_y)).sum()
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return luminance * (2 * covariance + C2) / (var_x + var_y + C2)


def map_mean(source: np.ndarray, edited: np.ndarray, mask: np.ndarray) -> float:
    """Average over pixels weighed by ``mask``; windows mirror at the border. Images are (3, h, w)."""
    height, width = mask.shape
    steps = [(i, j) for i in range(-RADIUS, RADIUS + 1) for j in range(-RADIUS, RADIUS + 1)]
    window = np.array([gauss(i, j) for i, j in steps])
    total = 0.0
    for row, column in np.argwhere(mask > 0):
        places = [(mirrored(row + i, height), mirrored(column + j, width)) for i, j in steps]
        rows, columns = np.array(places).T
        values = [local_ssim(source[c, rows, columns], edited[c, rows, columns], window) for c in range(3)]
        total += mask[row, column] * sum(values) / 3
    return total / mask.sum()


def normconv(source: np.ndarray, edited: np.ndarray, mask: np.ndarray) -> float:
    """Average over pixels weighed by ``mask``; windows hold only pixels inside the frame, weighed by ``mask``."""
    height, width = mask.shape
    total = 0.0
    for row, column in np.argwhere(mask > 0):
        places = [
            (i, j)
            for i in range(max(0, row - RADIUS), min(height, row + RADIUS + 1))
            for j in range(max(0, column - RADIUS), min(width, column + RADIUS + 1))
        ]
        window = np.array([gauss(i - row, j - column) * mask[i, j] for i, j in places])
        rows, columns = np.array(places).T
        values = [local_ssim(source[c, rows, columns], edited[c, rows, columns], window) for c in range(3)]
        total += mask[row, column] * sum(values) / 3
    return total / mask.sum()
