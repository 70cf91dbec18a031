"""``IEditPipeline`` in diffusers' manner: equal to img2img when the options agree, batches in and out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor

from iedit_model.editing.edit_masks import MaskConfig
from iedit_model.editing.pipeline import IEditPipeline
from iedit_model.errors import ConfigError, EditError, MaskError
from tests.builders.editing_methods import WEIGHTS, mini_ldm, single_pairs

PAIRS = single_pairs(3)
IMAGES = [pair.source.render() for pair in PAIRS]
PROMPTS = [pair.edit_prompt for pair in PAIRS]


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return IEditPipeline.from_pretrained(WEIGHTS / "ldm", dtype=torch.float32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
@pytest.mark.parametrize("masked", [True, False])
def test_with_a_mask_of_ones_an_edit_is_diffusers_img2img(pipeline: Any, sampler: str, masked: bool):
    theirs: Any = StableDiffusionImg2ImgPipeline.from_pipe(pipeline)
    theirs.set_progress_bar_config(disable=True)
    ours: Any = IEditPipeline(**pipeline.components)
    if sampler == "dpmsolver++":
        theirs.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
        ours.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in IMAGES[:2]])).permute(0, 3, 1, 2)
    expected = theirs(
        PROMPTS[:2],
        # Latents, as diffusers samples them from the posterior where we take its mean.
        image=mini_ldm().encode(pixels.float() / 127.5 - 1),
        strength=0.7,
        guidance_scale=7.5,
        num_inference_steps=10,
        generator=seeded(3),
        output_type="np",
    ).images
    found = ours(
        IMAGES[:2],
        PROMPTS[:2],
        mask_image=Image.new("L", (64, 64), 255) if masked else None,
        num_inference_steps=10,
        generator=seeded(3),
        output_type="np",
    ).images
    # Our pictures are whole levels of 255 already; beyond that half level nothing differs.
    assert np.abs(found - expected).max() < 0.51 / 255


def test_a_batch_is_each_image_with_its_prompt_mask_and_generator(pipeline: Any):
    masks = [Image.new("L", (64, 64), 0) for _ in IMAGES]
    for index, mask in enumerate(masks):
        mask.paste(255, (8 * index, 8, 8 * index + 32, 48))
    options: dict[str, Any] = {"num_inference_steps": 4, "mask_config": MaskConfig(dilate_cells=0)}
    together = pipeline(
        IMAGES, PROMPTS, mask_image=masks, generator=[seeded(index) for index in range(3)], **options
    ).images
    for index in range(3):
        alone = pipeline(IMAGES[index], PROMPTS[index], mask_image=masks[index], generator=seeded(index), **options)
        difference = np.abs(np.asarray(alone.images[0]).astype(int) - np.asarray(together[index]))
        assert difference.max() <= 1, index
        assert alone.nsfw_content_detected is None


def test_outside_the_mask_an_edit_is_nearly_the_vaes_round_trip_and_without_a_mask_it_is_not(pipeline: Any):
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 16, 64))

    def change(**options: Any) -> Any:
        edited, trip = (
            pipeline(
                IMAGES[0], PROMPTS[0], num_inference_steps=10, generator=seeded(), output_type="np", **given
            ).images[0]
            for given in ({"strength": 0.9, **options}, {"strength": 0.0})
        )
        return np.abs(edited - trip).mean(axis=-1) * 255

    masked, everywhere = change(mask_image=mask, mask_config=MaskConfig(dilate_cells=0)), change()
    # Not equal: the decoder's attention and group norms see the whole picture.
    assert masked[:, 24:].mean() < 5
    assert masked[:, :16].mean() > 15
    assert everywhere[:, 24:].mean() > 15


def test_several_results_come_in_order_and_differ(pipeline: Any):
    images = pipeline(
        IMAGES[:2], PROMPTS[0], num_inference_steps=3, num_images_per_prompt=2, generator=seeded(), output_type="pt"
    ).images
    assert images.shape == (4, 3, 64, 64)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    near, far = (images[0] - images[1]).abs().mean(), (images[0] - images[2]).abs().mean()
    assert 0 < float(near) < float(far)


def test_images_come_in_any_form_and_leave_in_their_own_size(pipeline: Any):
    array = np.array(IMAGES[0])
    forms = [IMAGES[0], array, array / 255, torch.from_numpy(array).permute(2, 0, 1) / 255, [IMAGES[0].convert("RGBA")]]
    results = [
        np.asarray(pipeline(form, PROMPTS[0], strength=0.0).images[0])
        for form in forms  # pyright: ignore[reportArgumentType]
    ]
    assert all(np.array_equal(result, results[0]) for result in results)
    sizes = [(90, 40), (64, 64), (33, 70)]
    mixed = pipeline(
        [Image.new("L", size, 90) for size in sizes], "a red bus", num_inference_steps=2, output_type="np"
    ).images
    assert [array.shape for array in mixed] == [(40, 90, 3), (64, 64, 3), (70, 33, 3)]


def test_strength_zero_is_the_vaes_round_trip(pipeline: Any):
    found = pipeline(IMAGES[0], PROMPTS[0], strength=0.0).images[0]
    pixels = torch.from_numpy(np.array(IMAGES[0])).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        vae = pipeline.vae
        expected = vae.decode(vae.encode(pixels).latent_dist.mode()).sample[0]
    levels = ((expected / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(found) - levels).max() <= 0.51


def test_it_writes_an_ordinary_folder_that_diffusers_opens(pipeline: Any, tmp_path: Path):
    pipeline.save_pretrained(tmp_path)
    opened: Any = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(opened) is StableDiffusionPipeline
    assert all(
        torch.equal(mine, other)
        for mine, other in zip(pipeline.unet.state_dict().values(), opened.unet.state_dict().values(), strict=True)
    )
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt")]
    again = IEditPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np", "return_dict": False}
    mine, theirs = (one(IMAGES[0], PROMPTS[0], generator=seeded(), **options)[0] for one in (pipeline, again))
    assert np.array_equal(mine, theirs)


def test_pickled_weights_are_never_read_or_written(pipeline: Any, tmp_path: Path):
    with pytest.raises(ConfigError, match="use_safetensors"):
        IEditPipeline.from_pretrained(WEIGHTS / "ldm", use_safetensors=False)
    with pytest.raises(ConfigError, match="safe_serialization"):
        pipeline.save_pretrained(tmp_path, safe_serialization=False)
    pipeline.save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises((OSError, ValueError)):
        IEditPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"prompt": ["a", "b"], "image": IMAGES}, EditError, "2 prompts"),
        ({"generator": [seeded()] * 2}, EditError, "2 generators"),
        ({"mask_image": np.ones((3, 3))}, MaskError, r"\(3, 3\)"),
        ({"mask_image": [Image.new("L", (64, 64))] * 2}, EditError, "2 masks"),
        ({"image": []}, EditError, "no image"),
        ({"image": "photo.png"}, EditError, "str"),
        ({"image": np.full((8, 8, 3), 7.0)}, EditError, "7.0"),
        ({"image": np.zeros((8, 8, 4))}, EditError, "channels"),
        ({"num_images_per_prompt": 0}, EditError, "num_images_per_prompt"),
        ({"strength": 2.0}, ConfigError, "strength"),
        ({"output_type": "jpg", "strength": 0.0}, EditError, "jpg"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(
    pipeline: Any, wrong: dict[str, Any], error: type[Exception], said: str
):
    with pytest.raises(error, match=said):
        pipeline(**{"image": IMAGES[0], "prompt": PROMPTS[0], **wrong})


def test_a_scheduler_of_another_kind_is_refused(pipeline: Any):
    other: Any = IEditPipeline(**pipeline.components)
    other.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    with pytest.raises(ConfigError, match="EulerDiscreteScheduler"):
        other(IMAGES[0], PROMPTS[0])


@pytest.mark.parametrize("objects", [True, False])
def test_a_safety_checker_in_the_folder_is_asked_and_blackens_what_it_flags(pipeline: Any, objects: bool):
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    # A threshold that every cosine is above, or below.
    checker.concept_embeds_weights.fill_(-2 if objects else 2)
    checker.special_care_embeds_weights.fill_(2)
    size = {"shortest_edge": 32}
    processor = CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32})
    parts: dict[str, Any] = {**pipeline.components, "safety_checker": checker, "feature_extractor": processor}
    result: Any = IEditPipeline(**parts)(IMAGES[:2], PROMPTS[:2], strength=0.0)
    assert result.nsfw_content_detected == [objects, objects]
    assert all((np.asarray(image).max() == 0) == objects for image in result.images)
