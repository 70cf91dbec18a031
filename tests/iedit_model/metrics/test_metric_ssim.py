"""SSIM against skimage, torchmetrics and a pixel-by-pixel twin; what the three masked definitions do and do not see."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from iedit_model.metrics.errors import MetricInputError
from iedit_model.metrics.ssim import ssim, ssim_map, ssim_map_mean, ssim_normconv, ssim_zero_fill
from tests.references import metric_ssim as reference

MASKED = (ssim_zero_fill, ssim_map_mean, ssim_normconv)


def images(seed: int, *, count: int = 3, height: int = 40, width: int = 36) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source = torch.rand((count, 3, height, width), generator=generator)
    edited = (source + 0.3 * torch.randn(source.shape, generator=generator)).clamp(0, 1)
    return source, edited


def soft_masks(seed: int, shape: tuple[int, int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) > 0.5)


def centred_square(side: int, size: int = 64) -> Tensor:
    mask = torch.zeros(1, size, size)
    start = (size - side) // 2
    mask[:, start : start + side, start : start + side] = 1
    return mask


def skimage_ssim(source: Tensor, edited: Tensor, *, full: bool = False) -> np.ndarray:
    result = [
        structural_similarity(
            x.double().numpy(),
            y.double().numpy(),
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            full=full,
        )
        for x, y in zip(source, edited, strict=True)
    ]
    return np.array([pair[1].mean(axis=0) for pair in result]) if full else np.array(result)


@pytest.mark.parametrize("seed", range(3))
def test_ssim_is_skimages_with_wangs_parameters(seed: int) -> None:
    source, edited = images(seed)
    np.testing.assert_allclose(ssim(source, edited).numpy(), skimage_ssim(source, edited), rtol=0, atol=1e-12)


def test_the_map_is_torchmetrics_map_and_inside_of_the_border_skimages() -> None:
    source, edited = (batch.double() for batch in images(3))
    _, theirs = structural_similarity_index_measure(
        edited, source, data_range=1.0, reduction="none", return_full_image=True
    )
    ours = ssim_map(source, edited)
    torch.testing.assert_close(ours, theirs.mean(dim=1), rtol=0, atol=1e-12)
    inner = (slice(None), slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(ours.numpy()[inner], skimage_ssim(source, edited, full=True)[inner], rtol=0, atol=1e-12)


def test_zero_fill_is_skimage_on_the_blackened_images() -> None:
    source, edited = images(4)
    masks = soft_masks(5, (3, 40, 36))
    values = ssim_zero_fill(source, edited, masks)
    for side, weight in (("inside", masks[:, None]), ("outside", 1 - masks[:, None])):
        expected = skimage_ssim(source.double() * weight.double(), edited.double() * weight.double())
        # the weights 1 - M are rounded in fp32 here and in fp64 there
        np.testing.assert_allclose(values[f"ssim_zero_fill_{side}"].numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("ours", "twin"), [(ssim_map_mean, reference.map_mean), (ssim_normconv, reference.normconv)])
def test_map_mean_and_normconv_are_their_slow_twins(ours, twin) -> None:
    source, edited = (batch.double() for batch in images(6, count=1, height=13, width=12))
    masks = soft_masks(7, (1, 13, 12)).double()
    inside, outside = ours(source, edited, masks).values()
    x, y, m = source[0].numpy(), edited[0].numpy(), masks[0].numpy()
    assert inside.item() == pytest.approx(twin(x, y, m), abs=1e-11)
    assert outside.item() == pytest.approx(twin(x, y, 1 - m), abs=1e-11)


@pytest.mark.parametrize("side_px", [16, 32, 48])
def test_zero_fill_measures_the_area_and_the_other_two_do_not(side_px: int) -> None:
    """The object is replaced wholly, the background is perfect: 1 - a (1 - s) is all that zero-fill sees."""
    source, other = images(8, count=1, height=64, width=64)[0], images(9, count=1, height=64, width=64)[0]
    mask = centred_square(side_px)
    edited = torch.where(mask[:, None] > 0, other, source)
    # of the 54 x 54 windows that lie inside of the frame
    area = mask[:, 5:-5, 5:-5].mean().item()
    inside = ssim_normconv(source, edited, mask)["ssim_normconv_inside"].item()
    zero_fill = ssim_zero_fill(source, edited, mask)["ssim_zero_fill_inside"].item()
    assert inside == pytest.approx(0.0, abs=0.12)
    # windows on the rim see some black and some of the object
    assert zero_fill == pytest.approx(1 - area * (1 - inside), abs=0.1)
    # windows on the rim see some of the perfect background
    assert ssim_map_mean(source, edited, mask)["ssim_map_mean_inside"].item() == pytest.approx(0.0, abs=0.2)


def test_only_zero_fill_rises_when_the_same_edit_lies_in_a_larger_frame() -> None:
    source, edited = images(10, count=1, height=32, width=32)
    framed = tuple(torch.nn.functional.pad(batch, (16,) * 4, value=0.5) for batch in (source, edited))
    small, large = torch.ones(1, 32, 32), centred_square(32)
    ours = [ssim_normconv(source, edited, small), ssim_normconv(framed[0], framed[1], large)]
    assert ours[0]["ssim_normconv_inside"].item() == pytest.approx(ours[1]["ssim_normconv_inside"].item(), abs=1e-12)
    filled = [ssim_zero_fill(source, edited, small), ssim_zero_fill(framed[0], framed[1], large)]
    assert filled[1]["ssim_zero_fill_inside"] > filled[0]["ssim_zero_fill_inside"] + 0.15


def test_a_perfect_background_is_perfect_for_normconv_and_leaks_for_the_map_mean() -> None:
    source, other = images(11, count=1, height=64, width=64)[0], images(12, count=1, height=64, width=64)[0]
    mask = centred_square(32)
    edited = torch.where(mask[:, None] > 0, other, source)
    assert ssim_normconv(source, edited, mask)["ssim_normconv_outside"].item() == pytest.approx(1.0, abs=1e-12)
    assert ssim_map_mean(source, edited, mask)["ssim_map_mean_outside"].item() < 0.98


@given(seed=st.integers(0, 2**16), noise_seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_pixels_without_weight_cannot_change_normconv(seed: int, noise_seed: int) -> None:
    source, edited = images(seed, count=1, height=16, width=16)
    masks = (soft_masks(seed, (1, 16, 16)) > 0).float()
    generator = torch.Generator().manual_seed(noise_seed)
    changed = torch.where(masks[:, None] > 0, edited, torch.rand(edited.shape, generator=generator))
    before, after = (ssim_normconv(source, batch, masks)["ssim_normconv_inside"] for batch in (edited, changed))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12, equal_nan=True)


@given(seed=st.integers(0, 2**16), cut=st.integers(1, 4))
@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize("metric", MASKED)
def test_the_batch_does_not_matter(metric, seed: int, cut: int) -> None:
    source, edited = images(seed, count=5, height=16, width=16)
    masks = soft_masks(seed, (5, 16, 16))
    masks[2] = 0
    whole = metric(source, edited, masks)
    parts = [metric(source[part], edited[part], masks[part]) for part in (slice(None, cut), slice(cut, None))]
    for name, values in whole.items():
        joined = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(values, joined, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("metric", MASKED)
def test_identical_images_score_one_everywhere(metric) -> None:
    source, _ = images(13, count=2)
    for values in metric(source, source, soft_masks(14, (2, 40, 36))).values():
        np.testing.assert_allclose(values.numpy(), 1.0, rtol=0, atol=1e-9)


def test_constant_images_score_their_luminance_term() -> None:
    source, edited = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(source, edited).item() == pytest.approx(expected, abs=1e-7)
    values = ssim_normconv(source, edited, soft_masks(15, (1, 16, 16)))
    assert [value.item() for value in values.values()] == pytest.approx([expected] * 2, abs=1e-7)


@pytest.mark.parametrize("metric", MASKED)
def test_an_empty_side_has_no_value_and_its_neighbour_keeps_its_own(metric) -> None:
    source, edited = images(16, count=3)
    masks = torch.stack([torch.zeros(40, 36), torch.ones(40, 36), soft_masks(17, (1, 40, 36))[0]])
    inside, outside = metric(source, edited, masks).values()
    assert torch.isnan(inside).tolist() == [True, False, False]
    assert torch.isnan(outside).tolist() == [False, True, False]
    assert outside[0].item() == pytest.approx(inside_of_everything(metric, source[:1], edited[:1]), abs=1e-12)


def inside_of_everything(metric, source: Tensor, edited: Tensor) -> float:
    return next(iter(metric(source, edited, torch.ones(1, 40, 36)).values())).item()


def test_a_full_mask_gives_zero_fill_the_plain_ssim() -> None:
    source, edited = images(18)
    full = torch.ones(3, 1, 40, 36, dtype=torch.bool)
    torch.testing.assert_close(ssim_zero_fill(source, edited, full)["ssim_zero_fill_inside"], ssim(source, edited))


def test_names_carry_the_definition() -> None:
    source, edited = images(19, count=1)
    names = [name for metric in MASKED for name in metric(source, edited, torch.ones(1, 40, 36))]
    assert names == [
        f"ssim_{kind}_{side}" for kind in ("zero_fill", "map_mean", "normconv") for side in ("inside", "outside")
    ]


@pytest.mark.parametrize(
    ("source", "edited", "said"),
    [
        (torch.rand(1, 3, 10, 20), torch.rand(1, 3, 10, 20), "11 pixels"),
        (torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 17), "differ in shape"),
        (torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16), r"expected \(b, 3, h, w\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.rand(1, 3, 16, 16), "divide 8-bit images by 255"),
        (torch.full((1, 3, 16, 16), -1.0), torch.rand(1, 3, 16, 16), r"expected \[0, 1\]"),
        (torch.full((1, 3, 16, 16), math.nan), torch.rand(1, 3, 16, 16), r"expected \[0, 1\]"),
    ],
)
def test_what_is_no_image_pair_is_refused(source: Tensor, edited: Tensor, said: str) -> None:
    with pytest.raises(MetricInputError, match=said):
        ssim(source, edited)


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (torch.ones(2, 16, 16), r"expected \(1, 1, 16, 16\)"),
        (torch.ones(1, 3, 16, 16), r"expected \(1, 1, 16, 16\)"),
        (torch.full((1, 16, 16), 255.0), r"expected \[0, 1\]"),
        (torch.ones(1, 16, 16, dtype=torch.int64), "expected bool or floats"),
    ],
)
def test_what_is_no_mask_is_refused(masks: Tensor, said: str) -> None:
    with pytest.raises(MetricInputError, match=said):
        ssim_zero_fill(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), masks)
