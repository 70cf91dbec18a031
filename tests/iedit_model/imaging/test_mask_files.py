"""A mask file means one thing, whoever reads it and whatever its mode; what could mean two is refused."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iedit_model.editing.pipeline_inputs import masks_of
from iedit_model.errors import MaskError
from iedit_model.imaging.mask_files import decode_levels, decode_mask, encode_mask, read_mask
from tasks.evaluate.errors import EvalSetError
from tasks.evaluate.sets.pixels import set_mask
from tasks.mask.scores import read_mask as stored_mask

LEFT = np.zeros((4, 6), np.uint8)
LEFT[:, :3] = 1


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def one_colour(colour: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray((LEFT[..., None] * np.array(colour)).astype(np.uint8))


def palette(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(LEFT).convert("P")
    image.putpalette([0, 0, 0, *colour])
    return image


def with_alpha(grey: np.ndarray | int, alpha: np.ndarray) -> Image.Image:
    return Image.merge(
        "LA", [Image.fromarray(np.broadcast_to(grey, LEFT.shape).astype(np.uint8)), Image.fromarray(alpha)]
    )


SAME = {
    "0 and 255": Image.fromarray(LEFT * 255),
    "1 bit": Image.fromarray(LEFT * 255).convert("1"),
    "16 bit": Image.fromarray(LEFT.astype(np.uint16) * 65535),
    "RGB": one_colour((255, 255, 255)),
    "one colour on black": one_colour((200, 0, 0)),
    "palette": palette((128, 0, 0)),
    "opaque": with_alpha(LEFT * 255, np.full_like(LEFT, 255)),
    "white strokes": with_alpha(255, LEFT * 255),
    "a hole in something grey": with_alpha(90, (1 - LEFT) * 255),
}


@pytest.mark.parametrize("image", SAME.values(), ids=SAME.keys())
def test_every_reader_reads_every_kind_of_mask_as_the_same(image: Image.Image):
    data = saved(image)
    assert np.array_equal(decode_mask(data), LEFT * 255)
    assert np.array_equal(read_mask(data, size=(6, 4)), LEFT)
    assert np.array_equal(set_mask(data, name="mask"), LEFT == 1)
    assert np.array_equal(stored_mask(data, threshold=0.5), LEFT == 1)
    (mask,) = masks_of(image, [(6, 4)])
    assert mask is not None
    assert np.array_equal(mask, LEFT)


def test_an_array_means_the_same_as_the_file():
    for array in (LEFT * 255, LEFT.astype(np.float32)):
        (mask,) = masks_of(array, [(6, 4)])
        assert mask is not None
        assert np.array_equal(mask, LEFT)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_a_lossy_mask_keeps_its_sides(kind: str):
    large = np.kron(LEFT, np.ones((16, 16), np.uint8)) * 255
    for image in (Image.fromarray(large), Image.fromarray(large).convert("RGB")):
        found = decode_mask(saved(image, kind, quality=75))
        assert np.array_equal(found >= 128, large >= 128)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)), "several colours"),
        (with_alpha(255, np.zeros_like(LEFT)), "transparent all over"),
        (with_alpha(np.eye(4, 6) * 255, (1 - LEFT) * 255), "black, white and transparent"),
    ],
)
def test_what_could_mean_two_things_is_refused(image: Image.Image, said: str):
    with pytest.raises(MaskError, match=said):
        decode_mask(saved(image))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.fromarray(LEFT), "brightest level is 1 of 255.*multiply"),
        (Image.fromarray(LEFT * 3), "brightest level is 3 of 255"),
        (one_colour((1, 1, 1)), "brightest level is 1 of 255"),
        (Image.fromarray(LEFT.astype(np.uint16)), "brightest level is 1 of 65535"),
        (with_alpha(255, LEFT), "transparent all over"),
    ],
    ids=["0 and 1", "0 and 3", "RGB of 0 and 1", "16 bit of 0 and 1", "alpha of 0 and 1"],
)
def test_a_mask_of_another_range_is_refused_by_every_reader_and_not_taken_as_nothing(image: Image.Image, said: str):
    data = saved(image)
    with pytest.raises(MaskError, match=said):
        read_mask(data, size=(6, 4))
    with pytest.raises(EvalSetError, match=said):
        set_mask(data, name="mask")
    with pytest.raises(MaskError, match=said):
        masks_of(image, [(6, 4)])


def test_an_array_of_zeros_and_ones_is_refused_too():
    with pytest.raises(MaskError, match="multiply"):
        masks_of(LEFT, [(6, 4)])


@given(st.lists(st.integers(0, 255), min_size=6, max_size=6))
@settings(deadline=None, max_examples=60)
def test_levels_survive_their_file(levels: list[int]):
    array = np.array(levels, np.uint8).reshape(2, 3)
    assert np.array_equal(decode_levels(encode_mask(array)), array)
