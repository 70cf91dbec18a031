"""DiffEdit's mask and inversion are diffusers' own, and equal prompts edit nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler

from iedit_model.editing.diffedit import ContrastConfig, DiffEditSpec, contrast_mask, diffedit_latents, invert
from iedit_model.editing.sampling import PromptEmbeds, SeededNoise, build_scheduler, edit_timesteps, embed_prompts
from iedit_model.editing.settings import SamplingConfig
from iedit_model.errors import ConfigError
from iedit_model.models.latent_diffusion import LatentDiffusionSpec
from iedit_model.models.source import ModelSource
from iedit_model.schedule import add_noise, alphas_cumprod_from_config
from tests.builders.editing_methods import WEIGHTS, mini_ldm, single_pairs

SAMPLING = SamplingConfig(num_inference_steps=10)
PAIR = single_pairs(3)[1]


@pytest.fixture(scope="module")
def source_latents() -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(PAIR.source.render())).permute(2, 0, 1)[None] / 127.5 - 1
    return mini_ldm().encode_images(pixels)


def test_the_mask_is_the_one_of_diffusers_threshold(source_latents: torch.Tensor):
    model = mini_ldm()
    prompts = embed_prompts(model, [PAIR.source.caption, PAIR.edit_prompt]).conditional
    draw = SeededNoise([3], shape=(4, 16, 16))
    mask = contrast_mask(
        model,
        source_latents,
        source_embeds=prompts[:1],
        edit_embeds=prompts[1:],
        new_noise=draw,
        sampling=SAMPLING,
        contrast=ContrastConfig(num_maps=4),
    )
    # Written out as in diffusers' generate_mask, guidance and all, for one image.
    again, unconditional = SeededNoise([3], shape=(4, 16, 16)), embed_prompts(model, [""]).conditional
    alphas = alphas_cumprod_from_config(model.scheduler_config)
    maps = []
    for _ in range(4):
        latents = add_noise(source_latents, again(), torch.tensor([401]), alphas)
        with torch.no_grad():
            empty, of_source, of_edit = (
                model.predict(latents, 401, embeds) for embeds in (unconditional, prompts[:1], prompts[1:])
            )
        guided = (empty + 7.5 * (of_edit - empty)) - (empty + 7.5 * (of_source - empty))
        maps.append(guided.abs())
    guidance_map = torch.stack(maps).mean(dim=(0, 2))
    clamp = guidance_map.mean() * 3.0
    expected = torch.where(guidance_map.minimum(clamp) / clamp <= 0.5, 0.0, 1.0)
    assert 0.02 < float(expected.mean()) < 0.6
    assert torch.equal(mask[:, 0], expected)


def test_the_inversion_is_the_one_of_diffusers_scheduler(source_latents: torch.Tensor):
    model = mini_ldm()
    embeds = embed_prompts(model, [PAIR.source.caption]).conditional
    inverted = invert(model, source_latents, embeds, sampling=SAMPLING)
    scheduler: Any = DDIMInverseScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(10)
    latents = source_latents
    for timestep in scheduler.timesteps[: SAMPLING.num_edit_steps]:
        with torch.no_grad():
            noise_pred = model.predict(latents, int(timestep), embeds)
        latents = scheduler.step(noise_pred, timestep, latents).prev_sample
        torch.testing.assert_close(inverted[int(timestep)], latents, rtol=1e-4, atol=1e-4)
    timesteps = edit_timesteps(build_scheduler(model.scheduler_config, "ddim"), SAMPLING)
    assert list(inverted) == [None, *reversed(timesteps)]
    assert torch.equal(inverted[None], source_latents)


def test_equal_prompts_have_no_contrast_and_leave_the_source(source_latents: torch.Tensor):
    model = mini_ldm()
    embeds = embed_prompts(model, [PAIR.source.caption]).conditional
    mask = contrast_mask(
        model,
        source_latents,
        source_embeds=embeds,
        edit_embeds=embeds.clone(),
        new_noise=SeededNoise([1], shape=(4, 16, 16)),
        sampling=SAMPLING,
        contrast=ContrastConfig(num_maps=2),
    )
    assert not mask.any()
    edited = diffedit_latents(
        model,
        source_latents,
        PromptEmbeds(conditional=embeds, unconditional=embeds),
        source_embeds=embeds,
        latent_mask=mask,
        sampling=SAMPLING,
    )
    assert torch.equal(edited, source_latents)


def test_inverting_and_denoising_with_the_same_words_nearly_gives_the_source_back(source_latents: torch.Tensor):
    model = mini_ldm()
    embeds = embed_prompts(model, [PAIR.source.caption]).conditional
    config = SamplingConfig(num_inference_steps=50, guidance_scale=1)
    everywhere = torch.ones(1, 1, 16, 16)
    edited = diffedit_latents(
        model,
        source_latents,
        PromptEmbeds(conditional=embeds, unconditional=embeds),
        source_embeds=embeds,
        latent_mask=everywhere,
        sampling=config,
    )
    error = float((edited - source_latents).square().mean() / source_latents.var())
    assert error < 0.05, error
    inverted = list(invert(model, source_latents, embeds, sampling=config).values())
    alphas = alphas_cumprod_from_config(model.scheduler_config)
    # One step of DDIM that takes everything for signal.
    wrong = (
        inverted[-1]
        * (alphas[0] / alphas[edit_timesteps(build_scheduler(model.scheduler_config, "ddim"), config)[0]]).sqrt()
    )
    assert float((wrong - source_latents).square().mean() / source_latents.var()) > 4 * error


@pytest.mark.parametrize("wrong", [{"num_maps": 0}, {"mask_strength": 0.0}, {"clamp_ratio": 0.0}, {"threshold": 1.0}])
def test_a_setting_that_cannot_be_is_named(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ContrastConfig(**wrong)


def test_another_sampler_than_ddim_is_refused():
    with pytest.raises(ConfigError, match="ddim"):
        DiffEditSpec(
            model=LatentDiffusionSpec(model=ModelSource(str(WEIGHTS / "ldm"))),
            sampling=SamplingConfig(sampler="dpmsolver++"),
        )
