"""Mask geometry against plain loops, and the fills and crops that Eq. 10 and 11 leave open."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iedit_model.errors import MaskError
from iedit_model.masks import any_empty, crop_and_resize, dilate, fill_outside, mask_boxes, mask_regions, to_latent_mask
from iedit_model.training.config import LatentMaskMode, MaskFill
from tests.references import mask_geometry as reference

MODES: tuple[LatentMaskMode, ...] = ("area", "nearest", "max", "soft")
FILLS: tuple[MaskFill, ...] = ("grey", "black", "clip_mean", "blur")


def random_mask(
    seed: int, height: int, width: int, *, batch: int = 2, soft: bool = False, share: float = 0.4
) -> Tensor:
    mask = torch.rand((batch, 1, height, width), generator=torch.Generator().manual_seed(seed))
    return mask if soft else (mask < share).float()


def rectangle(height: int, width: int, *, top: int, left: int, bottom: int, right: int) -> Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., top:bottom, left:right] = 1
    return mask


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(MODES),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(2, 4),
    st.floats(0.1, 0.9),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_a_latent_mask_is_the_cell_by_cell_one(mode, height, width, cell, threshold, soft, seed):
    mask = random_mask(seed, height * cell, width * cell, soft=soft)
    ours = to_latent_mask(mask, size=(height, width), mode=mode, threshold=threshold)
    for i in range(2):
        expected = reference.latent_mask(mask[i, 0].double().numpy(), cell, mode, threshold)
        assert np.abs(ours[i, 0].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_full_and_empty_masks_stay_full_and_empty(mode):
    full = torch.ones(1, 1, 16, 16)
    assert torch.equal(to_latent_mask(full, size=(4, 4), mode=mode), torch.ones(1, 1, 4, 4))
    assert torch.equal(to_latent_mask(0 * full, size=(4, 4), mode=mode), torch.zeros(1, 1, 4, 4))


def test_a_cell_exactly_at_the_threshold_is_inside():
    half = rectangle(4, 4, top=0, left=0, bottom=2, right=4)
    assert to_latent_mask(half, size=(1, 1)).item() == 1.0
    assert to_latent_mask(half, size=(1, 1), threshold=0.51).item() == 0.0


def test_a_thin_line_survives_max_alone():
    line = rectangle(16, 16, top=5, left=0, bottom=6, right=16)
    kept = {mode: float(to_latent_mask(line, size=(4, 4), mode=mode).sum()) for mode in MODES}
    assert kept == {"area": 0.0, "nearest": 0.0, "max": 4.0, "soft": 1.0}


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.integers(0, 10_000))
def test_dilation_takes_the_largest_neighbour(height, width, radius, seed):
    mask = random_mask(seed, height, width, soft=True)
    ours = dilate(mask, radius)
    for i in range(2):
        assert np.array_equal(ours[i, 0].double().numpy(), reference.dilated(mask[i, 0].double().numpy(), radius))


def test_a_negative_dilation_is_refused():
    with pytest.raises(MaskError, match="-1"):
        dilate(torch.ones(1, 1, 2, 2), -1)


def test_the_grey_fill_is_the_literal_product_and_black_the_product_in_zero_to_one():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = random_mask(1, 8, 8, soft=True)
    assert torch.equal(fill_outside(images, mask, fill="grey"), images * mask)
    black = fill_outside(images, mask, fill="black")
    assert torch.allclose((black + 1) / 2, (images + 1) / 2 * mask, atol=1e-6)


def test_the_clip_mean_fill_becomes_zero_after_clips_normalisation():
    mean = (0.2, 0.5, 0.9)
    filled = fill_outside(torch.ones(1, 3, 2, 2), torch.zeros(1, 1, 2, 2), fill="clip_mean", clip_mean=mean)
    assert torch.allclose((filled + 1) / 2 - torch.tensor(mean).view(1, 3, 1, 1), torch.zeros(1, 3, 2, 2), atol=1e-6)


@pytest.mark.parametrize("fill", FILLS)
def test_a_fill_keeps_the_inside_and_sends_no_gradient_outside(fill):
    images = (torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(2)) * 2 - 1).requires_grad_()
    mask = rectangle(12, 12, top=2, left=3, bottom=7, right=9)
    filled = fill_outside(images, mask, fill=fill)
    assert torch.equal(filled * mask, images * mask)
    filled.square().sum().backward()
    assert images.grad is not None
    assert (images.grad * (1 - mask)).abs().max() == 0
    assert torch.equal(images.grad * mask, (2 * images * mask).detach())


def test_a_blurred_surrounding_keeps_the_mean_colour_and_loses_the_edges():
    rows = torch.linspace(-1, 1, 12).view(1, 1, 12, 1).expand(1, 3, 12, 12)
    stripes = (torch.arange(12) % 2 * 2.0 - 1).view(1, 1, 1, 12).expand(1, 3, 12, 12)
    empty = torch.zeros(1, 1, 12, 12)
    blurred = fill_outside(stripes, empty, fill="blur")
    assert blurred[..., 3:-3, 3:-3].abs().max() < 0.1
    slope = fill_outside(rows, empty, fill="blur")[0, 0, :, 5]
    assert (slope.diff() > 0).all()


def test_blur_works_on_images_smaller_than_its_kernel():
    tiny = torch.rand(1, 3, 2, 9, generator=torch.Generator().manual_seed(3))
    assert fill_outside(tiny, torch.zeros(1, 1, 2, 9), fill="blur").isfinite().all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.floats(0, 0.6), st.integers(0, 10_000))
def test_a_box_is_a_square_inside_the_image_that_holds_the_mask(height, width, margin, share, seed):
    mask = random_mask(seed, height, width, share=share)
    for i, box in enumerate(mask_boxes(mask, margin=margin).tolist()):
        top, left, bottom, right = box
        first_row, first_column, last_row, last_column = reference.extent(mask[i, 0].numpy())
        longer = max(last_row - first_row, last_column - first_column)
        assert bottom - top == right - left == min(int(np.ceil(np.float32(longer * (1 + 2 * margin)))), height, width)
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
        if last_row - first_row <= bottom - top:
            assert top <= first_row
            assert last_row <= bottom
        if last_column - first_column <= right - left:
            assert left <= first_column
            assert last_column <= right


def test_a_box_in_the_corner_is_moved_inside_and_an_empty_mask_gives_the_middle():
    corner = rectangle(10, 20, top=0, left=18, bottom=2, right=20)
    assert mask_boxes(corner, margin=0.5).tolist() == [[0, 16, 4, 20]]
    assert mask_boxes(torch.zeros(1, 1, 10, 20)).tolist() == [[0, 5, 10, 15]]


def test_a_crop_of_the_target_size_is_the_slice_itself_and_carries_gradients():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(4)).requires_grad_()
    boxes = torch.tensor([[0, 0, 4, 4], [3, 2, 7, 6]])
    crops = crop_and_resize(images, boxes, size_px=4)
    assert torch.allclose(crops, torch.stack([images[0, :, 0:4, 0:4], images[1, :, 3:7, 2:6]]), atol=1e-6)
    crops.sum().backward()
    assert images.grad is not None
    assert images.grad[1, 0, 3:7, 2:6].eq(1).all()
    assert images.grad.sum() == pytest.approx(2 * 3 * 16)


def test_a_crop_is_scaled_without_aliasing():
    checker = ((torch.arange(16).view(-1, 1) + torch.arange(16)) % 2).float().expand(1, 3, 16, 16)
    small = crop_and_resize(checker, torch.tensor([[0, 0, 16, 16]]), size_px=4)
    assert (small - 0.5).abs().max() < 0.06


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_the_four_regions_are_counted_right(seed, first_share, second_share):
    source_mask = random_mask(seed, 4, 5, share=first_share)
    target_mask = random_mask(seed + 1, 4, 5, share=second_share)
    ours = mask_regions(source_mask, target_mask)
    for i in range(2):
        expected = reference.shares(source_mask[i, 0].numpy(), target_mask[i, 0].numpy())
        found = {name: float(getattr(ours, name)[i]) for name in expected}
        assert found == pytest.approx(expected, abs=1e-6)
        union = 1 - expected["background"]
        assert float(ours.iou[i]) == pytest.approx(expected["shared"] / union if union else 1.0, abs=1e-6)


def test_a_sample_with_one_empty_mask_is_found():
    full, some = torch.ones(3, 1, 4, 4), torch.ones(3, 1, 8, 8)
    some[1] = 0
    assert any_empty([full, some]).tolist() == [False, True, False]
    with pytest.raises(MaskError):
        any_empty([])
