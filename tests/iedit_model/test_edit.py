"""Sampling of edits: Eq. 13 against a float64 twin, the source outside the mask to the bit, rows that stay apart."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from iedit_model.editing.sampling import (
    PromptEmbeds,
    SeededNoise,
    blend,
    build_scheduler,
    edit_latents,
    edit_timesteps,
    guided_prediction,
)
from iedit_model.editing.settings import SamplingConfig
from iedit_model.errors import ConfigError
from iedit_model.models.latent_diffusion import LatentDiffusion
from tests.builders.tiny_models import LATENT_SHAPE, PROMPT_SHAPE, tiny_unet, tiny_vae
from tests.references.editing_equations import edited_latents

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def model_of(unet: Any) -> LatentDiffusion:
    return LatentDiffusion(unet=unet, vae=tiny_vae(), text_encoder=None, tokenizer=None, scheduler_config=SCHEDULE)


MODEL = model_of(tiny_unet().eval().requires_grad_(requires_grad=False))


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompts(seed: int, rows: int) -> PromptEmbeds:
    return PromptEmbeds(
        conditional=drawn(seed, rows, *PROMPT_SHAPE), unconditional=drawn(seed + 1, rows, *PROMPT_SHAPE)
    )


def some_mask(rows: int) -> Tensor:
    mask = torch.zeros(rows, 1, *LATENT_SHAPE[1:])
    mask[:, :, 2:6, 1:5] = 1
    return mask


class Counting(nn.Module):
    """A UNet that counts the images it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MODEL.unet
        self.config, self.device, self.num_images = MODEL.unet.config, torch.device("cpu"), 0

    def forward(self, latents: Tensor, timestep: int, *, encoder_hidden_states: Tensor) -> Any:
        self.num_images += len(latents)
        return self.inner(latents, timestep, encoder_hidden_states=encoder_hidden_states)


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("kind", ["none", "binary", "soft"])
def test_an_edit_is_that_of_the_float64_twin(strength: float, kind: str):
    source, noise, words = drawn(1, 2, *LATENT_SHAPE), drawn(2, 2, *LATENT_SHAPE), prompts(3, 2)
    mask = {
        "none": None,
        "binary": some_mask(2),
        "soft": torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(5)),
    }[kind]
    config = SamplingConfig(strength=strength, guidance_scale=3.0, num_inference_steps=10)
    exact: Any = tiny_unet().eval().double()

    @torch.no_grad()
    def predict(latents: np.ndarray, timestep: int) -> tuple[np.ndarray, np.ndarray]:
        given = torch.from_numpy(latents)
        both = [
            exact(given, timestep, encoder_hidden_states=embeds.double()).sample.numpy()
            for embeds in (words.unconditional, words.conditional)
        ]
        return both[0], both[1]

    ours = edit_latents(MODEL, source, words, noise=noise, config=config, latent_mask=mask)
    twin = edited_latents(
        predict,
        source.double().numpy(),
        noise.double().numpy(),
        mask=None if mask is None else mask.double().numpy(),
        strength=strength,
        guidance_scale=3.0,
        num_inference_steps=10,
    )
    error = np.abs(ours.double().numpy() - twin).max() / np.abs(twin).max()
    assert error < 1e-5, error


def test_outside_the_mask_the_latents_are_the_sources_to_the_bit_and_inside_they_are_not():
    source, mask = drawn(1, 2, *LATENT_SHAPE), some_mask(2)
    for sampler in ("ddim", "dpmsolver++"):
        config = SamplingConfig(num_inference_steps=6, sampler=sampler)
        edited = edit_latents(
            MODEL, source, prompts(3, 2), noise=drawn(2, 2, *LATENT_SHAPE), config=config, latent_mask=mask
        )
        outside = (mask == 0).expand_as(source)
        assert torch.equal(edited[outside], source[outside])
        assert float((edited - source)[~outside].abs().min()) > 0


def test_a_mask_of_ones_is_no_mask_and_a_mask_of_zeros_is_the_source():
    source, noise, words = drawn(1, 1, *LATENT_SHAPE), drawn(2, 1, *LATENT_SHAPE), prompts(3, 1)
    config = SamplingConfig(num_inference_steps=6)
    plain = edit_latents(MODEL, source, words, noise=noise, config=config)
    ones = torch.ones(1, 1, 8, 8)
    assert torch.equal(edit_latents(MODEL, source, words, noise=noise, config=config, latent_mask=ones), plain)
    assert torch.equal(edit_latents(MODEL, source, words, noise=noise, config=config, latent_mask=0 * ones), source)
    assert not torch.equal(plain, source)


def test_a_latent_that_diverged_outside_the_mask_does_not_get_in():
    broken = torch.full((1, 4, 2, 2), float("inf"))
    source = torch.ones(1, 4, 2, 2)
    assert torch.equal(blend(broken, source, torch.zeros(1, 1, 2, 2)), source)


def test_strength_zero_returns_the_source_and_asks_the_unet_nothing():
    unet = Counting()
    source = drawn(1, 1, *LATENT_SHAPE)
    config = SamplingConfig(strength=0)
    assert torch.equal(edit_latents(model_of(unet), source, prompts(3, 1), noise=source, config=config), source)
    assert unet.num_images == 0 == config.num_unet_evaluations


@pytest.mark.parametrize(("guidance", "sampler"), [(7.5, "ddim"), (1.0, "ddim"), (7.5, "dpmsolver++")])
def test_the_stated_number_of_unet_evaluations_is_the_real_one(guidance: float, sampler: Any):
    unet = Counting()
    config = SamplingConfig(num_inference_steps=9, guidance_scale=guidance, sampler=sampler)
    source = drawn(1, 3, *LATENT_SHAPE)
    edit_latents(model_of(unet), source, prompts(3, 3), noise=source, config=config)
    assert unet.num_images == 3 * config.num_unet_evaluations


@pytest.mark.parametrize(
    ("num_steps", "strength", "expected"),
    [(50, 0.7, 35), (50, 0.58, 29), (100, 0.57, 57), (50, 0.01, 0), (50, 0.02, 1), (50, 1.0, 50), (20, 0.675, 14)],
)
def test_the_start_is_at_the_rounded_share_of_the_steps(num_steps: int, strength: float, expected: int):
    # int(50 * 0.58) is 28 and int(100 * 0.57) is 56, since the products lie just below.
    config = SamplingConfig(num_inference_steps=num_steps, strength=strength)
    timesteps = edit_timesteps(build_scheduler(SCHEDULE, "ddim"), config)
    assert (config.num_edit_steps, len(timesteps)) == (expected, expected)


def test_guidance_of_one_is_the_conditional_prediction_and_of_zero_strength_none():
    latents, words = drawn(1, 2, *LATENT_SHAPE), prompts(3, 2)
    conditional = MODEL.predict(latents, 500, words.conditional)
    unconditional = MODEL.predict(latents, 500, words.unconditional)
    assert torch.equal(guided_prediction(MODEL, latents, 500, words, guidance_scale=1.0), conditional)
    torch.testing.assert_close(
        guided_prediction(MODEL, latents, 500, words, guidance_scale=4.0),
        4 * conditional - 3 * unconditional,
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_result_does_not_depend_on_its_batch_mates():
    source, noise, words = drawn(1, 3, *LATENT_SHAPE), drawn(2, 3, *LATENT_SHAPE), prompts(3, 3)
    config = SamplingConfig(num_inference_steps=10)
    together = edit_latents(MODEL, source, words, noise=noise, config=config, latent_mask=some_mask(3))
    for row in range(3):
        one = slice(row, row + 1)
        alone = edit_latents(
            MODEL,
            source[one],
            PromptEmbeds(conditional=words.conditional[one], unconditional=words.unconditional[one]),
            noise=noise[one],
            config=config,
            latent_mask=some_mask(1),
        )
        # Another batch size sums in another order; guidance 7.5 over 7 steps multiplies those last bits.
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-4)


def test_fresh_noise_is_drawn_anew_at_each_step_and_leaves_the_outside_the_source():
    draws: list[Tensor] = []

    def draw() -> Tensor:
        draws.append(drawn(len(draws), 1, *LATENT_SHAPE))
        return draws[-1]

    source, mask = drawn(1, 1, *LATENT_SHAPE), some_mask(1)
    config = SamplingConfig(num_inference_steps=5, strength=1, blend_noise="fresh")
    fresh = edit_latents(MODEL, source, prompts(3, 1), noise=draw(), config=config, latent_mask=mask, new_noise=draw)
    fixed = edit_latents(
        MODEL,
        source,
        prompts(3, 1),
        noise=draws[0],
        config=SamplingConfig(num_inference_steps=5, strength=1),
        latent_mask=mask,
    )
    assert len(draws) == 5  # the start and four steps; after the last one the clean source is put back
    outside = (mask == 0).expand_as(source)
    assert torch.equal(fresh[outside], source[outside])
    assert not torch.equal(fresh, fixed)
    with pytest.raises(ConfigError, match="fresh"):
        edit_latents(MODEL, source, prompts(3, 1), noise=draws[0], config=config)


def test_started_from_noise_the_source_inside_the_mask_has_no_say():
    noise, words, mask = drawn(2, 1, *LATENT_SHAPE), prompts(3, 1), some_mask(1)
    config = SamplingConfig(num_inference_steps=5, strength=1)
    source = drawn(1, 1, *LATENT_SHAPE)
    other = source + 5 * mask

    def edited(latents: Tensor, start: Any) -> Tensor:
        return edit_latents(MODEL, latents, words, noise=noise, config=config, latent_mask=mask, start=start)

    assert torch.equal(edited(source, "noise"), edited(other, "noise"))
    assert not torch.equal(edited(source, "source"), edited(other, "source"))


def test_noise_depends_on_its_own_seed_alone():
    both = SeededNoise([7, 8], shape=LATENT_SHAPE)
    first, second = both(), both()
    alone = SeededNoise([8], shape=LATENT_SHAPE)
    assert torch.equal(first[1:], alone())
    assert torch.equal(second[1:], alone())
    assert not torch.equal(first[0], first[1])
    assert abs(float(SeededNoise([3], shape=(4, 64, 64))().std()) - 1) < 0.02


@pytest.mark.parametrize(
    "wrong",
    [
        {"strength": 1.1},
        {"strength": float("nan")},
        {"guidance_scale": -1.0},
        {"num_inference_steps": 0},
        {"num_inference_steps": 1000},
        {"sampler": "euler"},
        {"blend_noise": "none"},
    ],
)
def test_a_setting_out_of_its_range_is_named(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SamplingConfig(**wrong)
