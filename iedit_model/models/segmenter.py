"""Masks from words: CLIPSeg behind a small protocol, with each image encoded once for all of its prompts.

The library's own forward encodes the image anew for every prompt. Here the vision tower runs once per image, the text
tower once a prompt and process, and only the small decoder runs for each pair of them; the numbers are the same.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from iedit_model.configuration import configuration
from iedit_model.errors import BatchError, OverflowedError, WeightsError
from iedit_model.models.devices import DeviceConfig, resolve_device
from iedit_model.models.lazy_model import LazyModel
from iedit_model.models.source import ModelSource, load_transformer, loaded_once

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Probabilities = npt.NDArray[np.float32]

_KEPT_PROMPTS = 4096


@configuration
class SegmenterSpec:
    """Which segmenter, and where it runs."""

    model: ModelSource
    """A CLIPSeg folder or hub id, like ``CIDAS/clipseg-rd64-refined``."""
    device: DeviceConfig = field(default_factory=DeviceConfig)


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptedImage:
    """One image with what is looked for in it."""

    prepared: Any
    """What the segmenter's ``prepare`` made of the image."""
    size_px: tuple[int, int]
    """Height and width of the image, to which its maps are brought."""
    prompts: tuple[str, ...]


class Segmenter(Protocol):
    """Finds in images what words say; fit for threads."""

    @property
    def fingerprint(self) -> str:
        """What decides the maps: the content of the weights, device and precision."""
        ...

    def prepare(self, image: "Image", /) -> Any:
        """Return what the model sees of one RGB image; runs in threads, ahead of the model."""
        ...

    def segment(self, images: Sequence[PromptedImage], /) -> list[Probabilities]:
        """Return for each image the probabilities (prompts, height, width) in [0, 1], float32."""
        ...


class ClipSegmenter(LazyModel[SegmenterSpec, "_ClipSeg"]):
    """CLIPSeg (arXiv:2112.10003), loaded at the first image."""

    def __init__(self, spec: SegmenterSpec) -> None:
        """Find the model's files and the device, without loading anything.

        Raises:
            WeightsError: the model cannot be had; the message says what to do.
            ConfigError: the device is not there.
        """
        super().__init__(spec, _load_clipseg)
        self._embeds: OrderedDict[str, Tensor] = OrderedDict()

    def prepare(self, image: "Image", /) -> "Tensor":
        """Return one RGB image, both sides brought to the model's input size, normalised, float32 (3, s, s)."""
        return self._loaded.processor(images=[image], return_tensors="pt").pixel_values[0]

    def segment(self, images: Sequence[PromptedImage], /) -> list[Probabilities]:
        """Return for each image the probabilities (prompts, height, width), resized bilinearly to its own size.

        Raises:
            BatchError: an image without a prompt, or of no size.
        """
        import torch

        for image in images:
            if not image.prompts or min(image.size_px) < 1:
                raise BatchError(f"cannot segment an image of size {image.size_px} by the prompts {image.prompts}")
        with self._lock, torch.inference_mode():
            activations = self._activations(torch.stack([image.prepared for image in images]))
            embeds = self._prompt_embeds([prompt for image in images for prompt in image.prompts])
            owners = [index for index, image in enumerate(images) for _ in image.prompts]
            maps = self._decoded(activations, embeds, owners, num_rows=len(images))
            return self._resized(maps, images)

    def _activations(self, pixel_values: "Tensor") -> "list[Tensor]":
        model = self._loaded.model
        states = model.clip.vision_model(
            pixel_values.to(self._device.type, self._device.torch_dtype),
            output_hidden_states=True,
            interpolate_pos_encoding=True,
        ).hidden_states
        # The first state is the input of the first layer.
        return [states[layer + 1] for layer in model.extract_layers]

    def _prompt_embeds(self, prompts: Sequence[str]) -> "Tensor":
        import torch

        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embeds]
        known = {prompt: self._embeds[prompt] for prompt in prompts if prompt in self._embeds}
        for prompt in missing:
            # One at a time and unpadded: then its embedding does not depend on who else is asked for.
            tokens = self._loaded.tokenizer([prompt], truncation=True, return_tensors="pt").to(self._device.type)
            known[prompt] = self._loaded.model.clip.get_text_features(**tokens).pooler_output[0]
        for prompt in missing:
            self._embeds[prompt] = known[prompt]
        while len(self._embeds) > _KEPT_PROMPTS:
            self._embeds.popitem(last=False)
        return torch.stack([known[prompt] for prompt in prompts])

    def _decoded(
        self, activations: "list[Tensor]", embeds: "Tensor", owners: list[int], *, num_rows: int
    ) -> "list[Tensor]":
        """Return the probability map (s, s) of each prompt, decoded in batches of exactly ``num_rows``."""
        maps = []
        for start in range(0, len(owners), num_rows):
            rows = [min(start + offset, len(owners) - 1) for offset in range(num_rows)]
            of_images = [owners[row] for row in rows]
            logits = self._loaded.model.decoder([state[of_images] for state in activations], embeds[rows]).logits
            maps += list(logits.float().sigmoid())[: len(owners) - start]
        return maps

    def _resized(self, maps: "list[Tensor]", images: Sequence[PromptedImage]) -> list[Probabilities]:
        import torch
        from torch.nn import functional

        found, position = [], 0
        for image in images:
            own = torch.stack(maps[position : position + len(image.prompts)])
            position += len(image.prompts)
            resized = functional.interpolate(own[:, None], size=image.size_px, mode="bilinear", align_corners=False)
            if not torch.isfinite(resized).all():
                raise OverflowedError("the maps of CLIPSeg", self._device.dtype)
            found.append(resized[:, 0].cpu().numpy())
        return found


class _ClipSeg(NamedTuple):
    model: Any
    processor: Any
    tokenizer: Any


@loaded_once
def load_segmenter(spec: SegmenterSpec) -> Segmenter:
    """Return the segmenter of a spec, the same one for the same spec in all threads of a process.

    Raises:
        WeightsError: the model cannot be had; the message says what to do.
        ConfigError: the device is not there.
    """
    return ClipSegmenter(spec)


@loaded_once
def _load_clipseg(spec: SegmenterSpec) -> _ClipSeg:
    from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

    model: Any
    processor: Any
    processor, model = load_transformer(
        spec.model, CLIPSegProcessor, CLIPSegForImageSegmentation, device=resolve_device(spec.device)
    )
    size = dict(processor.image_processor.size)
    square = bool(size.get("height")) and size.get("height") == size.get("width")
    if getattr(processor.image_processor, "do_center_crop", None) or not square:
        raise WeightsError(
            f"{spec.model.name} crops its images or takes {size}: its maps would not lie on the image; expected a "
            "processor that brings both sides to one size"
        )
    return _ClipSeg(model, processor.image_processor, processor.tokenizer)
