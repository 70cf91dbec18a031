"""Editing by partial noising: SDEdit's start, guided denoising, and the masked blend of the paper's Eq. 13.

Symbols: z_1 are ``source_latents``, eps ``noise``, M the ``latent_mask`` (1 = edit here), z_t ``latents``. Axis names:
b = batch, c = latent channels, h w = latent height and width, s = prompt tokens, d = their width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iedit_model.editing.samplers import Trajectory, build_sampler, trajectory
from iedit_model.editing.settings import SamplingConfig
from iedit_model.errors import ConfigError
from iedit_model.models.latent_diffusion import LatentDiffusion

Kept = Callable[[float], Tensor]
"""Gives what stands outside the mask at a noise level, named by its alpha; 1 is the clean source."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptEmbeds:
    """Embedded prompts of a batch."""

    conditional: Float[Tensor, "b s d"]
    unconditional: Float[Tensor, "b s d"]


def edit_steps(model: LatentDiffusion, config: SamplingConfig) -> Trajectory:
    """Return the steps of an edit: the last round(N * strength) of the whole trajectory."""
    steps = trajectory(model.schedule, sampler=config.sampler, num_inference_steps=config.num_inference_steps)
    return steps.last(config.num_edit_steps)


def noised(latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], alpha: float) -> Tensor:
    """Return sqrt(alpha) z + sqrt(1 - alpha) eps (Eq. 2 at a level instead of a timestep); alpha 1 is exactly z."""
    return latents if alpha == 1 else alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise


@torch.inference_mode()
def edit_latents(
    model: LatentDiffusion,
    source_latents: Float[Tensor, "b c h w"],
    prompts: PromptEmbeds,
    *,
    noise: Float[Tensor, "b c h w"],
    config: SamplingConfig,
    latent_mask: Float[Tensor, "b 1 h w"] | None = None,
    start: Literal["source", "noise"] = "source",
    draw: Callable[[], Tensor] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Return the edited latents: SDEdit (arXiv:2108.01073) from the noised source, with Eq. 13 where there is a mask.

    Args:
        model: the networks.
        source_latents: z_1, scaled.
        prompts: embeddings of the edit prompts and of the empty one.
        noise: eps, standard normal.
        config: strength, guidance, steps, sampler.
        latent_mask: M in [0, 1]; None edits everywhere.
        start: "noise" begins with eps alone, as in-painting at full strength does; the source inside the mask then
            has no influence.
        draw: gives new noise of the same shape; needed for ``blend_noise="fresh"``.

    Raises:
        ConfigError: fresh noise is asked for and cannot be drawn.
    """
    steps = edit_steps(model, config)
    if not steps.timesteps:
        return source_latents
    if config.blend_noise == "fixed":
        draw = _always(noise)
    elif draw is None:
        raise ConfigError("blend_noise is 'fresh', which needs a function that draws noise")
    draws = draw

    def kept(alpha: float) -> Tensor:
        return noised(source_latents, draws(), alpha)

    latents = noise if start == "noise" else noised(source_latents, noise, steps.alphas[0])
    return denoise(model, latents, prompts, steps=steps, config=config, latent_mask=latent_mask, kept=kept)


@torch.inference_mode()
def denoise(
    model: LatentDiffusion,
    latents: Float[Tensor, "b c h w"],
    prompts: PromptEmbeds,
    *,
    steps: Trajectory,
    config: SamplingConfig,
    latent_mask: Float[Tensor, "b 1 h w"] | None,
    kept: Kept,
) -> Float[Tensor, "b c h w"]:
    """Walk along ``steps``; after each one the part outside the mask is replaced by what is kept (Eq. 13).

    The replacement has the noise level that the step led *to*, and after the last step it is the clean source.
    """
    sampler = build_sampler(config.sampler, steps)
    for position, timestep in enumerate(steps.timesteps, start=1):
        noise_pred = guided_noise(model, latents, timestep, prompts, guidance_scale=config.guidance_scale)
        latents = sampler.step(latents, noise_pred)
        if latent_mask is not None:
            level = steps.alphas[position] if position < len(steps.timesteps) else 1.0
            latents = blend(latents, kept(level), latent_mask)
    return latents


def blend(edited: Tensor, source: Tensor, latent_mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h w"]:
    """Return M * z~ + (1 - M) * z^src (Eq. 13); where M is 0 or 1 the result is bit for bit one of the two."""
    mixed = latent_mask * edited + (1 - latent_mask) * source
    # A diverged latent outside the mask must not get in as 0 * inf.
    return torch.where(latent_mask == 0, source, torch.where(latent_mask == 1, edited, mixed))


def guided_noise(
    model: LatentDiffusion,
    latents: Float[Tensor, "b c h w"],
    timestep: int,
    prompts: PromptEmbeds,
    *,
    guidance_scale: float,
) -> Float[Tensor, "b c h w"]:
    """Return e_u + g (e_c - e_u), both branches in one batch (arXiv:2207.12598); the conditional one for g <= 1."""
    if guidance_scale <= 1:
        return model.predict_noise(latents, timestep, prompts.conditional)
    embeds = torch.cat([prompts.unconditional, prompts.conditional])
    unconditional, conditional = model.predict_noise(torch.cat([latents, latents]), timestep, embeds).chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


def _always(noise: Tensor) -> Callable[[], Tensor]:
    return lambda: noise
