"""Where to edit: a mask that the request brings, or CLIPSeg's for the word to edit; in pixels, then in latent cells."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iedit_model.batching import map_batches
from iedit_model.editing.editor import EditRequest, Mask
from iedit_model.editing.framing import Frame, FramingConfig, frame, mask_from_canvas, mask_to_canvas, to_canvas
from iedit_model.editing.settings import MaskConfig
from iedit_model.errors import EditError, MaskError
from iedit_model.masks import dilate, to_latent_mask
from iedit_model.models.segmenter import PromptedImage, Segmenter

_SEGMENTED_PX = 1024
"""Longest side at which a word is looked for: segmenters see less than half of it."""


def pixel_masks(requests: Sequence[EditRequest], config: MaskConfig, segmenter: Segmenter | None) -> list[Mask | None]:
    """Return a mask in the image's size for each request; None is everywhere.

    Raises:
        EditError: a request lacks the mask or the word that the configuration asks for.
        MaskError: a word is nowhere in its image, or a mask is 0 all over, and ``on_empty`` is "error".
    """
    masks: list[Mask | None] = [None] * len(requests)
    wanted: list[int] = []
    for index, request in enumerate(requests):
        if config.source == "none":
            continue
        if config.source != "word" and request.mask is not None:
            masks[index] = _not_empty(request.mask_array, config, "the mask of the request")
        elif config.source == "request":
            raise EditError("this method edits inside a mask, and the request brings none")
        else:
            wanted.append(index)
    for index, mask in zip(wanted, _found([requests[index] for index in wanted], config, segmenter), strict=True):
        masks[index] = _not_empty(mask, config, f"the mask of the word {requests[index].word!r}")
    return masks


def latent_masks(
    masks: Sequence[Mask | None], frames: Sequence[Frame], config: MaskConfig, *, cell_px: int
) -> Float[Tensor, "b 1 h w"]:
    """Return latent masks of images of one canvas size, grown as configured.

    Args:
        masks: in the images' sizes; None is everywhere.
        frames: where the images lie in their canvases.
        config: mode and growth.
        cell_px: side of one latent cell.
    """
    wide, high = frames[0].canvas_size
    canvases = [
        np.ones((high, wide), np.float32) if mask is None else mask_to_canvas(mask, place)
        for mask, place in zip(masks, frames, strict=True)
    ]
    pixels = torch.from_numpy(np.stack(canvases))[:, None]
    cells = to_latent_mask(pixels, size=(high // cell_px, wide // cell_px), mode=config.latent_mode)
    return dilate(cells, config.dilate_cells)


def shown_mask(latent_mask: Float[Tensor, "1 h w"], *, cell_px: int) -> Mask:
    """Return a latent mask in canvas pixels: what the sampling was really allowed to change."""
    return latent_mask[0].repeat_interleave(cell_px, 0).repeat_interleave(cell_px, 1).cpu().numpy().astype(np.float32)


def _found(requests: Sequence[EditRequest], config: MaskConfig, segmenter: Segmenter | None) -> list[Mask]:
    if not requests:
        return []
    if segmenter is None:
        raise EditError("an automatic mask needs a segmenter, and none is configured")
    # The segmenter would squash the image to a square; in a square canvas its objects keep their shape.
    frames = [_square(request.image.size) for request in requests]
    prompted = []
    for request, place in zip(requests, frames, strict=True):
        if not request.word or not request.word.strip():
            raise EditError("an automatic mask needs the word to edit, like 'bus'; give it, a mask, or no mask at all")
        prepared = segmenter.prepare(to_canvas(request.image, place))
        size = (place.canvas_size[1], place.canvas_size[0])
        prompted.append(PromptedImage(prepared=prepared, size_px=size, prompts=(request.word,)))
    maps = map_batches(segmenter.segment, prompted, batch_size=min(config.batch_size, len(prompted)))
    return [
        mask_from_canvas((found[0] >= config.threshold).astype(np.float32), place)
        for (_, found), place in zip(maps, frames, strict=True)
    ]


def _square(size: tuple[int, int]) -> Frame:
    side = min(max(size), _SEGMENTED_PX)
    return frame(size, FramingConfig(max_aspect=1), native_px=side, multiple_px=1)


def _not_empty(mask: Mask | None, config: MaskConfig, name: str) -> Mask | None:
    if mask is not None and not mask.any():
        if config.on_empty == "error":
            raise MaskError(
                f"{name} is empty: nothing in the image is it with a probability of {config.threshold} or more; try "
                "another word, a lower threshold, a mask of your own or none"
            )
        return None
    return mask
