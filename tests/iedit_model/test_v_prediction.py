"""Stable Diffusion 2.1's kind of model: velocities, trailing spacing and a schedule that ends without signal."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor, nn

from iedit_model.editing.diffedit import diffedit_latents
from iedit_model.editing.pipeline import IEditPipeline
from iedit_model.editing.sampling import embed_prompts
from iedit_model.editing.settings import SamplingConfig
from iedit_model.editing.text_to_image import DrawConfig, draw_images
from iedit_model.schedule import alphas_cumprod_from_config
from tests.builders.editing_methods import WEIGHTS, mini_ldm, single_pairs
from tests.iedit_model.train_step_cases import ALPHAS, FULL, PLAIN, build_models, run

SD21: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
SCHEDULERS = {"ddim": DDIMScheduler, "dpmsolver++": DPMSolverMultistepScheduler}
PAIRS = single_pairs(2)
PROMPTS = [pair.edit_prompt for pair in PAIRS]


class Velocities(nn.Module):
    """A UNet that says with velocities what another says with noise."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, latents: Tensor, timesteps: Tensor, *, encoder_hidden_states: Tensor) -> Any:
        noise = self.inner(latents, timesteps, encoder_hidden_states=encoder_hidden_states).sample
        alpha = ALPHAS[timesteps].view(-1, 1, 1, 1)
        original = (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        return SimpleNamespace(sample=alpha.sqrt() * noise - (1 - alpha).sqrt() * original)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    # The weights were trained to predict noise: as velocities their images mean nothing, and must be the same still.
    return IEditPipeline.from_pretrained(WEIGHTS / "ldm", dtype=torch.float32)


@pytest.mark.parametrize("sampler", list(SCHEDULERS))
def test_an_edit_is_diffusers_img2img(pipeline: Any, sampler: str):
    parts = {**pipeline.components, "scheduler": SCHEDULERS[sampler](**_known(sampler))}
    ours: Any = IEditPipeline(**parts)
    theirs: Any = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    images = [pair.source.render() for pair in PAIRS]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    options: dict[str, Any] = {"strength": 1.0, "guidance_scale": 3.0, "num_inference_steps": 10, "output_type": "np"}
    expected = theirs(
        PROMPTS,
        image=mini_ldm().encode_images(pixels.float() / 127.5 - 1),
        generator=torch.Generator().manual_seed(3),
        **options,
    ).images
    found = ours(images, PROMPTS, generator=torch.Generator().manual_seed(3), **options).images
    assert np.abs(found - expected).max() < 0.51 / 255
    assert found.std() > 0.05


@pytest.mark.parametrize("sampler", list(SCHEDULERS))
def test_an_image_from_words_is_that_of_diffusers_pipeline(pipeline: Any, sampler: Any):
    parts = {**pipeline.components, "scheduler": SCHEDULERS[sampler](**_known(sampler))}
    theirs: Any = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    noise = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)])
    expected = theirs(PROMPTS, latents=noise, num_inference_steps=5, guidance_scale=3.0, output_type="np").images
    model = dataclasses.replace(mini_ldm(), scheduler_config=SD21)
    config = DrawConfig(sampler=sampler, num_inference_steps=5, guidance_scale=3.0)
    for image, reference in zip(draw_images(model, PROMPTS, (3, 4), config), expected, strict=True):
        np.testing.assert_allclose(np.asarray(image, float) / 255, reference, atol=1.01 / 255)


def test_diffedits_inversion_leads_back_to_the_source_where_nothing_is_edited():
    model = dataclasses.replace(mini_ldm(), scheduler_config=SD21)
    source = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    prompts = embed_prompts(model, PROMPTS[:1])
    edited = diffedit_latents(
        model,
        source,
        prompts,
        source_embeds=prompts.conditional,
        latent_mask=torch.zeros(1, 1, 16, 16),
        sampling=SamplingConfig(num_inference_steps=10),
    )
    assert torch.equal(edited, source)


def test_the_losses_on_images_are_those_of_the_same_model_in_noises():
    models = build_models()
    velocities = dataclasses.replace(models, unet=Velocities(models.unet), prediction="v_prediction")
    expected, found = run(models, FULL), run(velocities, FULL)
    for name in ("global", "loc", "perc"):
        # 14.6 times the rounding of the prediction at t = 999.
        assert float(found.terms[name]) == pytest.approx(float(expected.terms[name]), rel=2e-3), name


@pytest.mark.parametrize("noise_loss", ["ldm", "paired", "mask"])
def test_the_noise_losses_are_those_in_noises_over_alpha(noise_loss: Any):
    # v - v' = (eps - eps') / sqrt(alpha_t), whatever latents the two share.
    models, config = build_models(), dataclasses.replace(PLAIN, noise_loss=noise_loss, t_weighting="none")
    velocities = dataclasses.replace(models, unet=Velocities(models.unet), prediction="v_prediction")
    timesteps = [0, 130, 400, 640]
    expected, found = (run(given, config, timesteps=timesteps).per_sample_loss for given in (models, velocities))
    np.testing.assert_allclose(found.numpy() * ALPHAS[timesteps].numpy(), expected.numpy(), rtol=1e-3)


def test_a_step_without_any_signal_has_finite_losses_and_gradients():
    models = dataclasses.replace(
        build_models(), alphas_cumprod=alphas_cumprod_from_config(SD21), prediction="v_prediction"
    )
    config = dataclasses.replace(FULL, min_snr_gamma=5.0)
    output = run(models, config, timesteps=[999, 999, 998, 0])
    output.loss.backward()
    assert all(value.isfinite() for value in output.contributions.values())
    assert all(one.grad.isfinite().all() for one in models.unet.parameters() if one.grad is not None)


def _known(sampler: str) -> dict[str, Any]:
    return (
        SD21 if sampler == "ddim" else {k: v for k, v in SD21.items() if k not in ("clip_sample", "set_alpha_to_one")}
    )
