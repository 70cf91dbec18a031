"""Frechet distance between two sets of features (Heusel et al. 2017, arXiv:1706.08500), in float64.

d^2 = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)). With fewer images than features the covariances lack rank and
the value is mostly floor: two samples of one distribution are far from 0. Compare it only within one table, under one
network, one reference set and one N; all of them are part of the result.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from iedit_model.metrics.checks import require_embeds
from iedit_model.metrics.errors import MetricInputError, TooFewSamplesError


@dataclass(kw_only=True, slots=True)
class FeatureMoments:
    """Sums that mean and covariance follow from, so that batch size and sharding cannot change them."""

    num_features: int
    """Features an image, d."""
    count: int = 0
    """Images seen, n."""
    total: Tensor
    """Sum of the features, (d,) float64."""
    products: Tensor
    """Sum of their outer products, (d, d) float64."""

    @classmethod
    def empty(cls, num_features: int) -> Self:
        """Return the moments of no image."""
        zeros = torch.zeros(num_features, dtype=torch.float64)
        return cls(num_features=num_features, total=zeros, products=torch.outer(zeros, zeros))

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Return the moments of one set of features, (n, d).

        Raises:
            MetricInputError: the features are no (n, d) of finite values.
        """
        return cls.empty(require_embeds(features, name="features").shape[1]).update(features)

    def update(self, features: Tensor) -> Self:
        """Add a batch of features, (b, d).

        Raises:
            MetricInputError: another number of features, or a value that is not finite.
        """
        values = require_embeds(features, name="features").cpu()
        if values.shape[1] != self.num_features:
            raise MetricInputError(f"features are {tuple(values.shape)}, expected (b, {self.num_features})")
        self.count += len(values)
        self.total = self.total + values.sum(dim=0)
        self.products = self.products + values.T @ values
        return self

    def merge(self, other: "FeatureMoments") -> Self:
        """Add what another state has seen.

        Raises:
            MetricInputError: the other counts another number of features.
        """
        if other.num_features != self.num_features:
            raise MetricInputError(f"moments of {other.num_features} features do not fit those of {self.num_features}")
        self.count += other.count
        self.total = self.total + other.total
        self.products = self.products + other.products
        return self

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return mean (d,) and sample covariance (d, d), float64.

        Raises:
            TooFewSamplesError: fewer than two images have been seen.
        """
        if self.count < 2:
            raise TooFewSamplesError(f"a covariance needs at least 2 images, got {self.count}")
        mean = self.total / self.count
        return mean, (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class FidResult:
    """A Frechet distance and all it depends on."""

    value: float
    """Squared Frechet distance, at least 0."""
    network: str
    """The feature network's name."""
    reference_set: str
    """What the images are compared with, in words: FID has no meaning without it."""
    num_reference: int
    """Images in the reference set."""
    num_edited: int
    """Edited images."""
    num_features: int
    """Features an image."""

    @property
    def name(self) -> str:
        """The result's name: ``fid@network``."""
        return f"fid@{self.network}"

    @property
    def rank_deficient(self) -> bool:
        """Whether a set has too few images for a covariance of full rank: then most of the value is floor."""
        return min(self.num_reference, self.num_edited) <= self.num_features


def fid(reference: FeatureMoments, edited: FeatureMoments, *, network: str, reference_set: str) -> FidResult:
    """Return the Frechet distance of two sets of images.

    Args:
        reference: moments of the reference images; drop repeated source images first.
        edited: moments of the edited images, from the same network.
        network: ``FeatureNetwork.name``.
        reference_set: which images these are, as the table will say it.

    Raises:
        MetricInputError: the number of features differs.
        TooFewSamplesError: a set has fewer than two images.
    """
    if reference.num_features != edited.num_features:
        raise MetricInputError(
            f"reference has {reference.num_features} features an image, edited {edited.num_features}: two networks"
        )
    value = frechet_distance(*reference.compute(), *edited.compute())
    return FidResult(
        value=value,
        network=network,
        reference_set=reference_set,
        num_reference=reference.count,
        num_edited=edited.count,
        num_features=reference.num_features,
    )


def frechet_distance(mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor) -> float:
    """Return |m_1 - m_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2), at least 0.

    The last trace is the sum of the square roots of the eigenvalues of C_1^(1/2) C_2 C_1^(1/2), which is symmetric:
    no imaginary parts appear when the covariances lack rank (pytorch-fid's "Imaginary component").

    Args:
        mean_1: (d,).
        covariance_1: (d, d), symmetric, without negative eigenvalues.
        mean_2: (d,).
        covariance_2: (d, d).
    """
    values, vectors = torch.linalg.eigh(covariance_1.double())
    root = (vectors * _significant(values).sqrt()) @ vectors.T
    between = root @ covariance_2.double() @ root
    cross = _significant(torch.linalg.eigvalsh((between + between.T) / 2)).sqrt().sum()
    shift = ((mean_1.double() - mean_2.double()) ** 2).sum()
    distance = shift + covariance_1.double().trace() + covariance_2.double().trace() - 2 * cross
    return distance.clamp(min=0).item()


def _significant(eigenvalues: Tensor) -> Tensor:
    # Rounding leaves about d * eps * largest where a rank is missing, and the square root would blow that up.
    floor = eigenvalues.abs().max() * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return torch.where(eigenvalues > floor, eigenvalues, 0.0)
