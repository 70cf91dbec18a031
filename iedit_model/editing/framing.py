"""How an image of any shape goes through a model that was trained on squares, and comes back in its own size.

The image is scaled, with its shape kept, into a canvas of about the model's area; the canvas has the image's shape up
to ``max_aspect``, and what is left of it is filled with the mirrored image. Squashing would distort the objects and a
crop would lose the borders; beyond about 2:1 the models repeat objects, so that there the canvas stays shorter.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from iedit_model.configuration import configuration
from iedit_model.editing.editor import Mask
from iedit_model.errors import EditError

if TYPE_CHECKING:
    from PIL.Image import Image

_SMALLEST_PX = 8


@configuration
class FramingConfig:
    """The canvases that images go through the model in."""

    size_px: Annotated[int, Field(ge=_SMALLEST_PX, le=4096)] | None = None
    """Side of the square whose area every canvas has, about; None is the size that the UNet was configured for."""
    max_aspect: Annotated[float, Field(ge=1, le=8)] = 2.0
    """Longest canvas, long side to short side; 1 makes all of them squares, which models that only ever saw squares
    need, and lets all images share one batch."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where one image lies in its canvas; all sizes are (width, height) in pixels."""

    source_size: tuple[int, int]
    canvas_size: tuple[int, int]
    box: tuple[int, int, int, int]
    """The image in the canvas: left, top, right, bottom."""

    @property
    def box_size(self) -> tuple[int, int]:
        """Width and height that the image is scaled to."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]


def frame(source_size: tuple[int, int], config: FramingConfig, *, native_px: int, multiple_px: int) -> Frame:
    """Return the canvas for an image and the image's box there.

    Args:
        source_size: the image's width and height.
        config: area and longest shape.
        native_px: the size to take where the configuration names none.
        multiple_px: both sides of the canvas are multiples of it: one latent cell.

    Raises:
        EditError: the image is so narrow that less than one pixel of it would be left.
    """
    width, height = source_size
    side, aspect = config.size_px or native_px, width / height
    shape = min(max(aspect, 1 / config.max_aspect), config.max_aspect)
    wide = max(1, round(side * shape**0.5 / multiple_px)) * multiple_px
    high = max(1, round(side / shape**0.5 / multiple_px)) * multiple_px
    scale = min(wide / width, high / height)
    box_wide, box_high = min(wide, round(width * scale)), min(high, round(height * scale))
    if min(box_wide, box_high) < 1:
        raise EditError(f"an image of {width} x {height} pixels is too narrow to be edited: crop it first")
    left, top = (wide - box_wide) // 2, (high - box_high) // 2
    return Frame(source_size=source_size, canvas_size=(wide, high), box=(left, top, left + box_wide, top + box_high))


def to_canvas(image: "Image", fit: Frame) -> "Image":
    """Return the RGB image scaled into its canvas, the rest mirrored."""
    from PIL import Image

    scaled = image if image.size == fit.box_size else image.resize(fit.box_size, Image.Resampling.LANCZOS)
    return Image.fromarray(np.pad(np.asarray(scaled), np.vstack([_margins(fit), (0, 0)]), mode="symmetric"))


def from_canvas(canvas: "Image", fit: Frame) -> "Image":
    """Return the image's part of a canvas, in the image's own size."""
    from PIL import Image

    part = canvas if canvas.size == fit.box_size else canvas.crop(fit.box)
    return part if part.size == fit.source_size else part.resize(fit.source_size, Image.Resampling.LANCZOS)


def mask_to_canvas(mask: Mask, fit: Frame) -> Mask:
    """Return a mask (height, width) of the image scaled into the canvas; the rest is 0, not to be edited."""
    return np.pad(_resized(mask, fit.box_size), _margins(fit))


def mask_from_canvas(mask: Mask, fit: Frame) -> Mask:
    """Return the image's part of a canvas mask, in the image's own size."""
    left, top, right, bottom = fit.box
    return _resized(mask[top:bottom, left:right], fit.source_size)


def _resized(mask: Mask, size: tuple[int, int]) -> Mask:
    from PIL import Image

    if mask.shape == size[::-1]:
        return mask
    # Means over areas when shrinking, the nearest pixel when growing: no value outside [0, 1] and no border made up.
    shrinks = size[0] < mask.shape[1] or size[1] < mask.shape[0]
    how = Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(mask)).resize(size, how), np.float32).clip(0, 1)


def _margins(fit: Frame) -> npt.NDArray[np.int64]:
    left, top, right, bottom = fit.box
    return np.array([(top, fit.canvas_size[1] - bottom), (left, fit.canvas_size[0] - right)])
