"""The Frechet distance against scipy's matrix root, torchmetrics, closed forms and the low-rank identity."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from iedit_model.metrics.errors import MetricInputError, TooFewSamplesError
from iedit_model.metrics.fid import FeatureMoments, fid, frechet_distance


def features(seed: int, count: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn((width, width), generator=generator, dtype=torch.float64)
    return torch.randn((count, width), generator=generator, dtype=torch.float64) @ mixing + seed % 5


def value(first: Tensor, second: Tensor) -> float:
    return fid(FeatureMoments.of(first), FeatureMoments.of(second), network="n", reference_set="r").value


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
    means, deviations = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 2.0, 1.0])
    distance = frechet_distance(means, torch.diag(deviations**2), torch.zeros(3), torch.diag(torch.ones(3)))
    assert distance == pytest.approx((means**2).sum().item() + ((deviations - 1) ** 2).sum().item(), rel=1e-12)


@pytest.mark.parametrize(("count", "width"), [(5, 64), (20, 64), (63, 64)])
def test_fewer_images_than_features_give_the_low_rank_identity(count: int, width: int) -> None:
    """tr (C_1 C_2)^(1/2) is the nuclear norm of X_1 X_2^T / sqrt((n - 1) (m - 1)): no large matrix, no root."""
    first, second = features(3, count, width), features(4, count + 2, width)
    centred = [x - x.mean(0) for x in (first, second)]
    cross = np.linalg.norm((centred[0] @ centred[1].T).numpy(), "nuc") / np.sqrt((count - 1) * (count + 1))
    traces = sum((x**2).sum().item() / (len(x) - 1) for x in centred)
    shift = ((first.mean(0) - second.mean(0)) ** 2).sum().item()
    # the roots of eigenvalues that are 0 but for rounding would leave an error of about 1e-8
    assert value(first, second) == pytest.approx(shift + traces - 2 * cross, rel=1e-10)


@pytest.mark.parametrize("count", [10, 200])
def test_a_set_is_at_no_distance_from_itself_and_the_order_of_two_does_not_matter(count: int) -> None:
    first, second = features(5, count, 32), features(6, count, 32)
    assert value(first, first) == pytest.approx(0.0, abs=1e-6 * value(first, second))
    assert value(first, second) == pytest.approx(value(second, first), rel=1e-7)


def test_constant_features_are_at_the_distance_of_their_means() -> None:
    assert value(torch.zeros(4, 3), torch.full((5, 3), 2.0)) == pytest.approx(12.0)


@given(seed=st.integers(0, 2**16), cuts=st.lists(st.integers(0, 20), max_size=3))
@settings(max_examples=20, deadline=None)
def test_any_batching_and_merging_give_the_same_moments(seed: int, cuts: list[int]) -> None:
    rows = features(seed, 20, 4)
    updated, merged = FeatureMoments.empty(4), FeatureMoments.empty(4)
    for part in np.split(rows.numpy(), sorted(cuts)):
        updated.update(torch.from_numpy(part))
        merged.merge(FeatureMoments.empty(4).update(torch.from_numpy(part)))
    for state in (updated, merged):
        mean, covariance = state.compute()
        np.testing.assert_allclose(mean.numpy(), rows.numpy().mean(axis=0), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(covariance.numpy(), np.cov(rows.numpy(), rowvar=False), rtol=1e-9, atol=1e-9)


def test_the_result_names_network_reference_and_counts_and_says_when_rank_is_missing() -> None:
    moments = [FeatureMoments.of(features(seed, 20, 16)) for seed in (1, 2)]
    result = fid(*moments, network="vgg16-pooled", reference_set="distinct source images")
    assert (result.name, result.reference_set) == ("fid@vgg16-pooled", "distinct source images")
    assert (result.num_reference, result.num_edited, result.num_features) == (20, 20, 16)
    assert not result.rank_deficient
    few = FeatureMoments.of(features(3, 16, 16))
    assert fid(moments[0], few, network="n", reference_set="r").rank_deficient


def test_the_floor_at_small_n_is_far_above_the_value_at_large_n() -> None:
    """Two samples of one distribution: the reason why FID on 52 images is marked."""
    draws = torch.randn((4, 2000, 64), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    assert value(draws[0, :20], draws[1, :20]) > 20 * value(draws[2], draws[3])


def test_refusals() -> None:
    one = FeatureMoments.of(torch.rand(1, 4))
    with pytest.raises(TooFewSamplesError, match="at least 2 images, got 1"):
        one.compute()
    with pytest.raises(MetricInputError, match="two networks"):
        fid(one, FeatureMoments.of(torch.rand(3, 5)), network="n", reference_set="r")
    with pytest.raises(MetricInputError, match=r"expected \(b, 4\)"):
        one.update(torch.rand(2, 5))
    with pytest.raises(MetricInputError, match="do not fit"):
        one.merge(FeatureMoments.empty(5))
    with pytest.raises(MetricInputError, match="not finite"):
        one.update(torch.full((1, 4), torch.inf))
