"""KID and CMMD: squared maximum mean discrepancies of two sets of features (Gretton et al. 2012, JMLR 13), in float64.

Kernel values are summed in blocks of rows, so memory does not grow with the square of the number of images.
torchmetrics' ``KernelInceptionDistance`` needs two sets of one size and a subset size below it; ours equals its
``poly_mmd`` where that is defined.
"""

import statistics
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from iedit_model.metrics.checks import require_feature_sets
from iedit_model.metrics.errors import MetricInputError
from iedit_model.metrics.registry import Floats, MetricInfo, set_metric

Kernel = Callable[[Floats, Floats], Floats]
"""Maps (n, d) and (m, d) to the kernel's values (n, m)."""
BLOCK_ROWS = 1024
KID_SUBSET_SIZE, KID_SUBSETS = 1000, 100
"""The published subsets of KID. Sets up to this size are used whole, once."""
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
"""Width of CMMD's kernel, and the factor that makes the number readable, as published."""


@set_metric(
    MetricInfo(
        name="kid",
        title="KID",
        unit="x 1e-3",
        display_factor=1000,
        better="lower",
        definition="Unbiased squared MMD of the same features under the cubic kernel.",
    ),
    version=1,
)
def kid(reference: Floats, edited: Floats) -> float:
    """Return the Kernel Inception Distance (Binkowski et al. 2018, arXiv:1801.01401).

    Unbiased: about 0, and as often below as above, for two samples of one distribution. Sets of more than
    ``KID_SUBSET_SIZE`` images are compared by the mean over ``KID_SUBSETS`` random subsets, the same ones each time.

    Raises:
        MetricInputError: the sets do not fit each other, or a value is not finite.
        TooFewSamplesError: a set has fewer than two images.
    """
    reference, edited = require_feature_sets(reference, edited, minimum=2)
    if max(len(reference), len(edited)) <= KID_SUBSET_SIZE:
        return squared_mmd(reference, edited, polynomial_kernel, unbiased=True)
    size = min(KID_SUBSET_SIZE, len(reference), len(edited))
    return statistics.fmean(
        squared_mmd(reference[first], edited[second], polynomial_kernel, unbiased=True)
        for first, second in sample_subsets(len(reference), len(edited), size=size)
    )


@set_metric(
    MetricInfo(
        name="cmmd",
        title="CMMD",
        better="lower",
        definition="1000 times the squared MMD of CLIP embeddings under a Gaussian kernel of width 10, as published.",
    ),
    version=1,
    network="clip",
)
def cmmd(reference: Floats, edited: Floats) -> float:
    """Return CMMD (Jayasumana et al. 2024, arXiv:2401.09603): 1000 times the squared MMD of unit CLIP embeddings.

    Float64 matters: on the unit sphere the kernel stays within [0.98, 1] and the result is the difference of means.
    With small sets it has a floor of about 1000 (1 / n + 1 / m) (1 - mean k): read ``cmmd_unbiased``.

    Raises:
        MetricInputError: the sets do not fit each other, or an embedding is zero or not finite.
        TooFewSamplesError: a set is empty.
    """
    return CMMD_SCALE * squared_mmd(_unit(reference), _unit(edited), gaussian_kernel, unbiased=False)


@set_metric(
    MetricInfo(
        name="cmmd_unbiased",
        title="CMMD (unbiased)",
        better="lower",
        definition="CMMD without each image's similarity to itself: no floor at small N.",
    ),
    version=1,
    network="clip",
)
def cmmd_unbiased(reference: Floats, edited: Floats) -> float:
    """Return ``cmmd`` without each image's similarity to itself; needs two images of each set."""
    return CMMD_SCALE * squared_mmd(_unit(reference), _unit(edited), gaussian_kernel, unbiased=True)


def polynomial_kernel(first: Floats, second: Floats) -> Floats:
    """Return (x . y / d + 1)^3, (n, m): KID's kernel (section 4 of its paper)."""
    return (first @ second.T / first.shape[1] + 1) ** 3


def gaussian_kernel(first: Floats, second: Floats) -> Floats:
    """Return exp(-|x - y|^2 / (2 sigma^2)), (n, m): CMMD's kernel."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :] - 2 * first @ second.T
    return np.exp(-squares.clip(min=0) / (2 * CMMD_SIGMA**2))


def squared_mmd(reference: Floats, edited: Floats, kernel: Kernel, *, unbiased: bool) -> float:
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
    across = sum(float(kernel(block, edited).sum()) for block in _blocks(reference))
    return within - 2 * across / (len(reference) * len(edited))


def sample_subsets(
    num_reference: int, num_edited: int, *, size: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the row numbers of each subset of either set, sampled without replacement from a fixed seed."""
    rng = np.random.default_rng(0)
    return [(rng.permutation(num_reference)[:size], rng.permutation(num_edited)[:size]) for _ in range(KID_SUBSETS)]


def _mean_within(features: Floats, kernel: Kernel, *, unbiased: bool) -> float:
    count, total = len(features), 0.0
    for number, block in enumerate(_blocks(features)):
        values = kernel(block, features)
        total += float(values.sum())
        if unbiased:
            total -= float(values.diagonal(offset=number * BLOCK_ROWS).sum())
    return total / (count * (count - 1) if unbiased else count**2)


def _blocks(features: Floats) -> list[Floats]:
    return [features[start : start + BLOCK_ROWS] for start in range(0, len(features), BLOCK_ROWS)]


def _unit(embeds: Floats) -> Floats:
    norms = np.linalg.norm(embeds, axis=1, keepdims=True)
    if not (norms > 0).all():
        raise MetricInputError(f"{int((norms == 0).sum())} embeddings are zero and have no direction")
    return embeds / norms
