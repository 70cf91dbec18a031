"""DiffEdit (arXiv:2210.11427): the mask is where two prompts' noise predictions differ; the source is inverted.

First the source is noised to ``mask_strength`` several times; where the predictions for the edit prompt and for the
source prompt differ most, on average over the noise samples, is the mask. Then the source is inverted by DDIM, with the
source prompt and without guidance. At last the inverted latents are denoised with the edit prompt, and outside the mask
the inverted latents of the same level are put back, after the last step the source. Axis names as in
``iedit_model.editing.sampling``.
"""

from collections.abc import Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from iedit_model.configuration import configuration
from iedit_model.editing.batches import CanvasBatch, EditedBatch, config_digest, edit_in_batches
from iedit_model.editing.editor import EditRequest, EditResult
from iedit_model.editing.framing import FramingConfig
from iedit_model.editing.methods import editing_method, edits_with
from iedit_model.editing.sampling import (
    PromptEmbeds,
    SeededNoise,
    add_noise,
    build_inverse_scheduler,
    build_scheduler,
    denoise,
    edit_timesteps,
    embed_prompts,
)
from iedit_model.editing.settings import ContrastConfig, SamplingConfig
from iedit_model.models.latent_diffusion import (
    UNCONDITIONAL,
    LatentDiffusion,
    LatentDiffusionSpec,
    latent_diffusion_fingerprint,
    load_latent_diffusion,
)

if TYPE_CHECKING:
    from iedit_model.editing.registry import EditorModels, EditorSettings


@configuration
class DiffEditSpec:
    """DiffEdit with its weights; the sampler is always DDIM, which alone can be inverted."""

    model: LatentDiffusionSpec
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    framing: FramingConfig = field(default_factory=FramingConfig)
    paste_back: bool = False
    batch_size: PositiveInt = 4
    name: str = "diffedit"

    def __post_init__(self) -> None:
        if self.sampling.sampler != "ddim":
            raise ValueError(f"DiffEdit inverts DDIM; sampler is {self.sampling.sampler!r}, expected ddim")


@edits_with(DiffEditSpec)
class DiffEditor:
    """Edits by DiffEdit; masks of requests are not looked at.

    A seed decides the noise that the mask is found with and nothing else: results of several seeds differ little.
    """

    def __init__(self, spec: DiffEditSpec) -> None:
        """Find the model's files and the device, without loading anything.

        Raises:
            WeightsError: the model cannot be had; the message says what to do.
            ConfigError: the device is not there.
        """
        self._spec = spec
        self.name = spec.name
        settings = config_digest(spec.sampling, spec.contrast, spec.framing, spec.paste_back)
        self.fingerprint = f"{spec.name}:{settings}:{latent_diffusion_fingerprint(spec.model)}"

    def edit(self, requests: Sequence[EditRequest], /) -> list[EditResult]:
        """Return one result for each request, in order; see ``Editor.edit``."""
        model, spec = load_latent_diffusion(self._spec.model), self._spec
        num_steps = spec.sampling.num_edit_steps
        return edit_in_batches(
            requests,
            lambda batch: self._edited(model, batch),
            framing=spec.framing,
            native_px=model.native_px,
            cell_px=model.cell_px,
            batch_size=spec.batch_size,
            num_unet_evaluations=2 * spec.contrast.num_maps + num_steps + spec.sampling.num_unet_evaluations,
            paste_back=spec.paste_back,
        )

    def _edited(self, model: LatentDiffusion, batch: CanvasBatch) -> EditedBatch:
        spec, requests = self._spec, batch.requests
        source_latents = model.encode_images(batch.pixel_values()).to(model.device)
        prompts = embed_prompts(model, [request.edit_prompt for request in requests])
        sources = embed_prompts(model, [request.source_prompt or UNCONDITIONAL for request in requests]).conditional
        seeds = [request.seed for request in requests]
        new_noise = SeededNoise(seeds, shape=tuple(source_latents.shape[1:]), device=model.device)
        latent_mask = contrast_mask(
            model,
            source_latents,
            source_embeds=sources,
            edit_embeds=prompts.conditional,
            new_noise=new_noise,
            sampling=spec.sampling,
            contrast=spec.contrast,
        )
        latents = diffedit_latents(
            model, source_latents, prompts, source_embeds=sources, latent_mask=latent_mask, sampling=spec.sampling
        )
        return EditedBatch(pixel_values=model.decode_latents(latents), latent_mask=latent_mask)


@torch.inference_mode()
def contrast_mask(
    model: LatentDiffusion,
    source_latents: Float[Tensor, "b c h w"],
    *,
    source_embeds: Float[Tensor, "b s d"],
    edit_embeds: Float[Tensor, "b s d"],
    new_noise: SeededNoise,
    sampling: SamplingConfig,
    contrast: ContrastConfig,
) -> Float[Tensor, "b 1 h w"]:
    """Return 1 where the noise predicted for the two prompts differs by more than the threshold, else 0.

    Guidance, or predicting a velocity, multiplies all differences by the same number, which the scaling takes away
    again: the one is left out, and the other makes no difference.
    """
    scheduler = build_scheduler(model.scheduler_config, "ddim")
    timesteps = edit_timesteps(scheduler, replace(sampling, strength=contrast.mask_strength))
    differences = torch.zeros_like(source_latents[:, :1])
    if not timesteps:
        return differences
    embeds = torch.cat([source_embeds, edit_embeds])
    for _ in range(contrast.num_maps):
        latents = add_noise(scheduler, source_latents, new_noise(), timesteps[0])
        of_source, of_edit = model.predict(torch.cat([latents, latents]), timesteps[0], embeds).chunk(2)
        differences += (of_edit - of_source).abs().mean(dim=1, keepdim=True) / contrast.num_maps
    ceiling = contrast.clamp_ratio * differences.mean(dim=(1, 2, 3), keepdim=True)
    # No division: two equal prompts have no difference anywhere, and then nothing is edited.
    return (differences.minimum(ceiling) > contrast.threshold * ceiling).float()


@torch.inference_mode()
def invert(
    model: LatentDiffusion,
    source_latents: Float[Tensor, "b c h w"],
    source_embeds: Float[Tensor, "b s d"],
    *,
    sampling: SamplingConfig,
) -> dict[int | None, Float[Tensor, "b c h w"]]:
    """Return the inverted latents at each timestep of an edit, the least noisy first; None is the source itself.

    DDIM run backwards by diffusers' scheduler: the UNet is asked for the level that a step leads to.
    """
    scheduler = build_inverse_scheduler(model.scheduler_config)
    scheduler.set_timesteps(sampling.num_inference_steps)
    latents = source_latents
    inverted: dict[int | None, Tensor] = {None: source_latents}
    for timestep in scheduler.timesteps[: sampling.num_edit_steps].tolist():
        predicted = model.predict(latents, timestep, source_embeds)
        latents = inverted[timestep] = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
    return inverted


@torch.inference_mode()
def diffedit_latents(
    model: LatentDiffusion,
    source_latents: Float[Tensor, "b c h w"],
    prompts: PromptEmbeds,
    *,
    source_embeds: Float[Tensor, "b s d"],
    latent_mask: Float[Tensor, "b 1 h w"],
    sampling: SamplingConfig,
) -> Float[Tensor, "b c h w"]:
    """Return the latents denoised from the inverted source, which stays outside the mask."""
    scheduler = build_scheduler(model.scheduler_config, "ddim")
    timesteps = edit_timesteps(scheduler, sampling)
    if not timesteps:
        return source_latents
    inverted = invert(model, source_latents, source_embeds, sampling=sampling)
    return denoise(
        model,
        scheduler,
        inverted[timesteps[0]],
        prompts,
        timesteps=timesteps,
        config=sampling,
        latent_mask=latent_mask,
        kept=lambda timestep: inverted[timestep],
    )


@editing_method("diffedit", title="DiffEdit", weights="base")
def _diffedit(models: "EditorModels", settings: "EditorSettings") -> DiffEditSpec:
    return DiffEditSpec(
        model=LatentDiffusionSpec(model=models.needed("base", "diffedit"), device=settings.device),
        sampling=replace(settings.sampling, sampler="ddim"),
        contrast=settings.contrast,
        framing=settings.framing,
        paste_back=settings.paste_back,
        batch_size=settings.batch_size,
    )
