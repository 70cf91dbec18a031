"""One pass over an image serves all of its prompts, with the numbers of the library's own forward."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

from iedit_model.errors import BatchError, WeightsError
from iedit_model.models import segmenter as segmenter_module
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.segmenter import ClipSegmenter, PromptedImage, SegmenterSpec, load_segmenter
from iedit_model.models.source import ModelSource
from miniature.world import World
from tests.builders.vision_folders import CPU, SEGMENTER, random_segmenter

PROMPTS = ("red bus", "a dog", "sky", "white background", "bus")
SCENES = [World(79, two_object_share=0.5).scene(index) for index in range(6)]
SIZES = [(64, 64), (50, 90), (31, 64), (128, 128), (64, 64), (7, 200)]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> SegmenterSpec:
    return random_segmenter(tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [scene.render().resize((width, height)) for scene, (height, width) in zip(SCENES, SIZES, strict=True)]


def prompted(segmenter: Any, image: Image.Image, *prompts: str) -> PromptedImage:
    return PromptedImage(
        prepared=segmenter.prepare(image), size_px=(image.height, image.width), prompts=prompts or PROMPTS[:2]
    )


def plain_maps(folder: Path, image: Image.Image, prompts: tuple[str, ...]) -> np.ndarray:
    """What transformers' documentation does: the image goes through the model once for each prompt."""
    processor: Any = CLIPSegProcessor.from_pretrained(folder)
    model: Any = CLIPSegForImageSegmentation.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = processor(text=list(prompts), images=[image] * len(prompts), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits.reshape(len(prompts), 1, *inputs.pixel_values.shape[-2:])
    size = (image.height, image.width)
    return functional.interpolate(logits.sigmoid(), size=size, mode="bilinear", align_corners=False)[:, 0].numpy()


def test_the_maps_are_those_of_the_plain_forward(spec, images):
    segmenter = load_segmenter(spec)
    wanted = [PROMPTS[: 1 + row % len(PROMPTS)] for row in range(len(images))]
    batch = [prompted(segmenter, image, *words) for image, words in zip(images, wanted, strict=True)]
    spread = []
    for image, words, maps in zip(images, wanted, segmenter.segment(batch), strict=True):
        expected = plain_maps(Path(spec.model.name), image, words)
        assert maps.shape == (len(words), image.height, image.width)
        assert maps.dtype == np.float32
        np.testing.assert_allclose(maps, expected, atol=2e-5)
        spread.append(np.ptp(expected))
    assert max(spread) > 0.1  # a map of one half everywhere would agree with anything


def test_each_image_goes_through_the_vision_tower_once(spec, images):
    segmenter = ClipSegmenter(spec)
    model = segmenter_module._load_clipseg(spec).model
    seen = []
    hook = model.clip.vision_model.register_forward_hook(
        lambda module, inputs, output: seen.append(output.last_hidden_state.shape[0])
    )
    texts = []
    text_hook = model.clip.text_model.register_forward_hook(lambda *_: texts.append(1))
    try:
        segmenter.segment([prompted(segmenter, image, *PROMPTS) for image in images[:3]])
        segmenter.segment([prompted(segmenter, images[0], PROMPTS[0])])
    finally:
        hook.remove()
        text_hook.remove()
    assert seen == [3, 1]
    assert len(texts) == len(PROMPTS)


@pytest.mark.parametrize("batch_size", range(1, 6))
def test_a_map_hardly_depends_on_the_batch_size(spec, images, batch_size):
    segmenter = load_segmenter(spec)
    batch = [prompted(segmenter, image, *PROMPTS[:3]) for image in images]
    whole = segmenter.segment(batch)
    parts = [
        maps
        for start in range(0, len(batch), batch_size)
        for maps in segmenter.segment(batch[start : start + batch_size])
    ]
    for left, right in zip(whole, parts, strict=True):
        # Sums in another order, seen through a decoder with large random weights.
        np.testing.assert_allclose(left, right, atol=2e-5)


def test_in_a_batch_of_one_size_not_a_bit_depends_on_the_neighbours(spec, images):
    segmenter = load_segmenter(spec)
    batch = [prompted(segmenter, image, *PROMPTS[: 1 + row % 3]) for row, image in enumerate(images)]
    whole = segmenter.segment(batch)
    turned = segmenter.segment([batch[-1], *batch[:-1]])
    assert [maps.tobytes() for maps in turned] == [maps.tobytes() for maps in [whole[-1], *whole[:-1]]]


def test_threads_that_share_a_segmenter_get_their_own_maps(spec, images):
    segmenter = ClipSegmenter(spec)
    batches = [[prompted(segmenter, image, prompt)] for image in images for prompt in PROMPTS[:3]]
    expected = [segmenter.segment(batch)[0].tobytes() for batch in batches]
    fresh = ClipSegmenter(spec)
    with ThreadPoolExecutor(4) as pool:
        found = [maps[0].tobytes() for maps in pool.map(fresh.segment, batches)]
    assert found == expected


def test_bf16_maps_are_close_and_float32(spec, images):
    low = SegmenterSpec(model=spec.model, device=DeviceConfig(device="cpu", dtype="bf16"))
    segmenter, exact = load_segmenter(low), load_segmenter(spec)
    [found] = segmenter.segment([prompted(segmenter, images[0])])
    [expected] = exact.segment([prompted(exact, images[0])])
    assert found.dtype == np.float32
    assert np.abs(found - expected).mean() < 0.02
    assert segmenter.fingerprint != exact.fingerprint


def test_the_miniature_finds_its_objects():
    segmenter = load_segmenter(SEGMENTER)
    batch = [prompted(segmenter, scene.render(), scene.objects[0].noun) for scene in SCENES]
    ious = []
    for scene, maps in zip(SCENES, segmenter.segment(batch), strict=True):
        found, truth = maps[0] >= 0.5, scene.masks()[0]
        ious.append((found & truth).sum() / (found | truth).sum())
    assert np.mean(ious) > 0.6


@pytest.mark.parametrize(("size", "prompts"), [((64, 64), ()), ((0, 64), ("a",))])
def test_nothing_to_look_for_is_an_error(spec, images, size, prompts):
    segmenter = load_segmenter(spec)
    with pytest.raises(BatchError):
        segmenter.segment([PromptedImage(prepared=segmenter.prepare(images[0]), size_px=size, prompts=prompts)])


@pytest.mark.parametrize("change", [{"size": {"shortest_edge": 64}}, {"size": {"height": 64, "width": 32}}])
def test_a_processor_whose_maps_would_not_lie_on_the_image_is_refused(spec, tmp_path, change):
    processor = cast("Any", CLIPSegProcessor.from_pretrained(spec.model.name))
    model = CLIPSegForImageSegmentation.from_pretrained(spec.model.name)
    for name, value in change.items():
        setattr(processor.image_processor, name, value)
    processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    segmenter = load_segmenter(SegmenterSpec(model=ModelSource(str(tmp_path)), device=CPU))
    with pytest.raises(WeightsError, match="would not lie on the image"):
        segmenter.prepare(SCENES[0].render())
