"""From requests to results: canvases, batches of one canvas size, and the way back to the sources' sizes."""

import dataclasses
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iedit_model.batching import map_batches
from iedit_model.editing.edit_masks import shown_mask
from iedit_model.editing.editor import EditRequest, EditResult, Mask
from iedit_model.editing.framing import Frame, FramingConfig, frame, from_canvas, mask_from_canvas, to_canvas
from iedit_model.errors import OverflowedError

if TYPE_CHECKING:
    from PIL.Image import Image

EDITING_VERSION = 2
"""Part of every editor's fingerprint; raised by hand when the same weights and settings come to give other results."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CanvasBatch:
    """Requests whose canvases have one size."""

    indices: tuple[int, ...]
    """Which requests of all they are; a batch that was filled up holds its last one again."""
    requests: tuple[EditRequest, ...]
    frames: tuple[Frame, ...]
    masks: tuple[Mask | None, ...]
    """(height, width) of each source; None edits everywhere."""

    def pixel_values(self) -> Float[Tensor, "b 3 H W"]:
        """Return the canvases in [-1, 1]."""
        canvases = [
            np.asarray(to_canvas(request.image, place))
            for request, place in zip(self.requests, self.frames, strict=True)
        ]
        return torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class EditedBatch:
    """What a method made of a batch of canvases."""

    pixel_values: Float[Tensor, "b 3 H W"]
    """Around [-1, 1]."""
    latent_mask: Float[Tensor, "b 1 h w"] | None = None
    """Where the method could change each canvas; None is everywhere."""


def edit_in_batches(
    requests: Sequence[EditRequest],
    function: Callable[[CanvasBatch], EditedBatch],
    *,
    framing: FramingConfig,
    native_px: int,
    cell_px: int,
    batch_size: int,
    num_unet_evaluations: int,
    masks: Sequence[Mask | None] | None = None,
    mask_seconds: float = 0.0,
    paste_back: bool = False,
) -> list[EditResult]:
    """Return the results of all requests in order, computed in batches whose canvases have one size.

    Args:
        requests: what is asked for.
        function: edits one batch.
        framing: area and longest shape of the canvases.
        native_px: side of the model's own squares.
        cell_px: side of a latent cell; both sides of a canvas are multiples of it.
        batch_size: most requests per batch; a batch that does not fit into memory is halved.
        num_unet_evaluations: for one result.
        masks: one per request, in its image's size; None edits everywhere.
        mask_seconds: time that each mask took.
        paste_back: put the source's own pixels back wherever the mask is 0, in parts where it is between.

    Raises:
        EditError: an image is too narrow to be edited.
        MemoryLimitError: not even one request fits into memory.
    """
    masks = [None] * len(requests) if masks is None else masks
    frames = [frame(one.image.size, framing, native_px=native_px, multiple_px=cell_px) for one in requests]

    def timed(indices: Sequence[int]) -> "list[tuple[Image, Mask | None, float]]":
        began = time.perf_counter()
        edited = function(
            CanvasBatch(
                indices=tuple(indices),
                requests=tuple(requests[index] for index in indices),
                frames=tuple(frames[index] for index in indices),
                masks=tuple(masks[index] for index in indices),
            )
        )
        canvases = to_images(edited.pixel_values)
        cells = [None] * len(indices) if edited.latent_mask is None else edited.latent_mask
        shown = [None if one is None else shown_mask(one, cell_px=cell_px) for one in cells]
        seconds = (time.perf_counter() - began) / len(indices) + mask_seconds
        return [(canvas, mask, seconds) for canvas, mask in zip(canvases, shown, strict=True)]

    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, one in enumerate(frames):
        by_size[one.canvas_size].append(index)
    results: dict[int, EditResult] = {}
    for group in by_size.values():
        for index, (canvas, shown, seconds) in map_batches(timed, group, batch_size=min(batch_size, len(group))):
            image = from_canvas(canvas, frames[index])
            mask = None if shown is None else mask_from_canvas(shown, frames[index])
            if paste_back and mask is not None:
                image = _pasted(image, requests[index].image, mask)
            results[index] = EditResult(
                image=image, mask=mask, seconds=seconds, num_unet_evaluations=num_unet_evaluations
            )
    return [results[index] for index in range(len(requests))]


def to_images(pixel_values: Float[Tensor, "b 3 H W"]) -> "list[Image]":
    """Return images in [-1, 1] as RGB PIL images, clamped and rounded.

    Raises:
        OverflowedError: a pixel is NaN or infinite.
    """
    from PIL import Image

    if not torch.isfinite(pixel_values).all():
        raise OverflowedError("the pixels of the result", pixel_values.dtype)
    levels = ((pixel_values.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(array) for array in levels.permute(0, 2, 3, 1).cpu().numpy()]


def config_digest(*configs: Any) -> str:
    """Return 16 hex characters over the values of dataclasses and plain values."""
    values = [
        dataclasses.asdict(one) if dataclasses.is_dataclass(one) and not isinstance(one, type) else one
        for one in configs
    ]
    text = json.dumps([EDITING_VERSION, values], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _pasted(image: "Image", source: "Image", mask: Mask) -> "Image":
    from PIL import Image

    return Image.composite(image, source, Image.fromarray(np.rint(mask * 255).astype(np.uint8)))
