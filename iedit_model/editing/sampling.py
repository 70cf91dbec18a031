"""Sampling of edits: diffusers' schedulers, SDEdit's start, guided denoising, and the masked blend of Eq. 13.

Symbols: z_1 are ``source_latents``, eps ``noise``, M the ``latent_mask`` (1 = edit here), z_t ``latents``. Axis names:
b = batch, c = latent channels, h w = latent height and width, s = prompt tokens, d = their width.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iedit_model.editing.settings import SamplerName, SamplingConfig
from iedit_model.errors import ConfigError, ScheduleError
from iedit_model.models.latent_diffusion import UNCONDITIONAL, LatentDiffusion
from iedit_model.schedule import check_schedule

# Stable Diffusion's own values, for configs that leave them out; diffusers' defaults are those of pixel models. Latents
# are not bounded, so that they are never clipped; and a stochastic DPM-Solver is not what the sampler's name says.
_LATENT_DEFAULTS: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
_FIXED: dict[str, Any] = {"clip_sample": False, "algorithm_type": "dpmsolver++"}

Kept = Callable[[int | None], Tensor]
"""Gives what stands outside the mask at a timestep; None is the clean source."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptEmbeds:
    """Embedded prompts of a batch."""

    conditional: Float[Tensor, "b s d"]
    unconditional: Float[Tensor, "b s d"]


class SeededNoise:
    """Standard normal noise of a batch: each row from its own seed on the CPU, whatever device and batch mates."""

    def __init__(self, seeds: Sequence[int], *, shape: tuple[int, ...], device: torch.device | None = None) -> None:
        """Prepare one generator per row.

        Args:
            seeds: one per row, in [0, 2**63).
            shape: of one row: (channels, height, width).
            device: where the noise is wanted; None is the CPU.
        """
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._shape = shape
        self._device = device or torch.device("cpu")

    def __call__(self) -> Float[Tensor, "b c h w"]:
        """Return the next noise, fp32."""
        rows = [torch.randn(self._shape, generator=generator) for generator in self._generators]
        return torch.stack(rows).to(self._device)


def embed_prompts(model: LatentDiffusion, prompts: Sequence[str]) -> PromptEmbeds:
    """Return the embeddings of prompts and as many of the empty one; each distinct prompt is embedded once, alone.

    Alone, so that its embedding does not depend on who else is in the batch.
    """
    known = {prompt: model.encode_prompts([prompt]) for prompt in dict.fromkeys((UNCONDITIONAL, *prompts))}
    return PromptEmbeds(
        conditional=torch.cat([known[prompt] for prompt in prompts]),
        unconditional=torch.cat([known[UNCONDITIONAL]] * len(prompts)),
    )


def build_scheduler(scheduler_config: Mapping[str, Any], sampler: SamplerName) -> Any:
    """Return diffusers' scheduler of a sampler, with what the model's own scheduler config says.

    Any config of diffusers will do (DDIM, PNDM, DPM-Solver, ...: their keys agree).

    Raises:
        ScheduleError: the config is of another kind than Stable Diffusion's.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    return _scheduler(DDIMScheduler if sampler == "ddim" else DPMSolverMultistepScheduler, scheduler_config)


def build_inverse_scheduler(scheduler_config: Mapping[str, Any]) -> Any:
    """Return diffusers' scheduler of DDIM run backwards; see ``build_scheduler``."""
    from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler

    return _scheduler(DDIMInverseScheduler, scheduler_config)


def edit_timesteps(scheduler: Any, config: SamplingConfig) -> list[int]:
    """Set a scheduler's timesteps and return those of an edit, falling: the last round(N * strength) of all.

    Raises:
        ScheduleError: the schedule has not that many steps.
    """
    whole = _set_timesteps(scheduler, config.num_inference_steps)
    begin = len(whole) - config.num_edit_steps
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return whole[begin:]


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
    new_noise: Callable[[], Tensor] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Return the edited latents: SDEdit (arXiv:2108.01073) from the noised source, with Eq. 13 where there is a mask.

    Args:
        model: the networks.
        source_latents: z_1, scaled.
        prompts: embeddings of the edit prompts and of the empty one.
        noise: eps, standard normal.
        config: strength, guidance, steps, sampler.
        latent_mask: M in [0, 1]; None edits everywhere.
        start: "noise" begins with eps alone, as in-painting at full strength and text-to-image do; the source inside
            the mask then has no influence.
        new_noise: gives new noise of the same shape; needed for ``blend_noise="fresh"``.

    Raises:
        ConfigError: fresh noise is asked for and cannot be had.
        ScheduleError: the model's schedule has not that many steps.
    """
    scheduler = build_scheduler(model.scheduler_config, config.sampler)
    timesteps = edit_timesteps(scheduler, config)
    if not timesteps:
        return source_latents
    noise_outside = new_noise if config.blend_noise == "fresh" else lambda: noise
    if noise_outside is None:
        raise ConfigError("blend_noise is 'fresh', which needs a function that gives noise")

    def kept(timestep: int | None) -> Tensor:
        return source_latents if timestep is None else add_noise(scheduler, source_latents, noise_outside(), timestep)

    latents = noise if start == "noise" else add_noise(scheduler, source_latents, noise, timesteps[0])
    return denoise(
        model, scheduler, latents, prompts, timesteps=timesteps, config=config, latent_mask=latent_mask, kept=kept
    )


@torch.inference_mode()
def denoise(
    model: LatentDiffusion,
    scheduler: Any,
    latents: Float[Tensor, "b c h w"],
    prompts: PromptEmbeds,
    *,
    timesteps: Sequence[int],
    config: SamplingConfig,
    latent_mask: Float[Tensor, "b 1 h w"] | None,
    kept: Kept,
) -> Float[Tensor, "b c h w"]:
    """Walk along ``timesteps``; after each step the part outside the mask is replaced by what is kept (Eq. 13).

    The replacement has the noise level that the step led *to*, and after the last step it is the clean source.
    """
    for timestep, following in zip(timesteps, (*timesteps[1:], None), strict=True):
        predicted = guided_prediction(model, latents, timestep, prompts, guidance_scale=config.guidance_scale)
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        if latent_mask is not None:
            latents = blend(latents, kept(following), latent_mask)
    return latents


def add_noise(
    scheduler: Any, latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], timestep: int
) -> Tensor:
    """Return latents noised to a timestep (Eq. 2), or to where the scheduler stands if it has taken a step."""
    return scheduler.add_noise(latents, noise, torch.full((len(latents),), timestep, device=latents.device))


def blend(edited: Tensor, source: Tensor, latent_mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h w"]:
    """Return M * z~ + (1 - M) * z^src (Eq. 13); where M is 0 or 1 the result is bit for bit one of the two."""
    mixed = latent_mask * edited + (1 - latent_mask) * source
    # A diverged latent outside the mask must not get in as 0 * inf.
    return torch.where(latent_mask == 0, source, torch.where(latent_mask == 1, edited, mixed))


def guided_prediction(
    model: LatentDiffusion,
    latents: Float[Tensor, "b c h w"],
    timestep: int,
    prompts: PromptEmbeds,
    *,
    guidance_scale: float,
) -> Float[Tensor, "b c h w"]:
    """Return e_u + g (e_c - e_u), both branches in one batch (arXiv:2207.12598); the conditional one for g <= 1."""
    if guidance_scale <= 1:
        return model.predict(latents, timestep, prompts.conditional)
    embeds = torch.cat([prompts.unconditional, prompts.conditional])
    unconditional, conditional = model.predict(torch.cat([latents, latents]), timestep, embeds).chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


def _scheduler(kind: Any, scheduler_config: Mapping[str, Any]) -> Any:
    check_schedule(scheduler_config)
    full = {**_LATENT_DEFAULTS, **scheduler_config, **_FIXED}
    known = inspect.signature(kind.__init__).parameters
    return kind(**{name: value for name, value in full.items() if name in known})


def _set_timesteps(scheduler: Any, num_inference_steps: int) -> list[int]:
    num_timesteps = scheduler.config.num_train_timesteps
    timesteps: list[int] = []
    if 1 <= num_inference_steps <= num_timesteps:
        scheduler.set_timesteps(num_inference_steps)
        timesteps = scheduler.timesteps.tolist()
    inside = {timestep for timestep in timesteps if 0 <= timestep < num_timesteps}
    # Trailing spacing is computed in floats by diffusers, and some numbers give one step too many, at timestep -1.
    if not inside or not len(inside) == len(timesteps) == num_inference_steps:
        raise ScheduleError(
            f"{type(scheduler).__name__} cannot take {num_inference_steps} steps on {num_timesteps} timesteps with "
            f"timestep_spacing={scheduler.config.timestep_spacing!r}: take another number"
        )
    return timesteps
