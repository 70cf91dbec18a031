"""The noise schedule and Eq. 2, 3 and 7 against diffusers, a float64 twin and their own identities."""

from typing import cast

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from iedit_model.errors import IEditError, ScheduleError, TimestepError
from iedit_model.schedule import (
    add_noise,
    alphas_cumprod_from_config,
    min_snr_weight,
    predict_original,
    sample_timesteps,
    scaled_linear_alphas_cumprod,
    snr,
    target_noise,
)
from tests.references import iedit_equations as reference

ALPHAS = scaled_linear_alphas_cumprod()
CORNERS = torch.tensor([0, 1, 10, 500, 998, 999])
SD14 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def relative_error(ours: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(ours.double().numpy() - expected).max() / np.abs(expected).max())


def latents(
    seed: int, batch: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, two, noise = (torch.randn(batch, 4, 3, 5, generator=generator, dtype=dtype) for _ in range(3))
    return one, two, noise


def test_the_schedule_is_diffusers_bit_for_bit():
    assert torch.equal(ALPHAS, DDIMScheduler(**SD14).alphas_cumprod)


def test_the_schedule_is_the_float64_products():
    assert np.abs(ALPHAS.numpy() - np.array(reference.alphas_cumprod())).max() < 1e-6


def test_a_scheduler_config_gives_the_table_that_the_scheduler_holds():
    scheduler = PNDMScheduler(num_train_timesteps=200, **SD14)
    assert torch.equal(alphas_cumprod_from_config(scheduler.config), scheduler.alphas_cumprod)
    assert torch.equal(alphas_cumprod_from_config(SD14), ALPHAS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prediction_type": "v_prediction"}, "v_prediction"),
        ({"beta_schedule": "linear"}, "linear"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"trained_betas": [0.1]}, "trained_betas"),
        ({"beta_start": 0.5}, "0.5"),
        ({"num_train_timesteps": 0}, "0 steps"),
    ],
)
def test_a_schedule_that_the_equations_do_not_cover_is_refused(change, named):
    with pytest.raises(ScheduleError, match=named):
        alphas_cumprod_from_config({**SD14, **change})


def test_a_config_that_names_no_schedule_means_diffusers_default_and_is_refused():
    with pytest.raises(ScheduleError, match="linear"):
        alphas_cumprod_from_config({})


def test_adding_noise_is_diffusers_and_the_twins():
    z, _, noise = latents(0, len(CORNERS))
    ours = add_noise(z, noise, CORNERS, ALPHAS)
    theirs = DDIMScheduler(**SD14).add_noise(z, noise, cast("torch.IntTensor", CORNERS))
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
    for index, t in enumerate(CORNERS.tolist()):
        expected = reference.noised(z[index].double().numpy(), noise[index].double().numpy(), float(ALPHAS[t]))
        assert relative_error(ours[index], expected) < 1e-6


def test_the_target_noise_is_the_printed_equation_in_float64():
    z_1, z_2, noise = latents(1, len(CORNERS))
    ours = target_noise(noise, z_1, z_2, CORNERS, ALPHAS)
    for index, t in enumerate(CORNERS.tolist()):
        alpha = float(ALPHAS[t])
        noisy = reference.noised(z_1[index].double().numpy(), noise[index].double().numpy(), alpha)
        assert relative_error(ours[index], reference.target_noise(noisy, z_2[index].double().numpy(), alpha)) < 1e-5


def test_the_predicted_original_is_the_printed_equation_in_float64():
    noisy, _, noise_pred = latents(2, len(CORNERS))
    ours = predict_original(noisy, noise_pred, CORNERS, ALPHAS)
    for index, t in enumerate(CORNERS.tolist()):
        expected = reference.original(
            noisy[index].double().numpy(), noise_pred[index].double().numpy(), float(ALPHAS[t])
        )
        assert relative_error(ours[index], expected) < 1e-5


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_equal_latents_leave_the_noise_exactly_as_it_was(timesteps, seed):
    z, _, noise = latents(seed, len(timesteps))
    assert torch.equal(target_noise(noise, z, z, torch.tensor(timesteps), ALPHAS), noise)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_predicting_with_the_target_noise_returns_the_target(timesteps, seed):
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):  # fp32: eps/alpha_T rounding, times 14.6
        z_1, z_2, noise = latents(seed, len(timesteps), dtype)
        t = torch.tensor(timesteps)
        eps_2 = target_noise(noise, z_1, z_2, t, ALPHAS)
        found = predict_original(add_noise(z_1, noise, t, ALPHAS), eps_2, t, ALPHAS)
        assert torch.allclose(found, z_2, rtol=0, atol=tolerance)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0.01, 2000))
def test_min_snr_weighs_by_the_smaller_of_snr_and_gamma(t, gamma):
    alpha = float(ALPHAS[t])
    ratio = alpha / (1 - alpha)
    timesteps = torch.tensor([t])
    assert float(snr(timesteps, ALPHAS)) == pytest.approx(ratio, rel=1e-5)
    assert float(min_snr_weight(timesteps, ALPHAS, gamma=gamma)) == pytest.approx(min(ratio, gamma) / ratio, rel=1e-5)


def test_min_snr_of_pure_noise_is_one_and_a_gamma_of_zero_is_refused():
    assert float(min_snr_weight(torch.tensor([0]), torch.tensor([0.0]), gamma=5.0)) == 1.0
    for gamma in (0.0, -1.0, float("nan")):
        with pytest.raises(ScheduleError, match="gamma"):
            min_snr_weight(torch.tensor([0]), ALPHAS, gamma=gamma)


def test_half_precision_latents_are_computed_in_fp32():
    z_1, z_2, noise = latents(3, 2)
    t = torch.tensor([3, 900])
    noise, z_1, z_2 = noise.bfloat16(), z_1.bfloat16(), z_2.bfloat16()
    ours = target_noise(noise, z_1, z_2, t, ALPHAS)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, target_noise(noise.float(), z_1.float(), z_2.float(), t, ALPHAS))


def test_timesteps_cover_the_range_and_nothing_else_and_follow_the_seed():
    drawn = sample_timesteps(4000, t_min=400, t_max=420, generator=torch.Generator().manual_seed(5))
    assert sorted(set(drawn.tolist())) == list(range(400, 420))
    counts = torch.bincount(drawn - 400)
    assert counts.min() > 130  # 200 expected, standard deviation 14
    assert torch.equal(drawn, sample_timesteps(4000, t_min=400, t_max=420, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize(("t_min", "t_max"), [(-1, 10), (10, 10), (11, 10)])
def test_an_impossible_range_of_timesteps_is_refused(t_min, t_max):
    with pytest.raises(TimestepError, match=str(t_min)):
        sample_timesteps(2, t_min=t_min, t_max=t_max, generator=torch.Generator())


@pytest.mark.parametrize("t", [-1, 1000])
def test_a_timestep_outside_the_table_is_refused_rather_than_wrapped(t):
    z, _, noise = latents(4, 1)
    with pytest.raises(TimestepError, match=str(t)) as caught:
        add_noise(z, noise, torch.tensor([t]), ALPHAS)
    assert isinstance(caught.value, IEditError)


def test_the_gradient_of_the_original_is_minus_the_root_of_one_over_snr():
    noisy, _, _ = latents(6, 3, torch.float64)
    noise_pred = torch.zeros_like(noisy, requires_grad=True)
    t = torch.tensor([0, 500, 999])
    predict_original(noisy, noise_pred, t, ALPHAS).sum().backward()
    assert noise_pred.grad is not None
    alpha = ALPHAS[t].double()
    expected = -((1 - alpha) / alpha).sqrt().view(-1, 1, 1, 1).expand_as(noisy)
    assert torch.allclose(noise_pred.grad, expected, rtol=1e-12)
