"""CLIP as a judge: preprocessing against PIL and open_clip, gradients to the pixels, texts, and broken folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from iedit_model.errors import ConfigError, IEditError, PickledWeightsError, WeightsError
from iedit_model.models.clip_loss import DifferentiableClip, clip_preprocess, load_differentiable_clip
from tests.builders.tiny_models import CLIP_MODEL, CLIP_PREPROCESSING, byte_tokenizer, tiny_clip

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
WORDS = {"[UNK]": 0, "bus": 1, "train": 2, "red": 3, "[END]": 299}


def random_images(seed: int, batch: int, height: int, width: int) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def judge(**changes: object) -> DifferentiableClip:
    model = tiny_clip()
    set_model_preprocess_cfg(model, {**CLIP_PREPROCESSING, **changes})
    return DifferentiableClip(model, byte_tokenizer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An open_clip folder with a small tokenizer of its own."""
    config = {
        "model_cfg": {**CLIP_MODEL, "text_cfg": {**CLIP_MODEL["text_cfg"], "hf_tokenizer_name": "local"}},
        "preprocess_cfg": {**CLIP_PREPROCESSING, "mean": [0.1, 0.2, 0.3]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(
        {key: value.clone() for key, value in tiny_clip(5).state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    tokenizer = Tokenizer(models.WordLevel(WORDS, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "[UNK]", "pad_token": "[END]", "eos_token": "[END]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path)
    return tmp_path


@settings(max_examples=15, deadline=None)
@given(st.integers(6, 40), st.integers(6, 40), st.sampled_from([8, 12]), st.integers(0, 10_000))
def test_the_resize_is_pils_antialiased_bicubic_on_float_channels(height, width, size_px, seed):
    images = random_images(seed, 1, height, width)
    ours = clip_preprocess(images, size_px=size_px, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), squash=True)
    for channel in range(3):
        plane = ((images[0, channel] + 1) / 2).numpy()
        pil = Image.fromarray(plane, mode="F").resize((size_px, size_px), Image.Resampling.BICUBIC)
        assert np.abs(ours[0, channel].numpy() - np.asarray(pil)).max() < 1e-5


@pytest.mark.parametrize("size", [(12, 12), (24, 24), (37, 20), (13, 29), (8, 8)])
@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_preprocessing_is_open_clips_own_up_to_its_rounding_to_bytes(size, resize_mode):
    # Smooth pictures do not overshoot, so open_clip's clamp to bytes changes nothing but half a level.
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    levels = np.stack([60 + 120 * y / size[0], 90 + 100 * x / size[1], 100 + 50 * np.sin(y / 9)], axis=-1)
    picture = levels.round().astype(np.uint8)
    transform = image_transform_v2(PreprocessCfg(**{**CLIP_PREPROCESSING, "resize_mode": resize_mode}), is_train=False)
    theirs = cast("Callable[[Image.Image], Tensor]", transform)(Image.fromarray(picture))
    images = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    ours = judge(resize_mode=resize_mode).preprocess(images)[0]
    assert ours.shape == theirs.shape == (3, 12, 12)
    assert (ours - theirs).abs().max() < 1.01 / 255 / min(STD)


def test_values_outside_the_range_are_not_clamped():
    bright = torch.full((1, 3, 12, 12), 3.0)
    ours = clip_preprocess(bright, size_px=12, mean=MEAN, std=STD)
    assert torch.allclose(ours[0, :, 0, 0], torch.tensor([(2 - m) / s for m, s in zip(MEAN, STD, strict=True)]))


def test_every_pixel_of_a_square_image_gets_a_gradient_and_it_is_the_numerical_one():
    images = random_images(0, 1, 10, 10).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: clip_preprocess(x, size_px=4, mean=MEAN, std=STD), (images,), fast_mode=True
    )
    model = judge().double()
    model.embed_images(images).square().cumsum(dim=1).sum().backward()
    assert images.grad is not None
    assert (images.grad.abs() > 0).all()
    assert torch.autograd.gradcheck(model.embed_images, (images.detach().requires_grad_(),), fast_mode=True)


def test_embeddings_are_open_clips_own_and_of_unit_length():
    images, clip = random_images(1, 3, 12, 12), judge()
    normalised = ((images + 1) / 2 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    assert torch.allclose(clip.embed_images(images), clip.model.encode_image(normalised, normalize=True), atol=1e-6)
    texts = ["a red bus", "a train", ""]
    assert torch.allclose(
        clip.embed_texts(texts), clip.model.encode_text(byte_tokenizer(texts), normalize=True), atol=1e-6
    )
    assert torch.allclose(clip.embed_texts(texts).norm(dim=1), torch.ones(3))


def test_the_model_is_frozen_and_stays_in_evaluation_mode_inside_a_training_parent():
    clip = judge()
    parent = torch.nn.ModuleList([clip]).train()
    assert parent.training
    assert not any(module.training for module in clip.modules())
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    clip.embed_images(random_images(2, 1, 12, 12).requires_grad_()).sum().backward()
    assert all(parameter.grad is None for parameter in clip.parameters())


def test_autocast_around_it_does_not_lower_its_precision():
    clip, images = judge(), random_images(3, 2, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        inside = clip.embed_images(images)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, clip.embed_images(images))


def test_each_text_is_encoded_once_while_it_is_cached_and_comes_back_in_order():
    seen: list[str] = []

    def counting(texts: list[str]) -> Tensor:
        seen.extend(texts)
        return byte_tokenizer(texts)

    clip = DifferentiableClip(tiny_clip(), counting, max_cached_texts=2)
    first = clip.embed_texts(["bus", "train", "bus"])
    assert seen == ["bus", "train"]
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert torch.equal(clip.embed_texts(["train", "bus"]), first[[1, 0]])
    assert seen == ["bus", "train"]
    clip.embed_texts(["ship"])  # the train is the least recently used
    clip.embed_texts(["bus"])
    clip.embed_texts(["train"])
    assert seen == ["bus", "train", "ship", "train"]
    more_than_it_holds = clip.embed_texts(["a", "b", "c", "train"])
    assert torch.allclose(more_than_it_holds[3], first[1], atol=1e-6)
    assert not first.requires_grad


@pytest.mark.parametrize(
    "change", [{"size": (12, 16)}, {"resize_mode": "longest"}, {"interpolation": "nearest"}], ids=str
)
def test_preprocessing_that_is_not_covered_is_refused(change):
    with pytest.raises(ConfigError, match=str(next(iter(change.values()))).replace("(", r"\(").replace(")", r"\)")):
        judge(**change)


def test_a_folder_is_loaded_with_its_weights_tokenizer_and_preprocessing(folder: Path):
    clip = load_differentiable_clip(folder)
    assert all(torch.equal(value, clip.model.state_dict()[key]) for key, value in tiny_clip(5).state_dict().items())
    assert (clip.size_px, clip.mean) == (12, (0.1, 0.2, 0.3))
    tokens = torch.tensor([[3, 1, *[299] * 6], [0, 2, *[299] * 6]])
    expected = tiny_clip(5).eval().encode_text(tokens, normalize=True)
    assert torch.allclose(clip.embed_texts(["red bus", "blue train"]), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["open_clip_model", "open_clip_config"])
def test_a_folder_without_weights_or_config_is_an_error_not_a_random_model(folder: Path, name: str):
    (next(folder.glob(f"{name}.*"))).unlink()
    with pytest.raises(WeightsError, match=name) as caught:
        load_differentiable_clip(folder)
    assert isinstance(caught.value, IEditError)


def test_a_pickled_file_is_never_read_in_their_place(folder: Path):
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(PickledWeightsError, match=r"open_clip_pytorch_model\.bin"):
        load_differentiable_clip(folder)


def test_weights_that_do_not_fit_and_a_truncated_file_are_errors(folder: Path):
    weights = folder / "open_clip_model.safetensors"
    state = load_file(weights)
    save_file({key: value for key, value in state.items() if key != "visual.proj"}, weights)
    with pytest.raises(WeightsError, match=r"visual\.proj"):
        load_differentiable_clip(folder)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=str(folder)):
        load_differentiable_clip(folder)
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(WeightsError, match="model_cfg"):
        load_differentiable_clip(folder)
