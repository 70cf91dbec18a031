"""Pictures as addresses: what a browser would read back."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from iedit_model.imaging.encode import SMALL_PX, data_url, image_url


def read_back(address: str) -> Image.Image:
    head, _, data = address.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def noise(side: int, mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (side, side, len(mode)), dtype=np.uint8)
    if mode == "RGBA":
        values[..., 3] = 255  # what cannot be seen need not be kept
    return Image.fromarray(values, mode=mode)


@pytest.mark.parametrize(("side", "mode"), [(SMALL_PX, "RGB"), (SMALL_PX + 1, "RGBA")])
def test_small_pictures_and_overlays_come_back_pixel_by_pixel(side: int, mode: str) -> None:
    picture = noise(side, mode)
    assert np.array_equal(np.asarray(read_back(image_url(picture)).convert(mode)), np.asarray(picture))


def test_a_large_picture_is_compressed_and_keeps_its_size() -> None:
    picture = noise(SMALL_PX + 1, "RGB")
    found = read_back(image_url(picture))
    assert found.size == picture.size
    assert not np.array_equal(np.asarray(found.convert("RGB")), np.asarray(picture))


def test_a_file_keeps_its_bytes() -> None:
    address = data_url(b"\x89PNG\xff\x00", "png")
    assert address.startswith("data:image/png;base64,")
    assert base64.b64decode(address.partition(",")[2]) == b"\x89PNG\xff\x00"
