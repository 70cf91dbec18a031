"""Masks of the paper's Section 3.4: pixel masks to latent ones, what stands outside them, and how two of them overlap.

A mask is a float in [0, 1], 1 = edit here. M_1 is ``source_mask``, M_2 ``target_mask``. Axis names: b = batch, c =
channels, h w = height and width of the masks or images at hand, H W = those of pixel masks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from iedit_model.errors import MaskError
from iedit_model.training.config import LatentMaskMode, MaskFill

INSIDE = 0.5
"""A cell or pixel of a soft mask counts as inside from here on, where a yes or no is needed."""
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_BLUR_SHARE = 1 / 12


def to_latent_mask(
    mask: Float[Tensor, "b 1 H W"], *, size: tuple[int, int], mode: LatentMaskMode = "area", threshold: float = 0.5
) -> Float[Tensor, "b 1 h w"]:
    """Bring a pixel mask to latent size (height, width).

    Args:
        mask: values in [0, 1].
        size: the latents' height and width.
        mode: area takes the mean of each cell, max its largest value (keeps thin parts), nearest its first pixel (as
            diffusers' in-painting does); soft is the mean without the threshold.
        threshold: a cell at or above it becomes 1, any other 0.
    """
    if mode == "nearest":
        cells = functional.interpolate(mask, size=size, mode="nearest")
    elif mode == "max":
        cells = functional.adaptive_max_pool2d(mask, size)
    else:
        cells = functional.adaptive_avg_pool2d(mask, size)
    return cells if mode == "soft" else (cells >= threshold).to(mask.dtype)


def dilate(mask: Float[Tensor, "b 1 h w"], radius: int) -> Float[Tensor, "b 1 h w"]:
    """Grow a mask by ``radius`` cells in every direction, diagonals included; 0 returns it unchanged.

    Raises:
        MaskError: the radius is negative.
    """
    if radius < 0:
        raise MaskError(f"a mask cannot grow by {radius} cells; expected 0 or more")
    return functional.max_pool2d(mask, 2 * radius + 1, stride=1, padding=radius) if radius else mask


def fill_outside(
    images: Float[Tensor, "b c h w"],
    mask: Float[Tensor, "b 1 h w"],
    *,
    fill: MaskFill = "grey",
    clip_mean: Sequence[float] = _CLIP_MEAN,
) -> Float[Tensor, "b c h w"]:
    """Return M * x + (1 - M) * fill for images in [-1, 1]: the product of Eq. 10 and 11.

    Args:
        images: values in [-1, 1].
        mask: what stays.
        fill: grey is 0, the literal product in this range; black is -1, the product of images in [0, 1]; clip_mean is
            the colour that CLIP's normalisation turns into 0; blur is the image itself, blurred, without a gradient, so
            that nothing outside the mask is trained.
        clip_mean: CLIP's channel means of images in [0, 1].
    """
    if fill == "grey":
        return images * mask
    if fill == "black":
        outside = images.new_full((1, 1, 1, 1), -1.0)
    elif fill == "clip_mean":
        outside = images.new_tensor(clip_mean).view(1, -1, 1, 1) * 2 - 1
    else:
        outside = _blurred(images.detach())
    return images * mask + outside * (1 - mask)


def _blurred(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    from torchvision.transforms.functional import gaussian_blur

    sigma = max(images.shape[-2:]) * _BLUR_SHARE
    # Reflection needs a kernel that reaches less far than the image.
    reach = min(round(2 * sigma), min(images.shape[-2:]) - 1)
    return gaussian_blur(images, [2 * reach + 1, 2 * reach + 1], [sigma, sigma])


def mask_boxes(mask: Float[Tensor, "b 1 h w"], *, margin: float = 0.25) -> Int[Tensor, "b 4"]:
    """Return the smallest squares around the masks, grown by ``margin`` of their side on each side.

    Squares, because CLIP's preprocessing cuts anything else. One that would leave the image is moved inside; one that
    is larger than the image's shorter side gets that side. An empty mask gives the centred square of that side.

    Returns:
        top, left, bottom, right; bottom and right exclusive.
    """
    inside = mask[:, 0] >= INSIDE
    height, width = inside.shape[-2:]
    top, bottom = _extent(inside.any(dim=2))
    left, right = _extent(inside.any(dim=1))
    longer = torch.maximum(bottom - top, right - left)
    side = (longer * (1 + 2 * margin)).ceil().long().clamp(max=min(height, width))
    top = ((top + bottom - side) // 2).clamp(min=0).minimum(height - side)
    left = ((left + right - side) // 2).clamp(min=0).minimum(width - side)
    return torch.stack([top, left, top + side, left + side], dim=1)


def _extent(inside: Bool[Tensor, "b n"]) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
    """Return the first and one past the last true place of each row, the whole row where none is true."""
    flags = inside.int()
    first = flags.argmax(dim=1)
    last = inside.shape[1] - flags.flip(1).argmax(dim=1)
    return first, last


def crop_and_resize(
    images: Float[Tensor, "b c h w"], boxes: Int[Tensor, "b 4"], *, size_px: int
) -> Float[Tensor, "b c s s"]:
    """Cut one box out of each image and bring it to ``size_px`` x ``size_px``, antialiased and differentiable."""
    crops = [
        functional.interpolate(
            image[None, :, top:bottom, left:right], size=(size_px, size_px), mode="bilinear", antialias=True
        )
        for image, (top, left, bottom, right) in zip(images, boxes.tolist(), strict=True)
    ]
    return torch.cat(crops)


class MaskRegions(NamedTuple):
    """How M_1 and M_2 divide the frame, as shares of it per sample; the first four sum to one."""

    overlap: Float[Tensor, " b"]
    """M_2 and not M_1: the literal Eq. 9 asks for both noises here."""
    gap: Float[Tensor, " b"]
    """M_1 and not M_2: the literal Eq. 9 asks for nothing here."""
    shared: Float[Tensor, " b"]
    """M_1 and M_2: the target's noise alone."""
    background: Float[Tensor, " b"]
    """Neither: the source's noise alone."""
    iou: Float[Tensor, " b"]
    """Intersection over union; 1 where both masks are empty."""


def mask_regions(source_mask: Float[Tensor, "b 1 h w"], target_mask: Float[Tensor, "b 1 h w"]) -> MaskRegions:
    """Measure the four regions that two masks make; a low ``iou`` marks a badly aligned pair."""
    source, target = source_mask >= INSIDE, target_mask >= INSIDE

    def share(region: Bool[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
        return region.float().mean(dim=(1, 2, 3))

    shared, union = share(source & target), share(source | target)
    iou = torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), torch.ones_like(union))
    return MaskRegions(share(target & ~source), share(source & ~target), shared, 1 - union, iou)


def any_empty(masks: Sequence[Float[Tensor, "b 1 _ _"]]) -> Bool[Tensor, " b"]:
    """Tell which samples have at least one mask without any weight.

    Raises:
        MaskError: no mask was given.
    """
    if not masks:
        raise MaskError("no mask was given to look at")
    return torch.stack([mask.flatten(1).amax(dim=1) <= 0 for mask in masks]).any(dim=0)
