"""Squared maximum mean discrepancy of two sets of features (Gretton et al. 2012, JMLR 13), in float64.

Kernel values are summed in blocks of rows, so memory does not grow with the square of the number of images.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from iedit_model.metrics.checks import require_feature_sets

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Maps (n, d) and (m, d) to the kernel's values (n, m)."""
BLOCK_ROWS = 1024


def polynomial_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Return (x . y / d + 1)^3, (n, m): KID's kernel (Binkowski et al. 2018, arXiv:1801.01401, section 4)."""
    return (first @ second.T / first.shape[1] + 1) ** 3


def gaussian_kernel(first: Tensor, second: Tensor, *, sigma: float) -> Tensor:
    """Return exp(-|x - y|^2 / (2 sigma^2)), (n, m)."""
    squares = (first**2).sum(dim=1)[:, None] + (second**2).sum(dim=1)[None, :] - 2 * first @ second.T
    return torch.exp(-squares.clamp(min=0) / (2 * sigma**2))


def squared_mmd(reference: Tensor, edited: Tensor, kernel: Kernel, *, unbiased: bool) -> float:
    """Return the squared MMD: mean k(x, x') + mean k(y, y') - 2 mean k(x, y).

    Args:
        reference: features (n, d).
        edited: features (m, d).
        kernel: a positive definite kernel.
        unbiased: leave an image's similarity to itself out of the first two means (Gretton et al. Eq. 3; may be
            negative). Otherwise keep it (Eq. 5; at least 0 up to rounding).

    Raises:
        MetricInputError: the sets do not fit each other, or a value is not finite.
        TooFewSamplesError: a set is empty, or has one image only where ``unbiased`` needs two.
    """
    reference, edited = require_feature_sets(reference, edited, minimum=2 if unbiased else 1)
    within = sum(_mean_within(features, kernel, unbiased=unbiased) for features in (reference, edited))
    across = sum(kernel(block, edited).sum().item() for block in reference.split(BLOCK_ROWS))
    return within - 2 * across / (len(reference) * len(edited))


def _mean_within(features: Tensor, kernel: Kernel, *, unbiased: bool) -> float:
    count, total = len(features), 0.0
    for start in range(0, count, BLOCK_ROWS):
        values = kernel(features[start : start + BLOCK_ROWS], features)
        total += values.sum().item()
        if unbiased:
            total -= values.diagonal(offset=start).sum().item()
    return total / (count * (count - 1) if unbiased else count**2)
