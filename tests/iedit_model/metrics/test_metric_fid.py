"""The Frechet distance against scipy's matrix root, torchmetrics, closed forms and the covariances' own roots."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from iedit_model.metrics.errors import MetricInputError, TooFewSamplesError
from iedit_model.metrics.fid import fid


def features(seed: int, count: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn((width, width), generator=generator, dtype=torch.float64)
    return torch.randn((count, width), generator=generator, dtype=torch.float64) @ mixing + seed % 5


def value(first: Tensor, second: Tensor) -> float:
    return fid(first.double().numpy(), second.double().numpy())


def test_it_is_scipys_matrix_root() -> None:
    first, second = features(1, 60, 8), features(2, 50, 8)
    c_1, c_2 = (np.cov(x.numpy(), rowvar=False) for x in (first, second))
    shift = ((first.mean(0) - second.mean(0)) ** 2).sum().item()
    expected = shift + np.trace(c_1 + c_2 - 2 * np.real(sqrtm(c_1 @ c_2)))
    assert value(first, second) == pytest.approx(expected, rel=1e-9)


class Flatten(nn.Module):
    num_features = 12

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).double()


def test_it_is_torchmetrics_with_the_same_features() -> None:
    generator = torch.Generator().manual_seed(0)
    sets = [torch.rand((40, 3, 2, 2), generator=generator) ** power for power in (1, 2)]
    theirs = FrechetInceptionDistance(feature=Flatten()).set_dtype(torch.float64)
    for images, real in zip(sets, (True, False), strict=True):
        theirs.update(images, real=real)
    assert value(sets[0].flatten(1), sets[1].flatten(1)) == pytest.approx(theirs.compute().item(), rel=1e-6)


def test_gaussians_on_one_axis_have_the_closed_form() -> None:
    """Points at mean +- deviation on one axis have exactly that mean, and no covariance between the axes."""
    means, deviations = np.array([1.0, -2.0, 0.5]), np.array([0.5, 2.0, 1.0])
    points = np.concatenate([np.diag(np.ones(3)), -np.diag(np.ones(3))]) * math.sqrt(5 / 2)
    distance = fid(means + points * deviations, points)
    assert distance == pytest.approx((means**2).sum() + ((deviations - 1) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize(("count", "width"), [(5, 64), (20, 64), (63, 64), (90, 5)])
def test_it_is_the_distance_through_covariances_and_their_roots(count: int, width: int) -> None:
    """tr (C_1 C_2)^(1/2) by the eigenvalues of C_1^(1/2) C_2 C_1^(1/2), which also holds without full rank."""
    first, second = (features(seed, count, width).numpy() for seed in (3, 4))
    c_1, c_2 = (np.cov(x, rowvar=False) for x in (first, second))
    values, vectors = np.linalg.eigh(c_1)
    root = (vectors * np.sqrt(_significant(values))) @ vectors.T
    cross = np.sqrt(_significant(np.linalg.eigvalsh(root @ c_2 @ root))).sum()
    shift = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
    assert fid(first, second) == pytest.approx(shift + np.trace(c_1) + np.trace(c_2) - 2 * cross, rel=1e-9)


def _significant(eigenvalues: np.ndarray) -> np.ndarray:
    # Rounding leaves about d * eps * largest where a rank is missing, and the square root would blow that up.
    floor = np.abs(eigenvalues).max() * len(eigenvalues) * np.finfo(np.float64).eps
    return np.where(eigenvalues > floor, eigenvalues, 0.0)


@pytest.mark.parametrize("count", [10, 200])
def test_a_set_is_at_no_distance_from_itself_and_the_order_of_two_does_not_matter(count: int) -> None:
    first, second = features(5, count, 32), features(6, count, 32)
    assert value(first, first) == pytest.approx(0.0, abs=1e-6 * value(first, second))
    assert value(first, second) == pytest.approx(value(second, first), rel=1e-7)


def test_constant_features_are_at_the_distance_of_their_means() -> None:
    assert value(torch.zeros(4, 3), torch.full((5, 3), 2.0)) == pytest.approx(12.0)


def test_the_floor_at_small_n_is_far_above_the_value_at_large_n() -> None:
    """Two samples of one distribution: the reason why FID on 52 images is marked."""
    draws = torch.randn((4, 2000, 64), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    assert value(draws[0, :20], draws[1, :20]) > 20 * value(draws[2], draws[3])


def test_refusals() -> None:
    with pytest.raises(TooFewSamplesError, match="at least 2 of each"):
        value(torch.rand(1, 4), torch.rand(3, 4))
    with pytest.raises(MetricInputError, match="4 features per image, edited 5"):
        value(torch.rand(2, 4), torch.rand(3, 5))
    with pytest.raises(MetricInputError, match="not finite"):
        value(torch.full((2, 4), torch.inf), torch.rand(3, 4))
