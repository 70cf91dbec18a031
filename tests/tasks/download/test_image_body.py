import io
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from iedit_model.errors import ConfigError
from miniature.bodies import HTML_PAGE, decompression_bomb
from miniature.faults import FaultShares
from miniature.site import Site
from tasks.download.errors import FetchError
from tasks.download.image_body import CleanImage, ImageConfig, clean_image, perceptual_hash

SMALL = ImageConfig(size_px=32, min_side_px=8)


def _picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a smooth picture without any symmetry."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _pixels(stored: CleanImage) -> np.ndarray:
    with Image.open(io.BytesIO(stored.data)) as image:
        assert image.mode == "RGB"
        return np.asarray(image).astype(int)


def _coverage(length: int, count: int) -> np.ndarray:
    """Return (count, length): which share of each cell lies over which pixel."""
    shares = np.zeros((count, length))
    for cell in range(count):
        for pixel in range(length):
            start, end = max(cell * length / count, pixel), min((cell + 1) * length / count, pixel + 1)
            shares[cell, pixel] = max(0.0, end - start) * count / length
    return shares


def _middle_reduced(picture: Image.Image, side: int) -> np.ndarray:
    """Return the middle square's area means, weighed share by share."""
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    square = np.asarray(picture.convert("RGB")).astype(float)[top : top + short, left : left + short]
    shares = _coverage(short, side)
    return np.einsum("yj,xi,jic->yxc", shares, shares, square)


def _error_class(data: bytes, config: ImageConfig = SMALL) -> str:
    with pytest.raises(FetchError) as caught:
        clean_image(data, config)
    return caught.value.error_class


@pytest.mark.parametrize(("width", "height"), [(64, 64), (100, 60), (61, 99), (32, 45)])
def test_a_stored_pixel_is_the_mean_over_its_area_of_the_square_in_the_middle(width: int, height: int) -> None:
    picture = _picture(width, height)
    stored = clean_image(_bytes(picture), SMALL)
    assert np.abs(_pixels(stored) - _middle_reduced(picture, 32)).max() <= 1
    assert (stored.width, stored.height, stored.original_width, stored.original_height) == (32, 32, width, height)


def test_a_picture_of_the_right_size_keeps_every_pixel() -> None:
    picture = _picture(32, 32)
    for image_format in ("png", "webp"):
        stored = clean_image(_bytes(picture), replace(SMALL, format=image_format))
        assert (_pixels(stored) == np.asarray(picture)).all()


def test_a_small_picture_is_enlarged_and_a_ratio_can_be_kept() -> None:
    stored = clean_image(_bytes(_picture(20, 10)), replace(SMALL, resize_mode="keep_ratio"))
    assert (stored.width, stored.height) == (64, 32)
    expected = _picture(20, 10).resize((64, 32), Image.Resampling.LANCZOS)
    assert np.abs(_pixels(stored) - np.asarray(expected).astype(int)).max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (100, 60), (33, 48)])
@pytest.mark.parametrize("name", ["lanczos", "bicubic"])
def test_the_other_filters_are_pillows(name: str, size: tuple[int, int]) -> None:
    picture = _picture(*size)
    stored = clean_image(_bytes(picture), replace(SMALL, downscale=name))
    short = min(size)
    left, top = (size[0] - short) // 2, (size[1] - short) // 2
    square = picture.crop((left, top, left + short, top + short))
    assert (_pixels(stored) == np.asarray(square.resize((32, 32), Image.Resampling[name.upper()]))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_ends_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _bytes(_picture(80, 48), "PNG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
    stored = clean_image(data, SMALL)
    assert np.abs(_pixels(stored) - _middle_reduced(upright, 32)).max() <= 1
    assert (stored.original_width, stored.original_height) == upright.size


def _over_white(rgba: Image.Image) -> np.ndarray:
    values = np.asarray(rgba).astype(float)
    alpha = values[..., 3:] / 255
    return values[..., :3] * alpha + 255 * (1 - alpha)


def test_what_is_transparent_becomes_white() -> None:
    rgba = _picture(32, 32).convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize((32, 32)))
    assert np.abs(_pixels(clean_image(_bytes(rgba), SMALL)) - _over_white(rgba)).max() <= 1


def test_the_colour_under_a_transparent_pixel_does_not_bleed_when_it_is_reduced() -> None:
    rgba = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    rgba.paste((0, 0, 255, 255), (0, 0, 33, 64))
    row = _pixels(clean_image(_bytes(rgba), SMALL))[10]
    assert (row[15] == (0, 0, 255)).all()
    assert np.abs(row[16] - (127.5, 127.5, 255)).max() <= 2
    assert (row[17] == 255).all()


@pytest.mark.parametrize("kind", ["palette", "palette with alpha", "grey with alpha", "grey key", "bit", "grey"])
def test_every_kind_of_png_is_read_as_its_colours(kind: str) -> None:
    picture = _picture(32, 32)
    options: dict[str, Any] = {}
    if kind.startswith("palette"):
        image = picture.quantize(16)
        options = {"transparency": bytes([0, 128])} if "alpha" in kind else {}
    elif kind == "grey with alpha":
        image = picture.convert("LA")
        image.putalpha(Image.linear_gradient("L").resize((32, 32)))
    elif kind == "grey key":
        image, options = picture.convert("L"), {"transparency": 128}
    else:
        image = picture.convert("1" if kind == "bit" else "L")
    data = _bytes(image, "PNG", **options)
    with Image.open(io.BytesIO(data)) as again:
        expected = _over_white(again.convert("RGBA"))
    assert np.abs(_pixels(clean_image(data, SMALL)) - expected).max() <= 1


def test_wide_greys_keep_their_upper_eight_bits() -> None:
    wide = np.linspace(0, 65_535, 32 * 32).astype(np.uint16).reshape(32, 32)
    stored = _pixels(clean_image(_bytes(Image.fromarray(wide)), SMALL))
    assert (stored == (wide >> 8)[..., None]).all()


def test_cmyk_and_luma_only_jpegs_become_rgb() -> None:
    picture = _picture(32, 32)
    cmyk = clean_image(_bytes(picture.convert("CMYK"), "JPEG", quality=95), SMALL)
    assert np.abs(_pixels(cmyk) - np.asarray(picture).astype(int)).mean() < 5
    grey = _pixels(clean_image(_bytes(picture.convert("L"), "JPEG", quality=95), SMALL))
    assert (grey[..., 0] == grey[..., 2]).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ((250, 10, 10), (10, 250, 10))]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = _bytes(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
    stored = clean_image(data, SMALL)
    assert np.abs(_pixels(stored) - (250, 10, 10)).max() <= 4
    assert stored.original_format == kind.lower()


def test_a_large_jpeg_is_reduced_to_nearly_what_full_decoding_gives() -> None:
    picture = _picture(640, 480)
    data = _bytes(picture, "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        expected = _middle_reduced(image, 32)
    assert np.abs(_pixels(clean_image(data, SMALL)) - expected).max() <= 4


def test_nothing_of_the_original_is_stored_but_its_pixels() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "the owner's name")
    exif = Image.Exif()
    exif[0x010E] = "the owner's name"
    data = _bytes(_picture(32, 32), "PNG", pnginfo=text, exif=exif, icc_profile=b"the owner's name")
    assert b"owner" in data
    for image_format, quality in (("png", None), ("jpg", 90), ("webp", None), ("webp", 80)):
        config = replace(SMALL, format=image_format, quality=quality)
        stored = clean_image(data, config)
        assert b"owner" not in stored.data
        with Image.open(io.BytesIO(stored.data)) as image:
            assert image.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[image_format]


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    assert _error_class(decompression_bomb(12_000)) == "too_many_pixels"
    assert _error_class(decompression_bomb(30_000)) == "too_many_pixels"
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    assert _error_class(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\1\0IDAT" + bytes(99)) == "too_many_pixels"


def test_sides_and_shapes_out_of_range_are_refused_each_for_its_reason() -> None:
    assert _error_class(_bytes(_picture(7, 20))) == "too_small"
    assert _error_class(_bytes(_picture(200, 40))) == "bad_aspect"
    assert _error_class(_bytes(_picture(40, 200))) == "bad_aspect"
    assert clean_image(_bytes(_picture(160, 40)), SMALL).width == 32
    wide = replace(SMALL, max_aspect=None)
    assert clean_image(_bytes(_picture(200, 10)), wide).width == 32


@pytest.mark.parametrize(
    "data", [b"", HTML_PAGE, b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", b"\0" * 999]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    assert _error_class(data) == "not_an_image"


def test_a_format_outside_the_list_is_not_opened() -> None:
    assert _error_class(_bytes(_picture(32, 32), "TIFF")) == "not_an_image"
    assert _error_class(_bytes(_picture(32, 32), "PPM")) == "not_an_image"


def _chunk(kind: bytes, body: bytes, *, is_whole: bool = True) -> bytes:
    checksum = zlib.crc32(kind + body) ^ (not is_whole)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def _segment(number: int, body: bytes) -> bytes:
    return bytes([0xFF, 0xE0 + number]) + struct.pack(">H", len(body) + 2) + body


@settings(deadline=None, max_examples=100)
@given(
    kind=st.sampled_from(
        [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"eXIf", b"tRNS", b"acTL"]
    ),
    body=st.binary(max_size=40),
    is_whole=st.booleans(),
)
def test_no_side_chunk_of_a_png_decides_over_its_pixels(kind: bytes, body: bytes, *, is_whole: bool) -> None:
    assume(kind != b"tRNS" or len(body) != 6)
    picture = _picture(32, 32)
    data = _bytes(picture)
    stored = clean_image(data[:33] + _chunk(kind, body, is_whole=is_whole) + data[33:], SMALL)
    assert (_pixels(stored) == np.asarray(picture)).all()


@settings(deadline=None, max_examples=100)
@given(
    number=st.integers(0, 15),
    start=st.sampled_from(
        [b"", b"JFIF\0", b"Exif\0\0", b"Adobe", b"MPF\0", b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"FPXR\0"]
    ),
    body=st.binary(max_size=7),
)
def test_no_side_segment_of_a_jpeg_decides_over_its_pixels(number: int, start: bytes, body: bytes) -> None:
    data = _bytes(_picture(32, 32), "JPEG", quality=90)
    with_segment = clean_image(data[:2] + _segment(number, start + body) + data[2:], SMALL)
    assert (_pixels(with_segment) == _pixels(clean_image(data, SMALL))).all()


def test_a_text_of_megabytes_and_a_wrong_sum_are_nothing_to_an_image() -> None:
    picture = _picture(32, 32)
    data = _bytes(picture)
    text = _chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 5_000_000))
    stored = clean_image(data[:33] + text + data[33:-12] + text + data[-12:], SMALL)
    assert (_pixels(stored) == np.asarray(picture)).all()


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"]),
    cut=st.floats(0, 1),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
)
def test_a_damaged_file_is_a_picture_or_a_named_failure(kind: str, cut: float, edits: list[tuple[float, int]]) -> None:
    data = bytearray(_FILES[kind])
    for place, value in edits:
        data[int(place * (len(data) - 1))] = value
    try:
        stored = clean_image(bytes(data[: int(len(data) * max(cut, 0.1)) + 1]), SMALL)
    except FetchError as error:
        refused = error.error_class
    else:
        refused = ""
        assert _pixels(stored).shape == (32, 32, 3)
    assert refused in {"", "not_an_image", "too_many_pixels", "too_small", "bad_aspect"}


_FILES = {kind: _bytes(_picture(40, 33), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")}


def _hash_bit_by_bit(picture: Image.Image) -> int:
    """Return the hash as its definition says it, one cell and one bit at a time."""
    channels = picture.convert("YCbCr").split()
    bits = ""
    for channel, downwards in ((0, False), (0, True), (1, False), (2, False)):
        size = (4, 5) if downwards else (5, 4)
        cells = channels[channel].resize(size, Image.Resampling.BOX)
        for y in range(4):
            for x in range(4):
                neighbour = (x, y + 1) if downwards else (x + 1, y)
                here, there = cells.getpixel((x, y)), cells.getpixel(neighbour)
                assert isinstance(here, int)
                assert isinstance(there, int)
                bits += "1" if there - here > 2 else "0"
    return int.from_bytes(int(bits, 2).to_bytes(8, "big"), "big", signed=True)


@pytest.mark.parametrize("seed", range(8))
def test_the_hash_is_what_its_definition_says(seed: int) -> None:
    picture = _picture(37, 53, seed)
    assert perceptual_hash(picture) == _hash_bit_by_bit(picture)


def test_a_flat_picture_hashes_to_nothing_and_distances_count_bits_of_signed_numbers() -> None:
    assert perceptual_hash(Image.new("RGB", (32, 32), (9, 99, 200))) == 0
    assert hash_distance(-1, 0) == 64
    assert hash_distance(-(2**63), 0) == 1
    assert hash_distance(5, 6) == 2


def test_near_copies_hash_closer_than_other_pictures_and_a_recoloured_one_is_another() -> None:
    site = Site(seed=3, num_urls=120, faults=FaultShares.only(near_copy=0.3))
    config = ImageConfig(size_px=64, min_side_px=1)
    hashes = [clean_image(site.image_bytes(index), config).phash for index in range(site.num_urls)]
    near = [hash_distance(hashes[copy], hashes[original]) for copy, original in site.plan.copy_of.items()]
    origins = [site.original(index) for index in range(site.num_urls)]
    other = [
        hash_distance(hashes[one], hashes[two])
        for one in range(site.num_urls)
        for two in range(one)
        if origins[one] != origins[two]
    ]
    assert len(near) == 36
    assert np.quantile(near, 0.9) <= 3
    assert np.quantile(other, 0.01) > 3
    red, blue = (Image.new("RGB", (64, 64), "white") for _ in range(2))
    red.paste((220, 60, 60), (16, 16, 48, 48))
    blue.paste((70, 90, 255), (16, 16, 48, 48))
    assert hash_distance(perceptual_hash(red), perceptual_hash(blue)) > 3


@pytest.mark.parametrize(
    "wrong",
    [
        *({"size_px": 4}, {"min_side_px": 0}, {"max_pixels": 2**31}, {"max_aspect": 0.5}, {"quality": 0}),
        *({"quality": 90}, {"format": "jpg"}, {"format": "gif"}, {"png_level": 10}, {"resize_mode": "border"}),
        {"downscale": "nearest"},
    ],
)
def test_an_image_config_out_of_range_names_its_field(wrong: dict[str, object]) -> None:
    field = "quality" if wrong == {"format": "jpg"} else next(iter(wrong))
    with pytest.raises(ConfigError, match=field):
        ImageConfig(**wrong)  # pyright: ignore[reportArgumentType]


def hash_distance(one: int, other: int) -> int:
    return ((one ^ other) & 2**64 - 1).bit_count()
