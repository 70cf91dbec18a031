"""Samplers are diffusers' schedulers with the model's own config: the same steps, from the middle too."""

from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from iedit_model.editing.sampling import add_noise, build_inverse_scheduler, build_scheduler, edit_timesteps
from iedit_model.editing.settings import SamplerName, SamplingConfig
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
SD21_CONFIG: dict[str, Any] = {
    **SD_CONFIG,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
NAMES: tuple[SamplerName, ...] = ("ddim", "dpmsolver++")


def theirs(name: str, config: dict[str, Any] = SD_CONFIG) -> Any:
    ddim: Any = DDIMScheduler.from_config(config)
    return ddim if name == "ddim" else DPMSolverMultistepScheduler.from_config(ddim.config)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", [SD_CONFIG, SD21_CONFIG], ids=["sd14", "sd21"])
@settings(deadline=None, max_examples=15)
@given(num_steps=st.integers(1, 120), share=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_each_step_is_the_one_of_diffusers_from_any_start(
    name: SamplerName, model: dict[str, Any], num_steps: int, share: float, seed: int
):
    scheduler = theirs(name, model)
    scheduler.set_timesteps(num_steps)
    assume(len(scheduler.timesteps) == num_steps)
    ours = build_scheduler(model, name)
    config = SamplingConfig(num_inference_steps=num_steps, strength=max(1 / num_steps, share), sampler=name)
    timesteps = edit_timesteps(ours, config)
    assert timesteps == scheduler.timesteps.tolist()[-config.num_edit_steps :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(num_steps - config.num_edit_steps)
    generator = torch.Generator().manual_seed(seed)
    found = expected = torch.randn(2, 4, 3, 3, generator=generator)
    for timestep in timesteps:
        predicted = torch.randn(2, 4, 3, 3, generator=generator)
        expected = scheduler.step(predicted, torch.tensor(timestep), expected).prev_sample
        found = ours.step(predicted, timestep, found).prev_sample
        assert torch.equal(found, expected)


def test_the_levels_are_those_of_the_schedule_and_the_last_one_is_almost_clean():
    table = alphas_cumprod()
    ddim = build_scheduler(SD_CONFIG, "ddim")
    timesteps = edit_timesteps(ddim, SamplingConfig(strength=1))
    assert timesteps[:2] == [981, 961]
    levels = [float(add_noise(ddim, torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), one)) ** 2 for one in timesteps]
    assert levels == pytest.approx([table[timestep] for timestep in timesteps], rel=1e-5)
    assert float(ddim.final_alpha_cumprod) == pytest.approx(table[0], rel=1e-6)
    solver = build_scheduler(SD_CONFIG, "dpmsolver++")
    edit_timesteps(solver, SamplingConfig(num_inference_steps=20))
    assert float(solver.sigmas[-1]) == 0


def test_ddim_backwards_is_the_inverse_scheduler_of_diffusers():
    inverse: Any = DDIMInverseScheduler.from_config(theirs("ddim").config)
    inverse.set_timesteps(10)
    ours = build_inverse_scheduler(SD_CONFIG)
    ours.set_timesteps(10)
    forward = edit_timesteps(build_scheduler(SD_CONFIG, "ddim"), SamplingConfig(num_inference_steps=10, strength=1))
    assert ours.timesteps.tolist() == inverse.timesteps.tolist() == forward[::-1]
    generator = torch.Generator().manual_seed(1)
    found = expected = torch.randn(1, 4, 3, 3, generator=generator)
    for timestep in inverse.timesteps:
        noise_pred = torch.randn(1, 4, 3, 3, generator=generator)
        expected = inverse.step(noise_pred, timestep, expected).prev_sample
        found = ours.step(noise_pred, int(timestep), found).prev_sample
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_with_the_true_noise_every_sampler_ends_at_the_source(name: SamplerName):
    source, noise = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(2))
    scheduler = build_scheduler(SD_CONFIG, name)
    timesteps = edit_timesteps(scheduler, SamplingConfig(num_inference_steps=7, strength=1, sampler=name))
    latents = add_noise(scheduler, source, noise, timesteps[0])
    for timestep in timesteps:
        latents = scheduler.step(noise, timestep, latents).prev_sample
    final = alphas_cumprod()[0] if name == "ddim" else 1.0
    # fp32 alphas of diffusers; going back from the first level multiplies their rounding by 13.
    torch.testing.assert_close(latents, final**0.5 * source + (1 - final) ** 0.5 * noise, rtol=1e-5, atol=2e-5)


def test_what_a_config_leaves_out_is_stable_diffusions_own():
    bare = {name: SD_CONFIG[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    config = build_scheduler(bare, "ddim").config
    assert (config.steps_offset, config.set_alpha_to_one, config.timestep_spacing) == (1, False, "leading")
    assert config.clip_sample is False
    assert float(build_scheduler({**bare, "set_alpha_to_one": True}, "ddim").final_alpha_cumprod) == 1


@pytest.mark.parametrize("name", NAMES)
def test_any_schedulers_config_will_do_and_a_sampler_stays_deterministic(name: SamplerName):
    pndm: Any = PNDMScheduler.from_config(SD_CONFIG)
    of_pndm = build_scheduler(pndm.config, name)
    stochastic = build_scheduler({**SD_CONFIG, "algorithm_type": "sde-dpmsolver++"}, name)
    for scheduler in (of_pndm, stochastic):
        assert torch.equal(scheduler.alphas_cumprod, theirs(name).alphas_cumprod)
        assert scheduler.config.get("algorithm_type", "dpmsolver++") == "dpmsolver++"


@pytest.mark.parametrize(
    ("change", "said"),
    [({"beta_schedule": "squaredcos_cap_v2"}, "squaredcos"), ({"prediction_type": "sample"}, "sample")],
)
def test_a_schedule_that_is_not_covered_is_refused(change: dict[str, Any], said: str):
    with pytest.raises(ScheduleError, match=said):
        build_scheduler({**SD_CONFIG, **change}, "ddim")


@pytest.mark.parametrize("num_steps", [997, 998])
def test_as_many_steps_as_there_are_timesteps_are_taken(num_steps: int):
    for name in NAMES:
        assert len(edit_timesteps(build_scheduler(SD_CONFIG, name), SamplingConfig(num_inference_steps=num_steps)))


@pytest.mark.parametrize(("name", "config"), [("ddim", {"num_train_timesteps": 9}), ("dpmsolver++", {})])
def test_more_steps_than_there_are_timesteps_are_refused(name: SamplerName, config: dict[str, Any]):
    num_steps = 999 if name == "dpmsolver++" else 10
    with pytest.raises(ScheduleError, match=str(num_steps)):
        edit_timesteps(
            build_scheduler({**SD_CONFIG, **config}, name), SamplingConfig(num_inference_steps=num_steps, sampler=name)
        )
