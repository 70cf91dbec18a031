"""What diffusers' users hand to a pipeline as images and masks, as PIL images and masks of ours."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Union

import numpy as np
import torch

from iedit_model.editing.editor import Mask
from iedit_model.errors import EditError, MaskError
from iedit_model.imaging.decode import to_rgb
from iedit_model.imaging.mask_files import checked_levels, mask_levels

if TYPE_CHECKING:
    from PIL.Image import Image

Images = Union["Image", np.ndarray, torch.Tensor, Sequence[Any]]
"""One image or several: PIL, arrays with channels last, tensors with channels first."""
Masks = Images
"""As ``Images`` with one channel, which may be left out."""

Item = TypeVar("Item")


def images_of(given: Images) -> "list[Image]":
    """Return RGB images.

    Raises:
        EditError: not an image in any of the forms, or none at all.
    """
    from PIL import Image

    images = [
        to_rgb(one) if isinstance(one, Image.Image) else Image.fromarray(_levels(one)) for one in _split(given, 3)
    ]
    if not images:
        raise EditError("there is no image to edit")
    return images


def masks_of(given: Masks | None, sizes: Sequence[tuple[int, int]]) -> list[Mask | None]:
    """Return a mask in each image's size (width, height), one for all or one an image; None without any.

    Raises:
        EditError: as many masks as neither one nor the images.
        MaskError: an array of another size than its image. A PIL mask is scaled instead.
    """
    if given is None:
        return [None] * len(sizes)
    masks = broadcast(_split(given, 1), len(sizes), "masks")
    return [_mask(one, size) for one, size in zip(masks, sizes, strict=True)]


def broadcast(given: Sequence[Item], count: int, name: str) -> list[Item]:
    """Return ``count`` items: those given, or the only one again and again.

    Raises:
        EditError: neither one nor ``count`` are given.
    """
    if len(given) not in (1, count):
        raise EditError(f"there are {len(given)} {name} where 1 or {count} are expected")
    return list(given) * (count if len(given) == 1 else 1)


def _split(given: Any, channels: int) -> list[Any]:
    """Return single PIL images, or arrays (h, w, channels)."""
    from PIL import Image

    if isinstance(given, Image.Image):
        return [given]
    if isinstance(given, list | tuple):
        return [single for one in given for single in _split(one, channels)]
    if isinstance(given, torch.Tensor):
        array = given.detach().float().cpu().numpy() if given.is_floating_point() else given.cpu().numpy()
        if array.ndim > 2:
            array = np.moveaxis(array, -3, -1)
    elif isinstance(given, np.ndarray):
        array = given
    else:
        raise EditError(f"an image is a PIL image, an array or a tensor, got {type(given).__name__}")
    if channels == 1 and array.shape[-1:] != (1,):
        array = array[..., None]
    if array.ndim not in (3, 4) or array.shape[-1] != channels:
        raise EditError(f"an image of {channels} channels was expected, got an array or tensor of shape {given.shape}")
    return list(array) if array.ndim == 4 else [array]


def _levels(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if not (array.min() >= 0 and array.max() <= 1):  # also when there is a NaN
        raise EditError(f"an image spans {array.min()} to {array.max()}, expected [0, 1], or uint8")
    return np.rint(array * 255).astype(np.uint8)


def _mask(one: Any, size: tuple[int, int]) -> Mask:
    from PIL import Image

    if isinstance(one, Image.Image):
        grey = Image.fromarray(checked_levels(mask_levels(one)))
        scaled = grey if grey.size == size else grey.resize(size, Image.Resampling.NEAREST)
        return np.asarray(scaled, np.float32) / np.float32(255)
    is_levels = one.dtype == np.uint8
    mask = np.asarray(checked_levels(one[..., 0]) if is_levels else one[..., 0], np.float32)
    mask = mask / np.float32(255) if is_levels else mask
    if mask.shape != size[::-1]:
        raise MaskError(f"the mask has the shape {mask.shape}, expected the image's (height, width) {size[::-1]}")
    return mask
