"""Frechet distance between two sets of features (Heusel et al. 2017, arXiv:1706.08500), in float64.

d^2 = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)). With fewer images than features the covariances lack rank and
the value is mostly floor: two samples of one distribution are far from 0. Compare it only within one table, under one
network, one reference set and one N.
"""

import math

import numpy as np

from iedit_model.metrics.checks import require_feature_sets
from iedit_model.metrics.registry import Floats, MetricInfo, set_metric


@set_metric(
    MetricInfo(
        name="fid",
        title="FID",
        better="lower",
        definition="Squared Frechet distance of the features of the edited images and of the reference set.",
        is_watched=True,
    ),
    version=1,
    needs_full_rank=True,
)
def fid(reference: Floats, edited: Floats) -> float:
    """Return the squared Frechet distance of two sets of features (n, d) and (m, d), at least 0.

    tr (C_1 C_2)^(1/2) is the sum of the singular values of A B^T, A and B the centred features over sqrt(n - 1) and
    sqrt(m - 1): no d x d matrix and no imaginary parts, unlike torchmetrics' ``FrechetInceptionDistance``, whose
    eigenvalues of a 2048 x 2048 matrix would cost minutes for each image that the jackknife leaves out.

    Raises:
        MetricInputError: the sets do not fit each other, or a value is not finite.
        TooFewSamplesError: a set has fewer than two images.
    """
    first, second = require_feature_sets(reference, edited, minimum=2)
    means = first.mean(axis=0), second.mean(axis=0)
    centred = [
        (values - mean) / math.sqrt(len(values) - 1) for values, mean in zip((first, second), means, strict=True)
    ]
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    traces = sum(float((values**2).sum()) for values in centred)
    return max(0.0, float(((means[0] - means[1]) ** 2).sum() + traces - 2 * cross))
