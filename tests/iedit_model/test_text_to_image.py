"""Pictures from words: diffusers' own pipeline gives the same ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iedit_model.editing.text_to_image import DrawConfig, draw_images
from iedit_model.errors import ConfigError
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.latent_diffusion import LatentDiffusionSpec, load_latent_diffusion
from iedit_model.models.source import ModelSource

FOLDER = Path(__file__).parents[2] / "miniature" / "weights" / "ldm"
PROMPTS = ("a red bus on a white background", "a blue cat on a gray background")


@pytest.fixture(scope="module")
def model():
    device = DeviceConfig(device="cpu", dtype="fp32")
    return load_latent_diffusion(LatentDiffusionSpec(model=ModelSource(str(FOLDER)), device=device))


def test_the_pictures_are_those_of_diffusers_pipeline_from_the_same_noise(model):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(
        FOLDER, safety_checker=None, feature_extractor=None, requires_safety_checker=False, torch_dtype=torch.float32
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    side = model.native_px // model.cell_px
    noise = [torch.randn(model.latent_channels, side, side, generator=torch.Generator().manual_seed(s)) for s in (3, 4)]
    expected = pipeline(
        list(PROMPTS), latents=torch.stack(noise), num_inference_steps=6, guidance_scale=5.0, output_type="np"
    ).images
    drawn = draw_images(model, PROMPTS, (3, 4), DrawConfig(num_inference_steps=6, guidance_scale=5.0))
    for image, reference in zip(drawn, expected, strict=True):
        assert image.size == (model.native_px, model.native_px)
        # One level of rounding to 8 bits, and the last bits of two orders of the same sums.
        np.testing.assert_allclose(np.asarray(image, float) / 255, np.asarray(reference), atol=1.01 / 255)


def test_a_picture_depends_on_its_own_seed_and_prompt_alone(model):
    config = DrawConfig(num_inference_steps=3)
    both = draw_images(model, PROMPTS, (3, 4), config)
    alone = draw_images(model, PROMPTS[1:], (4,), config)
    np.testing.assert_allclose(np.asarray(both[1], float), np.asarray(alone[0], float), atol=1)
    other = draw_images(model, PROMPTS[1:], (5,), config)
    assert np.abs(np.asarray(other[0], float) - np.asarray(alone[0], float)).mean() > 5


@pytest.mark.parametrize(("prompts", "seeds"), [(("a",), ()), ((), ()), (("a",), (1, 2))])
def test_prompts_without_a_seed_each_are_refused(model, prompts, seeds):
    with pytest.raises(ConfigError, match="one seed a prompt"):
        draw_images(model, prompts, seeds)


@pytest.mark.parametrize("changes", [{"num_inference_steps": 0}, {"guidance_scale": 0.5}])
def test_settings_without_meaning_are_refused(changes):
    with pytest.raises(ConfigError):
        DrawConfig(**changes)
