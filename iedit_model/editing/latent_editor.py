"""Methods that sample with a text-to-image model: SDEdit, iEdit, iEdit-M and in-painting differ by values alone."""

import time
from collections.abc import Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import PositiveInt

from iedit_model.configuration import configuration
from iedit_model.editing.batches import (
    EditedCanvas,
    FramedRequest,
    config_digest,
    edit_in_batches,
    framed,
    pixel_values,
    to_images,
)
from iedit_model.editing.edit_masks import MaskConfig, latent_masks, pixel_masks, shown_mask
from iedit_model.editing.editor import EditRequest, EditResult
from iedit_model.editing.framing import FramingConfig
from iedit_model.editing.methods import editing_method, edits_with
from iedit_model.editing.noise import SeededNoise
from iedit_model.editing.partial_noising import PromptEmbeds, SamplingConfig, edit_latents
from iedit_model.models.latent_diffusion import (
    UNCONDITIONAL,
    LatentDiffusion,
    LatentDiffusionSpec,
    latent_diffusion_fingerprint,
    load_latent_diffusion,
)
from iedit_model.models.segmenter import Segmenter, SegmenterSpec, load_segmenter

if TYPE_CHECKING:
    from torch import Tensor

    from iedit_model.editing.registry import EditorModels, EditorSettings


@configuration
class LatentEditorSpec:
    """A sampling method with its weights; what makes it SDEdit or iEdit are the weights."""

    name: str
    """What the method is called in tables."""
    model: LatentDiffusionSpec
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    masks: MaskConfig = field(default_factory=lambda: MaskConfig(source="none"))
    segmenter: SegmenterSpec | None = None
    framing: FramingConfig = field(default_factory=FramingConfig)
    start: Literal["source", "noise"] = "source"
    """"noise" forgets the source inside the mask: in-painting, at strength 1."""
    paste_back: bool = False
    """Whether the source's pixels are put back outside the mask; off in the paper."""
    batch_size: PositiveInt = 4
    """Most results computed at once."""

    def __post_init__(self) -> None:
        if self.masks.needs_segmenter and self.segmenter is None:
            raise ValueError(f"{self.name} finds masks by words, which needs a segmenter; give one or masks='request'")


@edits_with(LatentEditorSpec)
class LatentEditor:
    """Edits with a text-to-image model, which is loaded at the first request."""

    def __init__(self, spec: LatentEditorSpec) -> None:
        """Find the models' files and the device, without loading anything.

        Raises:
            WeightsError: a model cannot be had; the message says what to do.
            ConfigError: the device is not there.
        """
        self._spec = spec
        self._segmenter: Segmenter | None = load_segmenter(spec.segmenter) if spec.segmenter else None
        self.name = spec.name
        self.fingerprint = _fingerprint(spec, self._segmenter)

    def edit(self, requests: Sequence[EditRequest], /) -> list[EditResult]:
        """Return one result for each request, in order; see ``Editor.edit``."""
        spec = self._spec
        return edit_in_batches(
            self._framed(requests),
            self._edited,
            batch_size=spec.batch_size,
            num_unet_evaluations=spec.sampling.num_unet_evaluations,
            paste_back=spec.paste_back,
        )

    @property
    def _model(self) -> LatentDiffusion:
        return load_latent_diffusion(self._spec.model)

    def _framed(self, requests: Sequence[EditRequest]) -> list[FramedRequest]:
        model, spec = self._model, self._spec
        if self._segmenter is not None and requests:
            self._segmenter.prepare(requests[0].image)  # loads it, so that the time below is that of the masks
        began = time.perf_counter()
        masks = pixel_masks(requests, spec.masks, self._segmenter)
        seconds = (time.perf_counter() - began) / max(1, len(requests))
        return framed(
            requests, spec.framing, native_px=model.native_px, multiple_px=model.cell_px, masks=masks, seconds=seconds
        )

    def _edited(self, items: Sequence[FramedRequest]) -> list[EditedCanvas]:
        model, spec = self._model, self._spec
        source_latents = model.encode(pixel_values(items)).to(model.device)
        draw = SeededNoise(
            [item.request.seed for item in items], shape=tuple(source_latents.shape[1:]), device=model.device
        )
        latent_mask = self._latent_mask(items)
        latents = edit_latents(
            model,
            source_latents,
            embed_prompts(model, [item.request.edit_prompt for item in items]),
            noise=draw(),
            config=spec.sampling,
            latent_mask=None if latent_mask is None else latent_mask.to(model.device),
            start=spec.start,
            draw=draw,
        )
        return edited_canvases(model, latents, latent_mask)

    def _latent_mask(self, items: Sequence[FramedRequest]) -> "Tensor | None":
        if self._spec.masks.source == "none":
            return None
        masks, frames = [item.mask for item in items], [item.frame for item in items]
        return latent_masks(masks, frames, self._spec.masks, cell_px=self._model.cell_px)


def embed_prompts(model: LatentDiffusion, prompts: Sequence[str]) -> PromptEmbeds:
    """Return the embeddings of prompts and as many of the empty one; each distinct prompt is embedded once, alone.

    Alone, so that its embedding does not depend on who else is in the batch.
    """
    known = {prompt: model.embed([prompt]) for prompt in dict.fromkeys((UNCONDITIONAL, *prompts))}
    return PromptEmbeds(
        conditional=torch.cat([known[prompt] for prompt in prompts]),
        unconditional=torch.cat([known[UNCONDITIONAL]] * len(prompts)),
    )


def edited_canvases(model: LatentDiffusion, latents: "Tensor", latent_mask: "Tensor | None") -> list[EditedCanvas]:
    """Return decoded latents with the masks that were used, in canvas pixels."""
    canvases = to_images(model.decode(latents))
    if latent_mask is None:
        return [EditedCanvas(canvas=canvas, mask=None) for canvas in canvases]
    return [
        EditedCanvas(canvas=canvas, mask=shown_mask(mask, cell_px=model.cell_px))
        for canvas, mask in zip(canvases, latent_mask, strict=True)
    ]


def _fingerprint(spec: LatentEditorSpec, segmenter: Segmenter | None) -> str:
    settings = config_digest(spec.sampling, spec.masks, spec.framing, spec.start, spec.paste_back)
    seen = f"+{segmenter.fingerprint}" if segmenter is not None and spec.masks.needs_segmenter else ""
    return f"{spec.name}:{settings}:{latent_diffusion_fingerprint(spec.model)}{seen}"


@editing_method("sdedit", title="SDEdit", weights="base")
def _sdedit(models: "EditorModels", settings: "EditorSettings") -> LatentEditorSpec:
    return _everywhere("sdedit", "base", models, settings)


@editing_method("sdedit_m", title="SDEdit, masked", weights="base", needs_mask=True, is_evaluated=False)
def _sdedit_m(models: "EditorModels", settings: "EditorSettings") -> LatentEditorSpec:
    return _masked("sdedit_m", "base", models, settings)


@editing_method("iedit", title="iEdit", weights="tuned")
def _iedit(models: "EditorModels", settings: "EditorSettings") -> LatentEditorSpec:
    return _everywhere("iedit", "tuned", models, settings)


@editing_method("iedit_m", title="iEdit-M", weights="tuned", needs_mask=True)
def _iedit_m(models: "EditorModels", settings: "EditorSettings") -> LatentEditorSpec:
    return _masked("iedit_m", "tuned", models, settings)


@editing_method("inpaint", title="in-painting", weights="base", needs_mask=True, gets_set_masks=True)
def _inpaint(models: "EditorModels", settings: "EditorSettings") -> LatentEditorSpec:
    spec = _masked("inpaint", "base", models, settings)
    return replace(spec, start="noise", sampling=replace(settings.sampling, strength=1.0))


@editing_method("vae_round_trip", title="VAE round trip", weights="base", is_reference=True)
def _vae_round_trip(models: "EditorModels", settings: "EditorSettings") -> LatentEditorSpec:
    unchanged = replace(settings, sampling=replace(settings.sampling, strength=0.0))
    return _everywhere("vae_round_trip", "base", models, unchanged)


def _everywhere(
    name: str, weights: Literal["base", "tuned"], models: "EditorModels", settings: "EditorSettings"
) -> LatentEditorSpec:
    return LatentEditorSpec(
        name=name,
        model=LatentDiffusionSpec(model=models.needed(weights, name), device=settings.device),
        sampling=settings.sampling,
        framing=settings.framing,
        batch_size=settings.batch_size,
    )


def _masked(
    name: str, weights: Literal["base", "tuned"], models: "EditorModels", settings: "EditorSettings"
) -> LatentEditorSpec:
    return replace(
        _everywhere(name, weights, models, settings),
        masks=settings.masks,
        segmenter=settings.segmenter(models, name),
        paste_back=settings.paste_back,
    )
