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
from iedit_model.editing.editor import EditRequest, EditResult, Mask
from iedit_model.editing.framing import Frame, FramingConfig, frame, from_canvas, mask_from_canvas, to_canvas

if TYPE_CHECKING:
    from PIL.Image import Image

EDITING_VERSION = 1
"""Part of every editor's fingerprint; raised by hand when the same weights and settings come to give other results."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FramedRequest:
    """One request with its place in a canvas and its mask."""

    request: EditRequest
    frame: Frame
    mask: Mask | None = None
    """(height, width) of the source; None edits everywhere."""
    seconds: float = 0.0
    """Time that the mask took."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EditedCanvas:
    """What a method made of one canvas."""

    canvas: "Image"
    mask: Mask | None
    """(height, width) of the canvas: where the method could change it."""


def framed(
    requests: Sequence[EditRequest],
    config: FramingConfig,
    *,
    native_px: int,
    multiple_px: int,
    masks: Sequence[Mask | None] | None = None,
    seconds: float = 0.0,
) -> list[FramedRequest]:
    """Return requests with their places in canvases.

    Args:
        requests: what is asked for.
        config: area and longest shape of the canvases.
        native_px: side of the model's own squares.
        multiple_px: both sides of a canvas are multiples of it: one latent cell.
        masks: one a request, in its image's size; None edits everywhere.
        seconds: time that each mask took.

    Raises:
        EditError: an image is too narrow to be edited.
    """
    masks = [None] * len(requests) if masks is None else masks
    return [
        FramedRequest(
            request=request,
            frame=frame(request.image.size, config, native_px=native_px, multiple_px=multiple_px),
            mask=mask,
            seconds=seconds,
        )
        for request, mask in zip(requests, masks, strict=True)
    ]


def edit_in_batches(
    items: Sequence[FramedRequest],
    function: Callable[[Sequence[FramedRequest]], Sequence[EditedCanvas]],
    *,
    batch_size: int,
    num_unet_evaluations: int,
    paste_back: bool = False,
) -> list[EditResult]:
    """Return the results of all items in order, computed in batches whose canvases have one size.

    Args:
        items: framed requests.
        function: edits one batch.
        batch_size: most items a batch; a batch that does not fit into memory is halved.
        num_unet_evaluations: for one result.
        paste_back: put the source's own pixels back wherever the mask is 0, in parts where it is between.

    Raises:
        MemoryLimitError: not even one item fits into memory.
    """
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        by_size[item.frame.canvas_size].append(index)

    def timed(batch: Sequence[FramedRequest]) -> list[tuple[EditedCanvas, float]]:
        began = time.perf_counter()
        edited = function(batch)
        return [(one, (time.perf_counter() - began) / len(batch)) for one in edited]

    results: dict[int, EditResult] = {}
    for indices in by_size.values():
        batched = map_batches(timed, [items[index] for index in indices], batch_size=min(batch_size, len(indices)))
        for index, (item, (edited, seconds)) in zip(indices, batched, strict=True):
            results[index] = _result(item, edited, seconds, num_unet_evaluations, paste_back=paste_back)
    return [results[index] for index in range(len(items))]


def pixel_values(items: Sequence[FramedRequest]) -> Float[Tensor, "b 3 H W"]:
    """Return the canvases of items of one canvas size in [-1, 1]."""
    canvases = np.stack([np.asarray(to_canvas(item.request.image, item.frame)) for item in items])
    return torch.from_numpy(canvases).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: Float[Tensor, "b 3 H W"]) -> "list[Image]":
    """Return images in [-1, 1] as RGB pictures, clamped and rounded."""
    from PIL import Image

    levels = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(array) for array in levels.permute(0, 2, 3, 1).cpu().numpy()]


def config_digest(*configs: Any) -> str:
    """Return 16 hex characters over the values of dataclasses and plain values."""
    values = [
        dataclasses.asdict(one) if dataclasses.is_dataclass(one) and not isinstance(one, type) else one
        for one in configs
    ]
    text = json.dumps([EDITING_VERSION, values], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _result(
    item: FramedRequest, edited: EditedCanvas, seconds: float, num_unet_evaluations: int, *, paste_back: bool
) -> EditResult:
    image = from_canvas(edited.canvas, item.frame)
    mask = None if edited.mask is None else mask_from_canvas(edited.mask, item.frame)
    if paste_back and mask is not None:
        image = _pasted(image, item.request.image, mask)
    return EditResult(image=image, mask=mask, seconds=seconds + item.seconds, num_unet_evaluations=num_unet_evaluations)


def _pasted(image: "Image", source: "Image", mask: Mask) -> "Image":
    from PIL import Image

    return Image.composite(image, source, Image.fromarray(np.rint(mask * 255).astype(np.uint8)))
