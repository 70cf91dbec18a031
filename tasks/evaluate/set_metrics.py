"""FID, KID and CMMD of a method on some sets: reference and number of images stated, intervals by leaving images out.

Each seed (and training seed) gives one set of edited images of the size that the paper would have; the number is the
mean over them. Pooling the seeds would lower FID by its floor alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tasks.evaluate.results import Floats, SetFeatures

if TYPE_CHECKING:
    from torch import Tensor

Rows = npt.NDArray[np.int64]
_Distance = Callable[[Floats, Floats], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SetMetric:
    """A distance between a method's edited images and the reference set."""

    method: str
    name: str
    """With its network: ``fid@mini-vgg``."""
    value: float
    low: float
    high: float
    reference_set: str
    """Which images the reference is, in words."""
    num_reference: int
    num_edited: int
    """Edited images of one draw."""
    num_draws: int
    """Sets of edited images over which the number is a mean."""
    rank_deficient: bool
    """Whether a set has too few images for its covariance (FID alone): most of the value is floor then."""


def set_metrics(
    method: str,
    edited: Sequence[SetFeatures],
    reference: SetFeatures,
    *,
    reference_set: str,
    kind: str,
    confidence: float = 0.95,
) -> list[SetMetric]:
    """Return FID and KID (``kind="features"``) or CMMD in both forms (``kind="clip"``) of one method.

    Args:
        method: its name.
        edited: features of its images through one network, one entry a training seed.
        reference: features of the source images, each image once.
        reference_set: what those are, in words.
        kind: which distances the network serves.
        confidence: of the intervals.

    Returns:
        One entry a metric; NaN where there are too few images, and NaN ends where there are too few source images.
    """
    draws = [_drawn(features, seed) for features in edited for seed in sorted(set(features.draws))]
    distances: dict[str, _Distance] = (
        {"fid": _fid, "kid": _kid} if kind == "features" else {"cmmd": _cmmd, "cmmd_unbiased": _cmmd_unbiased}
    )
    num_edited = min((len(draw.source_ids) for draw in draws), default=0)
    found = []
    for name, distance in distances.items():
        value, low, high = _interval(draws, reference, distance, confidence)
        found.append(
            SetMetric(
                method=method,
                name=f"{name}@{reference.network}",
                value=value,
                low=low,
                high=high,
                reference_set=reference_set,
                num_reference=len(reference.source_ids),
                num_edited=num_edited,
                num_draws=len(draws),
                rank_deficient=name == "fid"
                and min(num_edited, len(reference.features)) <= reference.features.shape[1],
            )
        )
    return found


def frechet_of_features(first: Floats, second: Floats) -> float:
    """Return the squared Frechet distance of two sets of features (n, d) and (m, d), at least 0.

    tr (C_1 C_2)^(1/2) is the sum of the singular values of A B^T, A and B the centred features over sqrt(n - 1) and
    sqrt(m - 1): the same number as ``iedit_model.metrics.fid`` gives, without a d x d matrix, which makes leaving one
    image out in turn affordable at d = 2048.
    """
    means = first.mean(axis=0), second.mean(axis=0)
    centred = [
        (values - mean) / math.sqrt(len(values) - 1) for values, mean in zip((first, second), means, strict=True)
    ]
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    traces = sum(float((values**2).sum()) for values in centred)
    return max(0.0, float(((means[0] - means[1]) ** 2).sum() + traces - 2 * cross))


def _drawn(features: SetFeatures, seed: int) -> SetFeatures:
    kept = [index for index, draw in enumerate(features.draws) if draw == seed]
    return SetFeatures(
        network=features.network,
        source_ids=tuple(features.source_ids[index] for index in kept),
        draws=tuple(seed for _ in kept),
        features=features.features[kept],
    )


def _interval(
    draws: Sequence[SetFeatures], reference: SetFeatures, distance: _Distance, confidence: float
) -> tuple[float, float, float]:
    """Return the mean over draws with its jackknife interval over source images."""
    from iedit_model.metrics.jackknife import jackknife_interval

    sources = np.array(reference.source_ids)

    def statistic(kept: Rows) -> float:
        left = set(sources[kept])
        values = []
        for draw in draws:
            rows = [index for index, source in enumerate(draw.source_ids) if source in left]
            if min(len(rows), len(kept)) < 2:
                return math.nan
            values.append(distance(reference.features[kept], draw.features[rows]))
        return math.fsum(values) / len(values) if values else math.nan

    whole = statistic(np.arange(len(sources)))
    if len(sources) < 3 or math.isnan(whole):
        return whole, math.nan, math.nan
    found = jackknife_interval(statistic, reference.source_ids, confidence=confidence)
    return found.value, found.low, found.high


def _fid(reference: Floats, edited: Floats) -> float:
    return frechet_of_features(reference, edited)


def _kid(reference: Floats, edited: Floats) -> float:
    from iedit_model.metrics.kid import kid

    return kid(*_tensors(reference, edited), network="", reference_set="").value


def _cmmd(reference: Floats, edited: Floats) -> float:
    from iedit_model.metrics.cmmd import cmmd

    return cmmd(*_tensors(reference, edited), encoder="", reference_set="").value


def _cmmd_unbiased(reference: Floats, edited: Floats) -> float:
    from iedit_model.metrics.cmmd import cmmd

    return cmmd(*_tensors(reference, edited), encoder="", reference_set="", unbiased=True).value


def _tensors(first: Floats, second: Floats) -> "tuple[Tensor, Tensor]":
    import torch

    return torch.from_numpy(first), torch.from_numpy(second)
