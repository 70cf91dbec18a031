"""Any size and mode of picture comes in as what it shows; everything else is refused in one line."""

import io
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iedit_model.errors import ConfigError, ImageFileError, MaskError
from iedit_model.imaging.decode import ImageLimits, decode_image, to_rgb
from iedit_model.imaging.encode import encode_image
from iedit_model.imaging.mask_files import read_mask

RGB = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def pixels(data: bytes) -> np.ndarray:
    picture = decode_image(data)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def grey16(levels: np.ndarray) -> bytes:
    """A 16-bit grey PNG, written by hand."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    high, wide = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", wide, high, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_plain_picture_comes_in_as_it_is(kind: str):
    assert np.array_equal(pixels(saved(Image.fromarray(RGB), kind)), RGB)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "AVIF"])
def test_lossy_kinds_come_in_close_to_what_they_were(kind: str):
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    grey = smooth.mean(axis=2).astype(np.uint8)
    picture = Image.fromarray(np.repeat(grey[..., None], 3, axis=2))
    assert np.abs(pixels(saved(picture, kind)) - np.asarray(picture).astype(int)).mean() < 3


@pytest.mark.parametrize("turn", range(2, 9))
def test_a_turned_photo_comes_in_upright(turn: int):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = turn
    lying = Image.fromarray(RGB).transpose(undo[turn])
    assert np.array_equal(pixels(saved(lying, "PNG", exif=exif)), RGB)


def test_transparent_parts_show_white_and_half_transparent_ones_half():
    layer = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    layer.putpixel((1, 0), (200, 0, 0, 0))
    layer.putpixel((2, 0), (201, 1, 1, 128))
    assert np.allclose(pixels(saved(layer))[0], [(200, 0, 0), (255, 255, 255), (228, 128, 128)], atol=1)


def test_a_palette_with_a_transparent_colour_shows_white_there():
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    indexed.putpalette([255, 0, 0, 0, 0, 255])
    assert np.array_equal(pixels(saved(indexed)), [[(255, 0, 0), (0, 0, 255)]])
    assert np.array_equal(pixels(saved(indexed, transparency=1)), [[(255, 0, 0), (255, 255, 255)]])


def test_grey_with_alpha_shows_white_where_it_is_clear():
    layer = Image.merge("LA", [Image.new("L", (1, 1), 40), Image.new("L", (1, 1), 0)])
    assert np.array_equal(pixels(saved(layer)), [[(255, 255, 255)]])


def test_printing_colours_come_in_as_seen():
    for ink, seen in (((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0)):
        found = pixels(saved(Image.new("CMYK", (8, 8), ink), "TIFF"))
        assert np.abs(found - seen).max() <= 1
    jpeg = pixels(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(jpeg - (255, 0, 0)).max() < 12


@pytest.mark.parametrize("mode", ["1", "L", "YCbCr", "LAB"])
def test_other_modes_come_in_with_their_lightness(mode: str):
    halves = Image.new("RGB", (4, 2), "black")
    halves.paste((255, 255, 255), (2, 0, 4, 2))
    if mode == "LAB":
        picture = Image.merge("LAB", [halves.convert("L"), *[Image.new("L", (4, 2), 128)] * 2])
    else:
        picture = halves.convert(mode)
    found = pixels(saved(picture, "TIFF"))
    assert np.abs(found - np.asarray(halves)).max() <= 2


@given(levels=st.lists(st.integers(0, 65535), min_size=4, max_size=4))
@settings(deadline=None, max_examples=30)
def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off(levels: list[int]):
    found = pixels(grey16(np.array(levels, np.uint16).reshape(2, 2)))
    assert np.array_equal(found[..., 0], np.rint(np.array(levels) / 257).reshape(2, 2))
    assert np.array_equal(found[..., 0], found[..., 2])


def test_a_turned_sixteen_bit_picture_is_turned_too():
    levels = np.array([[0, 257 * 9]], np.uint16)
    picture = Image.open(io.BytesIO(grey16(levels)))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = pixels(saved(picture, "PNG", exif=exif))
    assert np.array_equal(found[..., 0], [[0], [9]])


def test_floating_point_pictures_are_refused_by_name():
    with pytest.raises(ImageFileError, match="floating-point"):
        decode_image(saved(Image.new("F", (2, 2), 0.5), "TIFF"))
    with pytest.raises(ImageFileError, match="70000"):
        to_rgb(Image.fromarray(np.array([[0, 70000]], np.int32)))


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>no picture</html>", encode_image(NOISE)[:3000], b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0" * 99],
)
def test_what_is_no_whole_picture_is_refused_in_one_line(data: bytes):
    with pytest.raises(ImageFileError) as caught:
        decode_image(data)
    assert "\n" not in str(caught.value)
    assert "PNG" in str(caught.value)


@given(position=st.integers(8, 200), value=st.integers(0, 255))
@settings(deadline=None, max_examples=60)
def test_a_damaged_file_gives_a_picture_or_one_named_error(position: int, value: int):
    data = bytearray(saved(Image.fromarray(RGB), "PNG"))
    data[position % len(data)] = value
    with suppress(ImageFileError):
        assert decode_image(bytes(data)).mode == "RGB"


def test_a_picture_that_claims_too_many_pixels_is_refused_before_it_is_decoded():
    data = bytearray(encode_image(Image.fromarray(RGB)))
    data[16:24] = struct.pack(">II", 9000, 8000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(ImageFileError, match="9000 x 8000"):
        decode_image(bytes(data))
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(ImageFileError):
        decode_image(bytes(data))


def test_limits_are_kept_to_the_byte_and_pixel():
    data = encode_image(Image.fromarray(RGB))
    assert decode_image(data, limits=ImageLimits(max_bytes=len(data), max_pixels=24)).size == (6, 4)
    with pytest.raises(ImageFileError, match="bytes"):
        decode_image(data, limits=ImageLimits(max_bytes=len(data) - 1))
    with pytest.raises(ImageFileError, match="pixels"):
        decode_image(data, limits=ImageLimits(max_pixels=23))
    with pytest.raises(ConfigError):
        ImageLimits(max_pixels=0)


def test_the_bytes_of_a_result_are_decided_by_its_pixels_alone():
    picture = Image.fromarray(RGB)
    tagged = picture.copy()
    tagged.info["comment"] = "made on a Monday"
    assert encode_image(picture) == encode_image(tagged)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_image(picture)))), RGB)


def test_a_mask_is_its_lightness_and_is_scaled_without_new_greys():
    mask = Image.new("L", (2, 1), 0)
    mask.putpixel((1, 0), 51)
    found = read_mask(saved(mask), size=(4, 2))
    assert found.dtype == np.float32
    assert np.allclose(found, [[0, 0, 0.2, 0.2]] * 2)


@pytest.mark.parametrize(("size", "said"), [((4, 4), "shapes differ"), ((2, 1), "black all over")])
def test_a_mask_that_does_not_fit_or_masks_nothing_is_refused(size: tuple[int, int], said: str):
    with pytest.raises(MaskError, match=said):
        read_mask(saved(Image.new("L", (2, 1), 0)), size=size)


def test_a_result_carries_no_profile_of_its_source():
    tagged = Image.fromarray(RGB)
    tagged.info["icc_profile"] = b"profile"
    assert encode_image(tagged) == encode_image(Image.fromarray(RGB))


def test_decoding_and_encoding_need_no_model_library():
    script = (
        "import sys, iedit_model.imaging.sheet\n"
        "print([name for name in ('torch', 'diffusers', 'matplotlib', 'pyarrow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
