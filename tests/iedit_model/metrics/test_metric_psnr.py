"""PSNR against skimage and a NumPy selection of the masked pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

from iedit_model.metrics.psnr import PSNR_MAX_DB, mse_and_psnr, squared_errors
from iedit_model.metrics.registry import EditBatch


def scores(source: torch.Tensor, edited: torch.Tensor, masks: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    masks = torch.ones(len(source), *source.shape[2:]) if masks is None else masks
    return mse_and_psnr(EditBatch(source_images=source, edited_images=edited, masks=masks, clip={}))


def test_mse_and_psnr_are_skimages() -> None:
    generator = torch.Generator().manual_seed(0)
    source, edited = (torch.rand((4, 3, 16, 20), generator=generator).double() for _ in range(2))
    pairs = [(x.numpy(), y.numpy()) for x, y in zip(source, edited, strict=True)]
    assert scores(source, edited)["mse"].tolist() == pytest.approx(
        [mean_squared_error(x, y) for x, y in pairs], rel=1e-12
    )
    expected = [peak_signal_noise_ratio(x, y, data_range=1.0) for x, y in pairs]
    assert scores(source, edited)["psnr"].tolist() == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 2**16), cut=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_masked_errors_are_those_of_the_selected_pixels_in_any_batch(seed: int, cut: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    source, edited = (torch.rand((4, 3, 6, 7), generator=generator) for _ in range(2))
    masks = torch.rand((4, 6, 7), generator=generator) > 0.5
    masks[:, 0, 0], masks[:, 0, 1] = True, False
    parts = [squared_errors(source[p], edited[p], masks[p]) for p in (slice(None, cut), slice(cut, None))]
    for index in range(4):
        difference = (source[index].double() - edited[index].double()).numpy()
        for side, chosen in (("inside", masks[index].numpy()), ("outside", ~masks[index].numpy())):
            joined = torch.cat([part[f"mse_{side}"] for part in parts])
            assert joined[index].item() == pytest.approx(np.mean(difference[:, chosen] ** 2), rel=1e-12)


def test_soft_masks_weigh_and_the_area_divides() -> None:
    source, edited = torch.zeros(1, 3, 2, 2), torch.tensor([[0.0, 0.5], [1.0, 0.25]]).expand(1, 3, 2, 2)
    masks = torch.tensor([[[0.5, 1.0], [0.25, 0.0]]])
    _, inside, outside = (values.item() for values in squared_errors(source, edited, masks).values())
    assert inside == pytest.approx((1.0 * 0.25 + 0.25 * 1.0) / 1.75)
    assert outside == pytest.approx((0.75 * 1.0 + 1.0 * 0.0625) / 2.25)


def test_equal_images_reach_the_bound() -> None:
    images = torch.rand(2, 3, 12, 12)
    assert scores(images, images)["psnr"].tolist() == [PSNR_MAX_DB] * 2


def test_a_change_inside_leaves_the_outside_at_the_bound() -> None:
    source = torch.full((1, 3, 12, 12), 0.5)
    edited, mask = source.clone(), torch.zeros(1, 12, 12)
    mask[:, 3:6, 3:6] = 1
    edited[:, :, 3:6, 3:6] = 0.6
    values = scores(source, edited, mask)
    assert values["psnr_inside"].item() == pytest.approx(20.0, abs=1e-5)
    assert values["psnr_outside"].item() == PSNR_MAX_DB


def test_an_empty_side_has_no_value() -> None:
    images = torch.rand(2, 3, 12, 12)
    values = scores(images, 1 - images, torch.stack([torch.zeros(12, 12), torch.ones(12, 12)]))
    assert torch.isnan(values["psnr_inside"]).tolist() == [True, False]
    assert torch.isnan(values["psnr_outside"]).tolist() == [False, True]
