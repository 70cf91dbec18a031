"""Samplers: at which timesteps the UNet is asked, and how latents move from one noise level to the next.

A noise level is named by its alpha (the cumulative product). DDIM is arXiv:2010.02502 with eta = 0; DPM-Solver++(2M) is
arXiv:2211.01095, second order, multistep, midpoint. Both give diffusers' numbers. Axis names: b = batch, c = latent
channels, h w = latent height and width, T = training timesteps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from iedit_model.editing.settings import SamplerName
from iedit_model.errors import ScheduleError
from iedit_model.schedule import alphas_cumprod_from_config

# Stable Diffusion's own values, for configs that leave them out; diffusers' defaults are those of pixel models.
_LATENT_DEFAULTS: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseSchedule:
    """The noise schedule of a model, as its scheduler's config tells it."""

    alphas_cumprod: Float[Tensor, " T"]
    """fp32, on the CPU."""
    steps_offset: int = 1
    """Added to every timestep, so that sampling ends at 1 and not at 0."""
    final_alpha: float | None = None
    """Level that DDIM's last step leads to; None is that of timestep 0."""


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The steps of one sampling, from noisy to clean."""

    timesteps: tuple[int, ...]
    """Where the UNet is asked, falling."""
    alphas: tuple[float, ...]
    """The noise level at each timestep, and last the one that the last step leads to: one more than timesteps."""

    def last(self, num_steps: int) -> "Trajectory":
        """Return the last ``num_steps`` steps, where image editing starts."""
        first = len(self.timesteps) - num_steps
        return Trajectory(timesteps=self.timesteps[first:], alphas=self.alphas[first:])


class Sampler(Protocol):
    """Walks along one trajectory; a new one is needed for each."""

    def step(self, latents: Float[Tensor, "b c h w"], noise_pred: Float[Tensor, "b c h w"], /) -> Tensor:
        """Return the latents at the next noise level, fp32."""
        ...


def noise_schedule_from_config(config: Mapping[str, Any]) -> NoiseSchedule:
    """Return the schedule of a diffusers scheduler's config (DDIM, PNDM, DPM-Solver, ...: their keys agree).

    ``clip_sample`` is passed over: latents are not bounded, and diffusers has it on by default for pixels' sake.

    Raises:
        ScheduleError: the model does not predict noise, or the schedule is of another kind than Stable Diffusion v1's.
    """
    full = {**_LATENT_DEFAULTS, **config}
    if full["timestep_spacing"] != "leading":
        raise ScheduleError(
            f"the scheduler has timestep_spacing={full['timestep_spacing']!r}; editing is written for 'leading'"
        )
    return NoiseSchedule(
        alphas_cumprod=alphas_cumprod_from_config(config),
        steps_offset=int(full["steps_offset"]),
        final_alpha=1.0 if full["set_alpha_to_one"] else None,
    )


def trajectory(schedule: NoiseSchedule, *, sampler: SamplerName, num_inference_steps: int) -> Trajectory:
    """Return all steps from pure noise to the image.

    DDIM's last step leads to timestep 0, DPM-Solver++'s to no noise at all, as in diffusers.

    Raises:
        ScheduleError: more steps than training timesteps, or none.
    """
    num_timesteps = len(schedule.alphas_cumprod)
    if sampler == "ddim":
        stride, first = num_timesteps // max(1, num_inference_steps), 0
    else:
        stride, first = num_timesteps // (max(0, num_inference_steps) + 1), 1
    if num_inference_steps < 1 or stride < 1:
        raise ScheduleError(f"{sampler} cannot take {num_inference_steps} steps; expected 1 to {num_timesteps - first}")
    ascending = [(index + first) * stride + schedule.steps_offset for index in range(num_inference_steps)]
    if ascending[-1] >= num_timesteps:
        raise ScheduleError(
            f"{num_inference_steps} steps of {sampler} reach timestep {ascending[-1]} of {num_timesteps}: take fewer"
        )
    table: list[float] = schedule.alphas_cumprod.tolist()
    ddim_final = table[0] if schedule.final_alpha is None else schedule.final_alpha
    final = ddim_final if sampler == "ddim" else 1.0
    timesteps = tuple(reversed(ascending))
    return Trajectory(timesteps=timesteps, alphas=(*(table[timestep] for timestep in timesteps), final))


def build_sampler(name: SamplerName, steps: Trajectory) -> Sampler:
    """Return a sampler that stands at the beginning of ``steps``."""
    return _Ddim(steps) if name == "ddim" else _DpmSolver(steps)


def ddim_step(
    latents: Float[Tensor, "b c h w"], noise_pred: Float[Tensor, "b c h w"], *, alpha: float, next_alpha: float
) -> Float[Tensor, "b c h w"]:
    """Move latents from one noise level to another along the predicted noise (DDIM Eq. 12, eta = 0).

    A ``next_alpha`` below ``alpha`` adds noise instead: DDIM inversion.
    """
    original = _original(latents, noise_pred, alpha)
    return next_alpha**0.5 * original + (1 - next_alpha) ** 0.5 * noise_pred


class _Ddim:
    def __init__(self, steps: Trajectory) -> None:
        self._levels = iter(zip(steps.alphas, steps.alphas[1:], strict=False))

    def step(self, latents: Float[Tensor, "b c h w"], noise_pred: Float[Tensor, "b c h w"], /) -> Tensor:
        alpha, next_alpha = next(self._levels)
        return ddim_step(latents, noise_pred, alpha=alpha, next_alpha=next_alpha)


class _DpmSolver:
    """DPM-Solver++(2M); of first order where no earlier step is there yet, and where the next level has no noise."""

    def __init__(self, steps: Trajectory) -> None:
        self._alphas = torch.tensor(steps.alphas, dtype=torch.float64)
        self._position = 0
        self._earlier: Tensor | None = None

    def step(self, latents: Float[Tensor, "b c h w"], noise_pred: Float[Tensor, "b c h w"], /) -> Tensor:
        at = self._position
        original = _original(latents, noise_pred, float(self._alphas[at]))
        earlier, self._earlier = self._earlier, original
        self._position += 1
        if float(self._alphas[at + 1]) == 1:
            return original
        log_snr = (self._alphas / (1 - self._alphas)).log() / 2
        noise_ratio = float(((1 - self._alphas[at + 1]) / (1 - self._alphas[at])).sqrt())
        gain = float(self._alphas[at + 1].sqrt() * -torch.expm1(log_snr[at] - log_snr[at + 1]))
        if earlier is None:
            return noise_ratio * latents + gain * original
        lengths = log_snr[1:] - log_snr[:-1]
        slope = float(lengths[at] / lengths[at - 1]) * (original - earlier)
        return noise_ratio * latents + gain * (original + 0.5 * slope)


def _original(latents: Tensor, noise_pred: Tensor, alpha: float) -> Tensor:
    return (latents - (1 - alpha) ** 0.5 * noise_pred) / alpha**0.5
