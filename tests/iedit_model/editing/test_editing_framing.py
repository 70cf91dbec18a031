"""Images of any shape go through canvases of one area, unsquashed, and come back in their own size."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from iedit_model.editing.framing import (
    Frame,
    FramingConfig,
    frame,
    from_canvas,
    mask_from_canvas,
    mask_to_canvas,
    to_canvas,
)
from iedit_model.errors import ConfigError, EditError

SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


def framed(size: tuple[int, int], *, side: int = 64, max_aspect: float = 2.0, multiple: int = 8) -> Frame:
    return frame(size, FramingConfig(max_aspect=max_aspect), native_px=side, multiple_px=multiple)


@given(size=SIZES, max_aspect=st.floats(1, 4), side=st.sampled_from([64, 384, 512]))
@settings(max_examples=300)
def test_a_canvas_has_whole_cells_about_the_models_area_and_at_most_the_longest_shape(
    size: tuple[int, int], max_aspect: float, side: int
):
    assume(max(size) / min(size) < 60)
    place = framed(size, side=side, max_aspect=max_aspect)
    wide, high = place.canvas_size
    assert wide % 8 == high % 8 == 0
    # Each side is rounded by at most half a cell.
    assert abs(wide * high - side**2) <= 4 * (wide + high) + 16
    assert max(wide, high) - 4 <= max_aspect * (min(wide, high) + 4) + 1e-6
    left, top, right, bottom = place.box
    assert 0 <= left < right <= wide
    assert 0 <= top < bottom <= high


@given(size=SIZES)
@settings(max_examples=300)
def test_the_image_keeps_its_shape_and_fills_the_canvas_one_way(size: tuple[int, int]):
    assume(max(size) / min(size) < 60)
    place = framed(size, side=512)
    box_wide, box_high = place.box_size
    scale_x, scale_y = box_wide / size[0], box_high / size[1]
    # One side is exact and the other rounded to a pixel.
    assert abs(scale_x - scale_y) * max(size) <= 0.51 * max(max(size) / min(size), 1) + 1e-6
    assert box_wide == place.canvas_size[0] or box_high == place.canvas_size[1]


@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), max_aspect=st.sampled_from([1.0, 2.0]))
@settings(max_examples=60, deadline=None)
def test_image_and_mask_come_back_in_their_own_size(size: tuple[int, int], max_aspect: float):
    assume(max(size) / min(size) < 16)
    place = framed(size, max_aspect=max_aspect)
    image = Image.new("RGB", size, (10, 200, 30))
    canvas = to_canvas(image, place)
    assert canvas.size == place.canvas_size
    assert np.array_equal(np.asarray(from_canvas(canvas, place)), np.asarray(image))
    mask = np.zeros(size[::-1], np.float32)
    mask[: size[1] // 2 + 1] = 1
    there = mask_to_canvas(mask, place)
    back = mask_from_canvas(there, place)
    assert there.shape == place.canvas_size[::-1]
    assert back.shape == mask.shape
    assert back.min() >= 0
    assert back.max() <= 1


def test_an_image_of_the_models_own_size_is_not_touched():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    place = framed((64, 64))
    assert place.box == (0, 0, 64, 64)
    assert np.array_equal(np.asarray(to_canvas(image, place)), np.asarray(image))
    assert from_canvas(image, place) is image


def test_a_long_image_is_mirrored_and_masked_where_the_canvas_goes_on():
    image = Image.fromarray(np.arange(32 * 16 * 3, dtype=np.uint8).reshape(32, 16, 3))
    place = framed((16, 32), side=32, max_aspect=1, multiple=1)
    canvas = np.asarray(to_canvas(image, place))
    assert place.box == (8, 0, 24, 32)
    assert np.array_equal(canvas[:, 8:24], np.asarray(image))
    assert np.array_equal(canvas[:, 7], canvas[:, 8])
    assert np.array_equal(canvas[:, 0], np.asarray(image)[:, 7])
    mask = mask_to_canvas(np.ones((32, 16), np.float32), place)
    assert mask[:, 8:24].all()
    assert not mask[:, :8].any()
    assert not mask[:, 24:].any()


def test_a_mask_keeps_its_place_and_share_through_a_smaller_canvas():
    mask = np.zeros((300, 400), np.float32)
    mask[60:180, 100:300] = 1
    place = framed((400, 300), side=96, multiple=4)
    back = mask_from_canvas(mask_to_canvas(mask, place), place)
    assert abs(float(back.mean()) - float(mask.mean())) < 0.01
    rows, columns = np.nonzero(back > 0.5)
    assert np.allclose((rows.mean(), columns.mean()), (119.5, 199.5), atol=3)


def test_the_stated_size_goes_over_the_models_own():
    config = FramingConfig(size_px=384)
    assert frame((384, 384), config, native_px=512, multiple_px=8).canvas_size == (384, 384)
    assert frame((768, 512), config, native_px=512, multiple_px=8).canvas_size == (472, 312)


def test_an_image_too_narrow_for_a_single_pixel_is_refused():
    with pytest.raises(EditError, match="1 x 3000"):
        framed((1, 3000), max_aspect=1)


@pytest.mark.parametrize("wrong", [{"size_px": 4}, {"max_aspect": 0.5}, {"max_aspect": 9.0}])
def test_a_canvas_that_cannot_be_is_named(wrong: dict[str, float]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FramingConfig(**wrong)  # pyright: ignore[reportArgumentType]
