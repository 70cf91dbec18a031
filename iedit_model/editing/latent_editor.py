"""Methods that sample with a text-to-image model: SDEdit, iEdit, iEdit-M and in-painting differ by values alone."""

import time
from collections.abc import Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from iedit_model.configuration import configuration
from iedit_model.editing.batches import CanvasBatch, EditedBatch, config_digest, edit_in_batches
from iedit_model.editing.edit_masks import MaskConfig, latent_masks, pixel_masks
from iedit_model.editing.editor import EditRequest, EditResult
from iedit_model.editing.framing import FramingConfig
from iedit_model.editing.methods import editing_method, edits_with
from iedit_model.editing.sampling import SeededNoise, edit_latents, embed_prompts
from iedit_model.editing.settings import SamplingConfig
from iedit_model.models.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionSpec,
    latent_diffusion_fingerprint,
    load_latent_diffusion,
)
from iedit_model.models.segmenter import Segmenter, SegmenterSpec, load_segmenter

if TYPE_CHECKING:
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
        model, spec = load_latent_diffusion(self._spec.model), self._spec
        if self._segmenter is not None and requests:
            self._segmenter.prepare(requests[0].image)  # loads it, so that the time below is that of the masks
        began = time.perf_counter()
        masks = pixel_masks(requests, spec.masks, self._segmenter)
        return edit_in_batches(
            requests,
            lambda batch: self._edited(model, batch),
            framing=spec.framing,
            native_px=model.native_px,
            cell_px=model.cell_px,
            batch_size=spec.batch_size,
            num_unet_evaluations=spec.sampling.num_unet_evaluations,
            masks=masks,
            mask_seconds=(time.perf_counter() - began) / max(1, len(requests)),
            paste_back=spec.paste_back,
        )

    def _edited(self, model: LatentDiffusion, batch: CanvasBatch) -> EditedBatch:
        spec = self._spec
        source_latents = model.encode_images(batch.pixel_values()).to(model.device)
        seeds = [request.seed for request in batch.requests]
        new_noise = SeededNoise(seeds, shape=tuple(source_latents.shape[1:]), device=model.device)
        latent_mask = None
        if spec.masks.source != "none":
            latent_mask = latent_masks(batch.masks, batch.frames, spec.masks, cell_px=model.cell_px).to(model.device)
        latents = edit_latents(
            model,
            source_latents,
            embed_prompts(model, [request.edit_prompt for request in batch.requests]),
            noise=new_noise(),
            config=spec.sampling,
            latent_mask=latent_mask,
            start=spec.start,
            new_noise=new_noise,
        )
        return EditedBatch(pixel_values=model.decode_latents(latents), latent_mask=latent_mask)


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
