"""Our samplers give diffusers' numbers: the same timesteps, the same latents, also when they start in the middle."""

from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DPMSolverMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from iedit_model.editing.samplers import (
    NoiseSchedule,
    SamplerName,
    build_sampler,
    ddim_step,
    noise_schedule_from_config,
    trajectory,
)
from iedit_model.errors import ScheduleError
from tests.references.editing_equations import alphas_cumprod

SD_CONFIG: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
SCHEDULE = noise_schedule_from_config(SD_CONFIG)
NAMES: tuple[SamplerName, ...] = ("ddim", "dpmsolver++")


def theirs(name: str) -> Any:
    ddim: Any = DDIMScheduler.from_config(SD_CONFIG)
    return ddim if name == "ddim" else DPMSolverMultistepScheduler.from_config(ddim.config)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=15)
@given(num_steps=st.integers(1, 120), share=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_each_step_is_the_one_of_diffusers_from_any_start(name: SamplerName, num_steps: int, share: float, seed: int):
    scheduler = theirs(name)
    scheduler.set_timesteps(num_steps)
    whole = trajectory(SCHEDULE, sampler=name, num_inference_steps=num_steps)
    assert whole.timesteps == tuple(scheduler.timesteps.tolist())
    num_taken = max(1, round(num_steps * share))
    steps = whole.last(num_taken)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(num_steps - num_taken)
    generator = torch.Generator().manual_seed(seed)
    ours = expected = torch.randn(2, 4, 3, 3, generator=generator)
    sampler = build_sampler(name, steps)
    for timestep in steps.timesteps:
        noise_pred = torch.randn(2, 4, 3, 3, generator=generator)
        expected = scheduler.step(noise_pred, torch.tensor(timestep), expected).prev_sample
        ours = sampler.step(ours, noise_pred)
        # Both are fp32 sums of a few products; the latents grow to hundreds with noise that fits nothing.
        torch.testing.assert_close(ours, expected, rtol=2e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_levels_are_those_of_the_schedule_and_the_last_one_is_almost_clean():
    table = alphas_cumprod()
    steps = trajectory(SCHEDULE, sampler="ddim", num_inference_steps=50)
    assert steps.timesteps[:2] == (981, 961)
    assert steps.alphas[:-1] == pytest.approx([table[timestep] for timestep in steps.timesteps], rel=1e-5)
    assert steps.alphas[-1] == pytest.approx(table[0], rel=1e-6)
    assert trajectory(SCHEDULE, sampler="dpmsolver++", num_inference_steps=20).alphas[-1] == 1


def test_ddim_backwards_is_the_inverse_scheduler_of_diffusers():
    inverse: Any = DDIMInverseScheduler.from_config(theirs("ddim").config)
    inverse.set_timesteps(10)
    steps = trajectory(SCHEDULE, sampler="ddim", num_inference_steps=10)
    generator = torch.Generator().manual_seed(1)
    ours = expected = torch.randn(1, 4, 3, 3, generator=generator)
    alphas = steps.alphas[::-1]
    assert [int(timestep) for timestep in inverse.timesteps] == list(steps.timesteps[::-1])
    for position, timestep in enumerate(inverse.timesteps):
        noise_pred = torch.randn(1, 4, 3, 3, generator=generator)
        expected = inverse.step(noise_pred, timestep, expected).prev_sample
        ours = ddim_step(ours, noise_pred, alpha=alphas[position], next_alpha=alphas[position + 1])
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_with_the_true_noise_every_sampler_ends_at_the_source(name: SamplerName):
    source, noise = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(2)).double()
    steps = trajectory(SCHEDULE, sampler=name, num_inference_steps=7)
    alpha = steps.alphas[0]
    latents = alpha**0.5 * source + (1 - alpha) ** 0.5 * noise
    sampler = build_sampler(name, steps)
    for _ in steps.timesteps:
        latents = sampler.step(latents, noise)
    final = steps.alphas[-1]
    torch.testing.assert_close(latents, final**0.5 * source + (1 - final) ** 0.5 * noise, rtol=1e-9, atol=1e-9)


def test_what_a_config_leaves_out_is_stable_diffusions_own():
    bare = {name: SD_CONFIG[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    schedule = noise_schedule_from_config(bare)
    assert (schedule.steps_offset, schedule.final_alpha) == (1, None)
    assert noise_schedule_from_config({**bare, "set_alpha_to_one": True}).final_alpha == 1
    assert isinstance(schedule, NoiseSchedule)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"timestep_spacing": "trailing"}, "trailing"), ({"prediction_type": "v_prediction"}, "v_pred")],
)
def test_a_schedule_that_is_not_covered_is_refused(change: dict[str, Any], said: str):
    with pytest.raises(ScheduleError, match=said):
        noise_schedule_from_config({**SD_CONFIG, **change})


@pytest.mark.parametrize("num_steps", [0, -3, 1000, 1001])
@pytest.mark.parametrize("name", NAMES)
def test_more_steps_than_there_are_timesteps_are_refused(name: SamplerName, num_steps: int):
    with pytest.raises(ScheduleError, match=str(num_steps)):
        trajectory(SCHEDULE, sampler=name, num_inference_steps=num_steps)
