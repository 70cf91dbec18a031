"""Rows that frame a comparison: the untouched source, and the source with noise where the edit should be.

The third reference, the VAE's round trip, is a ``LatentEditor`` at strength 0.
"""

import time
from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING

import numpy as np

from iedit_model.configuration import configuration
from iedit_model.editing.batches import config_digest
from iedit_model.editing.edit_masks import MaskConfig, pixel_masks
from iedit_model.editing.editor import EditRequest, EditResult, Mask
from iedit_model.editing.methods import editing_method, edits_with
from iedit_model.models.segmenter import Segmenter, SegmenterSpec, load_segmenter

if TYPE_CHECKING:
    from PIL.Image import Image

    from iedit_model.editing.registry import EditorModels, EditorSettings


@configuration
class CopySourceSpec:
    """The source itself: the trivial winner of every similarity to it, and the floor of every CLIP score."""

    name: str = "copy_source"


@configuration
class MaskedNoiseSpec:
    """The source with uniform noise inside the mask: the floor of what an edit inside the mask must beat."""

    name: str = "masked_noise"
    masks: MaskConfig = field(default_factory=lambda: MaskConfig(source="request"))
    segmenter: SegmenterSpec | None = None

    def __post_init__(self) -> None:
        if self.masks.needs_segmenter and self.segmenter is None:
            raise ValueError(f"{self.name} finds masks by words, which needs a segmenter; give one or masks='request'")


@edits_with(CopySourceSpec)
class CopySource:
    """Gives the source back."""

    def __init__(self, spec: CopySourceSpec) -> None:
        self.name = spec.name
        self.fingerprint = f"{spec.name}:{config_digest()}"

    def edit(self, requests: Sequence[EditRequest], /) -> list[EditResult]:
        """Return one result for each request, in order; see ``Editor.edit``."""
        return [
            EditResult(image=request.image.copy(), mask=None, seconds=0.0, num_unet_evaluations=0)
            for request in requests
        ]


@edits_with(MaskedNoiseSpec)
class MaskedNoise:
    """Puts noise inside the mask; without one, everywhere."""

    def __init__(self, spec: MaskedNoiseSpec) -> None:
        """Find the segmenter's files, without loading it.

        Raises:
            WeightsError: it cannot be had; the message says what to do.
        """
        self._spec = spec
        self._segmenter: Segmenter | None = load_segmenter(spec.segmenter) if spec.segmenter else None
        self.name = spec.name
        seen = f":{self._segmenter.fingerprint}" if self._segmenter is not None and spec.masks.needs_segmenter else ""
        self.fingerprint = f"{spec.name}:{config_digest(spec.masks)}{seen}"

    def edit(self, requests: Sequence[EditRequest], /) -> list[EditResult]:
        """Return one result for each request, in order; see ``Editor.edit``."""
        began = time.perf_counter()
        masks = pixel_masks(requests, self._spec.masks, self._segmenter)
        images = [_noisy(request, mask) for request, mask in zip(requests, masks, strict=True)]
        seconds = (time.perf_counter() - began) / max(1, len(requests))
        return [
            EditResult(image=image, mask=mask, seconds=seconds, num_unet_evaluations=0)
            for image, mask in zip(images, masks, strict=True)
        ]


def _noisy(request: EditRequest, mask: Mask | None) -> "Image":
    from PIL import Image

    source = np.asarray(request.image)
    noise = np.random.default_rng(request.seed).integers(0, 256, source.shape, np.uint8)
    if mask is None:
        return Image.fromarray(noise)
    return Image.composite(Image.fromarray(noise), request.image, Image.fromarray(np.rint(mask * 255).astype(np.uint8)))


@editing_method("copy_source", title="source, copied", is_reference=True)
def _copy_source(models: "EditorModels", settings: "EditorSettings") -> CopySourceSpec:
    del models, settings
    return CopySourceSpec()


@editing_method("masked_noise", title="noise in the mask", needs_mask=True, is_reference=True, gets_set_masks=True)
def _masked_noise(models: "EditorModels", settings: "EditorSettings") -> MaskedNoiseSpec:
    return MaskedNoiseSpec(masks=settings.masks, segmenter=settings.segmenter(models, "masked_noise"))
