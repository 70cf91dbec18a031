"""The captioner writes what BLIP's own ``generate`` does, one sentence an image, whoever else is in the batch."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BlipForConditionalGeneration, BlipProcessor

from iedit_model.errors import ConfigError, WeightsError
from iedit_model.models.captioner import BlipCaptioner, load_captioner, without_repetition, without_words
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.source import ModelSource
from miniature.world import World
from tests.builders.vision_folders import CAPTIONER, WEIGHTS

FOLDER = WEIGHTS / "captioner"
SCENES = [World(77, two_object_share=0).scene(index) for index in range(12)]
IMAGES = [scene.render() for scene in SCENES]


def plain_captions(images: list[Image.Image], prefix: str, **options: Any) -> list[str]:
    """What transformers' documentation does, image by image."""
    processor: Any = BlipProcessor.from_pretrained(FOLDER)
    model: Any = BlipForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()
    texts = []
    for image in images:
        inputs = processor(images=image, return_tensors="pt", **({"text": prefix} if prefix else {}))
        tokens = model.generate(**inputs, do_sample=False, **options)
        texts.append(processor.decode(tokens[0], skip_special_tokens=True))
    return texts


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return load_captioner(CAPTIONER)(IMAGES)


def test_captions_say_what_the_scenes_show(captions):
    right = [caption == scene.caption for caption, scene in zip(captions, SCENES, strict=True)]
    assert np.mean(right) >= 0.75


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_caption_does_not_depend_on_its_batch(captions, batch_size):
    captioner = load_captioner(CAPTIONER)
    starts = range(0, len(IMAGES), batch_size)
    assert [text for start in starts for text in captioner(IMAGES[start : start + batch_size])] == captions


@pytest.mark.parametrize(
    "spec",
    [
        CAPTIONER,
        replace(CAPTIONER, num_beams=3),
        replace(CAPTIONER, no_repeat_ngram_size=1),
    ],
    ids=["greedy", "beams", "no_repeat"],
)
def test_captions_are_those_of_the_plain_library(spec):
    options = {"num_beams": spec.num_beams, "no_repeat_ngram_size": spec.no_repeat_ngram_size}
    expected = plain_captions(IMAGES[:3], "", max_new_tokens=spec.max_new_tokens, **options)
    spec = replace(spec, cut_repetition=False)
    assert load_captioner(spec)(IMAGES[:3]) == expected


def test_a_prefix_steers_the_caption_and_is_no_part_of_it():
    prefix = "two"
    found = load_captioner(replace(CAPTIONER, prefix=prefix, cut_repetition=False))(IMAGES[:3])
    whole = plain_captions(IMAGES[:3], prefix, max_new_tokens=CAPTIONER.max_new_tokens)
    assert [f"{prefix} {text}" for text in found] == whole


def test_any_size_of_image_is_captioned(captions):
    wide = IMAGES[0].resize((200, 90))
    assert len(load_captioner(CAPTIONER)([wide, IMAGES[0]])[1]) == len(captions[0])


def test_bf16_says_the_same(captions):
    spec = replace(CAPTIONER, device=DeviceConfig(device="cpu", dtype="bf16"))
    same = [left == right for left, right in zip(load_captioner(spec)(IMAGES), captions, strict=True)]
    assert np.mean(same) >= 0.75
    assert load_captioner(spec).fingerprint.endswith("@cpu/bf16")


def test_equal_specs_share_one_captioner_without_loading_it():
    again = replace(CAPTIONER, max_new_tokens=15)
    assert load_captioner(again) is load_captioner(CAPTIONER)
    assert load_captioner(replace(CAPTIONER, num_beams=2)) is not load_captioner(CAPTIONER)


def test_the_identity_follows_the_weights_and_not_their_place(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "copy")
    copied = BlipCaptioner(replace(CAPTIONER, model=ModelSource(str(tmp_path / "copy"))))
    assert copied.fingerprint == load_captioner(CAPTIONER).fingerprint
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    first = min(weights)
    weights[first] = weights[first] + 1
    save_file(weights, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    changed = BlipCaptioner(replace(CAPTIONER, model=ModelSource(str(tmp_path / "copy"))))
    assert changed.fingerprint != copied.fingerprint


def test_a_missing_weight_is_no_random_one(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "copy")
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    del weights["vision_model.post_layernorm.weight"]
    save_file(weights, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    captioner = load_captioner(replace(CAPTIONER, model=ModelSource(str(tmp_path / "copy"))))
    with pytest.raises(WeightsError, match=r"lacks the weight vision_model\.post_layernorm\.weight"):
        captioner(IMAGES[:1])


def test_damaged_weights_are_an_error(tmp_path):
    folder = Path(shutil.copytree(FOLDER, tmp_path / "copy"))
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load_captioner(replace(CAPTIONER, model=ModelSource(str(folder))))(IMAGES[:1])


def test_another_kind_of_model_is_named():
    captioner = load_captioner(replace(CAPTIONER, model=ModelSource(str(WEIGHTS / "clip"))))
    with pytest.raises(WeightsError, match="cannot be loaded as a BlipForConditionalGeneration"):
        captioner(IMAGES[:1])


def test_more_tokens_than_the_model_has_places_for_are_refused():
    with pytest.raises(ConfigError, match="knows 20 positions"):
        load_captioner(replace(CAPTIONER, max_new_tokens=25))(IMAGES[:1])


@pytest.mark.parametrize(
    "wrong", [{"num_beams": 0}, {"max_new_tokens": 0}, {"no_repeat_ngram_size": -1}, {"dropped_words": ("Arafed",)}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        replace(CAPTIONER, **wrong)


def test_words_that_nobody_knows_are_dropped(captions):
    assert captions[0] == "a yellow accordion on a gray background"
    spec = replace(CAPTIONER, dropped_words=("yellow",))
    assert load_captioner(spec)(IMAGES[:1]) == ["an accordion on a gray background"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("an araffe dog", "a dog"),
        ("a arafed image of a car", "an image of a car"),
        ("an arafed hour glass", "an hour glass"),
        ("two araffes standing", "two standing"),
        ("arafed, a red car", "a red car"),
        ("a arafed, old car", "an old car"),
        ("an arafed-white dog", "a white dog"),
        ("an arafed and white dog", "a white dog"),
        ("a arafed arafed dog", "a dog"),
        ("there is a arafed dog, araffe", "there is a dog"),
        ("a dog and araffe", "a dog"),
        ("an araffe in a field", "in a field"),
        ("an araffe", ""),
        ("a giraffe and an unarafed dog", "a giraffe and an unarafed dog"),
    ],
)
def test_english_is_left_where_a_word_is_dropped(text: str, expected: str):
    assert without_words(text, ("arafed", "araffe", "araffed")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat a cat in a hat", "a cat in a hat"),
        ("dai dai dai dai", "dai"),
        ("a very Very red bus", "a very red bus"),
        ("a dog on a dog on a dog on a mat", "a dog on a mat"),
        ("room 10 10", "room 10 10"),
        ("a cat and a cat", "a cat and a cat"),
        ("a cat, a cat, a cat", "a cat"),
        ("a man with a hat" + " on top of a hat" * 5, "a man with a hat on top of a hat"),
        ("a man in a suit standing in a room " * 3, "a man in a suit standing in a room"),
        ("on top of a hat on top of a hat on top of", "on top of a hat"),
        ("", ""),
    ],
)
def test_immediate_repetitions_are_cut(text, expected):
    assert " ".join(without_repetition(text.split())) == expected


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=4, unique=True), st.integers(1, 5))
def test_a_group_repeated_any_number_of_times_stands_once(group, times):
    assert without_repetition(group * times) == group
