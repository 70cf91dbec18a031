"""CLIP embeddings are of unit norm, batch by batch the same, rightly preprocessed, and never of random weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from iedit_model.batching import map_batches
from iedit_model.errors import ConfigError, MissingModelError, WeightsError
from iedit_model.models.clip import ClipEncoder, load_clip, needs_quick_gelu
from iedit_model.models.clip_loss import load_differentiable_clip
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.source import ModelSource
from miniature.world import World
from tests.builders.vision_folders import CLIP, WEIGHTS

FOLDER = WEIGHTS / "clip"
SCENES = [World(78, two_object_share=0).scene(index) for index in range(11)]
IMAGES = [scene.render() for scene in SCENES]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))


@pytest.fixture(scope="module")
def embeds() -> np.ndarray:
    return load_clip(CLIP).encode_images(IMAGES)


def encoder_of(folder: Path) -> ClipEncoder:
    return load_clip(replace(CLIP, model=ModelSource(str(folder))))


def test_embeddings_are_unit_vectors_of_the_said_dimension(embeds):
    texts = load_clip(CLIP).encode_texts(["a red bus", "", "word " * 200])
    for rows, count in ((embeds, len(IMAGES)), (texts, 3)):
        assert rows.shape == (count, load_clip(CLIP).dim)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-6)


def test_each_image_finds_its_own_caption(embeds):
    texts = load_clip(CLIP).encode_texts([scene.caption for scene in SCENES])
    assert np.mean((embeds @ texts.T).argmax(axis=1) == np.arange(len(SCENES))) >= 0.9


@pytest.mark.parametrize("batch_size", range(1, 8))
def test_an_embedding_hardly_depends_on_the_batch_size(embeds, batch_size):
    starts = range(0, len(IMAGES), batch_size)
    parts = [load_clip(CLIP).encode_images(IMAGES[start : start + batch_size]) for start in starts]
    # Sums of a few hundred products of order one, in another order: a few units of 1e-7.
    np.testing.assert_allclose(np.concatenate(parts), embeds, atol=2e-6)


def test_in_batches_of_one_size_not_a_bit_depends_on_the_neighbours():
    encoder = load_clip(CLIP)
    prepared = [encoder.prepare(image) for image in IMAGES]

    def embedded(order: list[int]) -> dict[int, bytes]:
        batches = map_batches(
            lambda batch: list(encoder.encode_prepared([prepared[row] for row in batch])), order, batch_size=4
        )
        return {row: embed.tobytes() for row, embed in batches}

    whole = embedded(list(range(len(IMAGES))))
    assert embedded(list(reversed(range(len(IMAGES))))) == whole
    assert embedded([3]) == {3: whole[3]}


def test_the_preprocessing_is_that_of_the_configuration():
    # An independent reading of open_clip's recipe: shorter side by Pillow's bicubic, centre crop, mean and std.
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 100, 3), dtype=np.uint8))
    settings = json.loads((FOLDER / "open_clip_config.json").read_text())["preprocess_cfg"]
    size = settings["size"]
    resized = image.resize((size, round(150 * size / 100)), Image.Resampling.BICUBIC)
    top = round((resized.height - size) / 2)
    pixels = np.asarray(resized.crop((0, top, size, top + size)), np.float64) / 255
    expected = ((pixels - settings["mean"]) / settings["std"]).transpose(2, 0, 1)
    found = load_clip(CLIP).prepare(image).numpy()
    assert found.shape == (3, size, size)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_differentiable_twin_embeds_the_same(embeds):
    twin = load_differentiable_clip(FOLDER)
    pixels = np.stack([np.asarray(image) for image in IMAGES]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = twin.embed_images(torch.from_numpy(pixels).float() / 127.5 - 1)
    np.testing.assert_allclose(embeds, expected.numpy(), atol=2e-6)
    texts = ["a red bus", "dog"]
    np.testing.assert_allclose(load_clip(CLIP).encode_texts(texts), twin.embed_texts(texts).numpy(), atol=2e-6)


def test_bf16_keeps_the_direction(embeds):
    encoder = load_clip(replace(CLIP, device=DeviceConfig(device="cpu", dtype="bf16")))
    cosines = (encoder.encode_images(IMAGES) * embeds).sum(axis=1)
    assert cosines.min() > 0.999
    assert encoder.encode_texts(["a bus"]).dtype == np.float32
    assert encoder.fingerprint != load_clip(CLIP).fingerprint


@pytest.mark.parametrize("other", [None, "pytorch_model.bin", "model.safetensors"])
def test_missing_weights_are_never_random_ones(copy, other):
    weights = copy / "open_clip_model.safetensors"
    weights.rename(copy / other) if other else weights.unlink()
    with pytest.raises(WeightsError):
        encoder_of(copy)


def test_weights_of_another_model_do_not_fit(copy):
    shutil.copy(WEIGHTS / "clip_metric" / "open_clip_model.safetensors", copy)
    with pytest.raises(WeightsError, match="cannot be loaded as an open_clip model"):
        encoder_of(copy).encode_texts(["a"])


def test_damaged_weights_are_an_error(copy):
    data = (copy / "open_clip_model.safetensors").read_bytes()
    (copy / "open_clip_model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="cannot be loaded as an open_clip model"):
        encoder_of(copy).encode_texts(["a"])


def test_a_folder_without_its_tokenizer_is_refused(copy):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(WeightsError):
        encoder_of(copy).encode_texts(["a"])


@pytest.mark.parametrize("content", ["{", "[]", '{"model_cfg": {}}'])
def test_a_broken_configuration_is_refused(copy, content):
    (copy / "open_clip_config.json").write_text(content)
    with pytest.raises(WeightsError):
        encoder_of(copy)


def test_weights_called_after_openai_need_quick_gelu(copy):
    folder = copy.rename(copy.with_name("vit_tiny.openai"))
    with pytest.raises(WeightsError, match="quick_gelu"):
        encoder_of(folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert encoder_of(folder).dim == 128


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("open_clip:ViT-B-32-quickgelu:openai", True),
        ("open_clip:ViT-B-32:openai", True),
        ("timm/vit_base_patch32_clip_224.openai", True),
        ("hf-hub:timm/vit_base_patch32_clip_224.openai", True),
        ("/models/ViT-L-14-quickgelu", True),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", False),
        ("open_clip:ViT-B-32:laion2b_s34b_b79k", False),
        ("/home/openai_fan/clip", False),
    ],
)
def test_who_needs_quick_gelu_is_known(name, expected):
    assert needs_quick_gelu(name) is expected


def test_a_listed_model_is_looked_for_on_its_hub_page(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingModelError, match="laion/CLIP-ViT-B-32-laion2B-s34B-b79K"):
        load_clip(replace(CLIP, model=ModelSource("open_clip:ViT-B-32:laion2b_s34b_b79k")))


@pytest.mark.parametrize("name", ["open_clip:ViT-B-32:none", "open_clip:ViT-B-32", "open_clip:Nothing:openai"])
def test_an_unlisted_model_is_refused(name):
    with pytest.raises(ConfigError, match="open_clip lists no weights"):
        load_clip(replace(CLIP, model=ModelSource(name)))
