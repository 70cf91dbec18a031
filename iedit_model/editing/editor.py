"""What every editing method looks like from outside, so that an evaluation treats all of them alike.

A method gets ``EditRequest`` objects and gives back one ``EditResult`` each. ``iedit_model.editing.methods`` lists
iEdit, the baselines and the reference rows behind this interface.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from iedit_model.errors import EditError, MaskError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Mask = npt.NDArray[np.float32]
"""(height, width) in [0, 1], 1 = edit here."""

_SEEDS = 2**63


@dataclass(frozen=True, kw_only=True, eq=False)
class EditRequest:
    """One image and what is wanted of it; a method takes of the words what it can use."""

    image: "Image"
    """The source image, RGB, of any size."""
    edit_prompt: str
    """What the edited image shall show, as a caption of it: ``a train on a white background``."""
    source_prompt: str | None = None
    """A caption of the source image; DiffEdit contrasts it with ``edit_prompt``."""
    word: str | None = None
    """The word of the source that is edited (``bus``); automatic masks look for it."""
    replacement: str | None = None
    """What stands in its place in ``edit_prompt`` (``train``)."""
    instruction: str | None = None
    """What InstructPix2Pix is told; None derives it from ``word`` and ``replacement``."""
    mask: "npt.NDArray[np.floating[Any]] | Tensor | None" = None
    """Where to edit: (height, width) of the image, in [0, 1]; None leaves it to the method."""
    seed: int = 0
    """Decides all noise of this request, in [0, 2**63)."""

    def __post_init__(self) -> None:
        """Check the request.

        Raises:
            EditError: the image is no RGB image, the edit prompt is empty or the seed outside its range.
            MaskError: the mask has another size than the image, or values outside [0, 1].
        """
        if self.image.mode != "RGB" or 0 in self.image.size:
            raise EditError(f"an edit starts from an RGB image, got the mode {self.image.mode!r} of {self.image.size}")
        if not self.edit_prompt.strip():
            raise EditError("the edit prompt is empty: say what the edited image shall show")
        if not 0 <= self.seed < _SEEDS:
            raise EditError(f"the seed is {self.seed}, expected 0 or more and below 2**63")
        if self.mask is not None:
            check_mask(self.mask_array, size=self.image.size)

    @property
    def mask_array(self) -> Mask | None:
        """The mask as float32 (height, width), whatever it was given as."""
        if self.mask is None:
            return None
        mask: Any = self.mask
        return np.asarray(mask if isinstance(mask, np.ndarray) else mask.detach().float().cpu().numpy(), np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class EditResult:
    """What became of one request."""

    image: "Image"
    """The edited image, RGB, of the source's size."""
    mask: Mask | None
    """Where the method was allowed to edit, float32 (height, width) of the source; None where it used no mask."""
    seconds: float
    """This result's equal share of the wall time that its batch took, models already loaded."""
    num_unet_evaluations: int
    """Images that went through the UNet for this result; guidance makes two of each step, InstructPix2Pix three."""


class Editor(Protocol):
    """One editing method with its weights and settings."""

    @property
    def name(self) -> str:
        """What the method is called in tables: ``iedit_m``."""
        ...

    @property
    def fingerprint(self) -> str:
        """What decides the results: the content of the weights, the configuration, device and precision."""
        ...

    def edit(self, requests: Sequence[EditRequest], /) -> list[EditResult]:
        """Return one result for each request, in order.

        A result depends on its own request alone, beyond the rounding that another batch size brings.

        Raises:
            EditError: a request lacks what the method needs.
            MaskError: an automatic mask came out empty.
            MemoryLimitError: not even one image fits into memory.
        """
        ...


def check_mask(mask: Mask | None, *, size: tuple[int, int]) -> None:
    """Refuse a mask that does not fit an image.

    Args:
        mask: (height, width); None passes.
        size: the image's width and height, as PIL says them.

    Raises:
        MaskError: of another shape, empty of values that make sense, or not in [0, 1].
    """
    if mask is None:
        return
    if mask.shape != (size[1], size[0]):
        raise MaskError(f"the mask has the shape {mask.shape}, expected the image's (height, width) {size[::-1]}")
    if not (mask.min() >= 0 and mask.max() <= 1):  # also when there is a NaN
        raise MaskError(f"the mask spans {mask.min()} to {mask.max()}, expected values in [0, 1], 1 where to edit")
