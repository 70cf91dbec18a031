"""Noise schedule of the latent diffusion model and the paper's Eq. 2, 3 and 7.

Symbols: alpha_t of the paper (the DDIM authors' notation) is ``alphas_cumprod[t]``; z_1 are ``source_latents``, z_2
``target_latents``, eps_1 is ``noise``, eps_2 ``target_noise``; SNR(t) = alpha_t / (1 - alpha_t). Timesteps are integer
indices 0 ... T-1. Axis names: b = batch, c = latent channels, h w = latent height and width, T = training timesteps.

Everything here is computed in fp32 or better, whatever precision the networks run in: sqrt(SNR) reaches 34 at t = 0.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iedit_model.errors import ScheduleError, TimestepError

PredictionType = Literal["epsilon", "v_prediction"]
"""What the UNet predicts: the noise eps, or the velocity v = sqrt(alpha_t) eps - sqrt(1 - alpha_t) z (Salimans and Ho
2022, arXiv:2202.00512), as Stable Diffusion 2.1 does."""

# What diffusers' schedulers take where a config says nothing; configs of the v1 models leave some of it out.
_DIFFUSERS_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}
_COVERED: dict[str, Any] = {"beta_schedule": "scaled_linear", "trained_betas": None}


def at_least_fp32(values: Tensor) -> Tensor:
    """Return ``values`` in fp32, or unchanged where they are in fp64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


_MAX_STEPS: Final = 100_000
"""More would only cost memory: Stable Diffusion has 1000."""


def check_schedule(config: Mapping[str, Any]) -> None:
    """Refuse a diffusers scheduler's config that the equations do not cover.

    Raises:
        ScheduleError: another kind of schedule than Stable Diffusion's, a prediction that is neither noise nor
            velocity, or noise at a level without any signal, which says nothing about the image.
    """
    full = {**_DIFFUSERS_DEFAULTS, **config}
    for key, expected in _COVERED.items():
        if full[key] != expected:
            raise ScheduleError(f"the scheduler has {key}={full[key]!r}; iEdit's equations are for {key}={expected!r}")
    if full["prediction_type"] not in get_args(PredictionType):
        raise ScheduleError(
            f"the scheduler has prediction_type={full['prediction_type']!r}, expected one of "
            f"{', '.join(get_args(PredictionType))}"
        )
    if full["rescale_betas_zero_snr"] and full["prediction_type"] == "epsilon":
        raise ScheduleError(
            "the scheduler has rescale_betas_zero_snr with prediction_type='epsilon': at the last timestep there is "
            "no signal, and noise says nothing about the image; expected prediction_type='v_prediction'"
        )
    steps, start, end = full["num_train_timesteps"], full["beta_start"], full["beta_end"]
    are_numbers = type(steps) is int and {type(start), type(end)} <= {int, float}
    if not are_numbers or not 1 <= steps <= _MAX_STEPS or not 0 < start <= end < 1:
        raise ScheduleError(
            f"a schedule of {steps!r:.40} steps with betas {start!r:.40} to {end!r:.40} cannot be built: expected 1 to "
            f"{_MAX_STEPS} steps and 0 < beta_start <= beta_end < 1"
        )


def alphas_cumprod_from_config(config: Mapping[str, Any]) -> Float[Tensor, " T"]:
    """Return ``alphas_cumprod`` of a diffusers scheduler's config, fp32 on the CPU, as diffusers computes it.

    Raises:
        ScheduleError: see ``check_schedule``.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    check_schedule(config)
    kept = {name: config[name] for name in _DIFFUSERS_DEFAULTS if name in config}
    return DDIMScheduler(**kept).alphas_cumprod


def prediction_type(config: Mapping[str, Any]) -> PredictionType:
    """Return what the UNet of a diffusers scheduler's config predicts.

    Raises:
        ScheduleError: see ``check_schedule``.
    """
    check_schedule(config)
    return config.get("prediction_type", "epsilon")


def sample_timesteps(
    batch_size: int, *, t_min: int = 0, t_max: int = 1000, generator: torch.Generator
) -> Int[Tensor, " b"]:
    """Sample timesteps uniformly from [t_min, t_max), on the generator's device.

    Raises:
        TimestepError: the range is empty or starts below 0.
    """
    if not 0 <= t_min < t_max:
        raise TimestepError(f"no timestep lies in [{t_min}, {t_max}); expected 0 <= t_min < t_max")
    return torch.randint(t_min, t_max, (batch_size,), generator=generator, device=generator.device)


def snr(timesteps: Int[Tensor, " b"], alphas_cumprod: Float[Tensor, " T"]) -> Float[Tensor, " b"]:
    """Return the signal-to-noise ratio alpha_t / (1 - alpha_t).

    Raises:
        TimestepError: a timestep lies outside [0, T).
    """
    alpha = _alpha(timesteps, alphas_cumprod)
    return alpha / (1 - alpha)


def min_snr_weight(
    timesteps: Int[Tensor, " b"],
    alphas_cumprod: Float[Tensor, " T"],
    *,
    gamma: float,
    prediction: PredictionType = "epsilon",
) -> Float[Tensor, " b"]:
    """Return min(SNR, gamma) / SNR, the weight of a noise loss (Hang et al. 2023, arXiv:2303.09556).

    It is 1 where SNR <= gamma, also for SNR = 0, and falls as gamma / SNR towards t = 0. A velocity loss already weighs
    SNR + 1 times as much, so that there the weight is min(SNR, gamma) / (SNR + 1). The paper has no such weight.

    Raises:
        ScheduleError: gamma is not positive.
        TimestepError: a timestep lies outside [0, T).
    """
    if not gamma > 0:
        raise ScheduleError(f"min-SNR gamma is {gamma}, expected a positive number")
    ratio = snr(timesteps, alphas_cumprod)
    if prediction == "v_prediction":
        return ratio.clamp(max=gamma) / (ratio + 1)
    return (gamma / ratio).clamp(max=1)


def add_noise(
    latents: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    alphas_cumprod: Float[Tensor, " T"],
) -> Float[Tensor, "b c h w"]:
    """Diffuse ``latents`` to ``timesteps``: z_t = sqrt(alpha_t) z_1 + sqrt(1 - alpha_t) eps_1 (Eq. 2).

    Raises:
        TimestepError: a timestep lies outside [0, T).
    """
    latents = at_least_fp32(latents)
    alpha = _alpha(timesteps, alphas_cumprod).to(latents.dtype).view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def target_noise(
    noise: Float[Tensor, "b c h w"],
    source_latents: Float[Tensor, "b c h w"],
    target_latents: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    alphas_cumprod: Float[Tensor, " T"],
) -> Float[Tensor, "b c h w"]:
    """Return the noise that leads from the noised source to the target: eps_2 = eps_1 + sqrt(SNR(t)) (z_1 - z_2).

    Eq. 3, (z_t - sqrt(alpha_t) z_2) / sqrt(1 - alpha_t), with Eq. 2 put in: nothing is added first and taken off again,
    so that equal latents give exactly ``noise``.

    Raises:
        TimestepError: a timestep lies outside [0, T).
    """
    difference = at_least_fp32(source_latents) - at_least_fp32(target_latents)
    alpha = _alpha(timesteps, alphas_cumprod).to(difference.dtype).view(-1, 1, 1, 1)
    return noise + (alpha / (1 - alpha)).sqrt() * difference


def prediction_target(
    latents: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    alphas_cumprod: Float[Tensor, " T"],
    prediction: PredictionType = "epsilon",
) -> Float[Tensor, "b c h w"]:
    """Return what the UNet should say of latents under this noise: the noise, or sqrt(alpha_t) eps - sqrt(1-alpha_t) z.

    Raises:
        TimestepError: a timestep lies outside [0, T).
    """
    if prediction == "epsilon":
        return noise
    latents = at_least_fp32(latents)
    alpha = _alpha(timesteps, alphas_cumprod).to(latents.dtype).view(-1, 1, 1, 1)
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def predict_original(
    noisy_latents: Float[Tensor, "b c h w"],
    predicted: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    alphas_cumprod: Float[Tensor, " T"],
    prediction: PredictionType = "epsilon",
) -> Float[Tensor, "b c h w"]:
    """Return the clean latents that a prediction implies: (z_t - sqrt(1 - alpha_t) eps) / sqrt(alpha_t) (Eq. 7).

    For a velocity they are sqrt(alpha_t) z_t - sqrt(1 - alpha_t) v, which is defined without any signal, too. An error
    of a predicted noise is multiplied by sqrt(1 / SNR): 0.03 at t = 0, 14.6 at t = 999; one of a velocity by 1 or less.

    Raises:
        TimestepError: a timestep lies outside [0, T).
    """
    noisy_latents = at_least_fp32(noisy_latents)
    alpha = _alpha(timesteps, alphas_cumprod).to(noisy_latents.dtype).view(-1, 1, 1, 1)
    if prediction == "v_prediction":
        return alpha.sqrt() * noisy_latents - (1 - alpha).sqrt() * predicted
    return (noisy_latents - (1 - alpha).sqrt() * predicted) / alpha.sqrt()


def _alpha(timesteps: Int[Tensor, " b"], alphas_cumprod: Float[Tensor, " T"]) -> Float[Tensor, " b"]:
    # On a GPU this look at the values would make the host wait in every step; there an index outside the table fails
    # by itself. On a CPU a negative one would silently count from the end.
    if timesteps.device.type == "cpu" and timesteps.numel():
        low, high = int(timesteps.min()), int(timesteps.max())
        if low < 0 or high >= len(alphas_cumprod):
            raise TimestepError(f"timesteps span {low} to {high}, expected them in [0, {len(alphas_cumprod)})")
    return at_least_fp32(alphas_cumprod)[timesteps]
