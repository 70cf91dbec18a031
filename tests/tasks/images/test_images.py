"""Stored images are found anywhere in the corpus, checked, decoded safely, and lost one by one, never as a crash."""

import io
import struct
import subprocess
import sys
import threading
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from iedit_model.errors import ConfigError
from storage import CorruptFileError, DamagedFileError, MissingFileError, ShardStore
from tasks.images import (
    BatchConfig,
    ImageError,
    ImagePass,
    UnknownImageError,
    build_image_index,
    decode_stored,
    load_image_index,
    read_image,
    stored_images,
)
from tests.builders.stored_images import download, id_of, noise, png

NAMES = [f"p{number}" for number in range(9)]
PICTURES = {name: png(noise(seed, 8, 10)) for seed, name in enumerate(NAMES)}


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore.at(tmp_path / "store")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def damage(store: ShardStore, report, offset: int) -> None:
    """Change one byte of a shard's tar, keeping its length."""
    path = Path(store.files.address(report.path("tar")))
    data = bytearray(path.read_bytes())
    data[offset] ^= 255
    path.write_bytes(data)


def test_pixels_come_as_they_were_stored(store):
    report = download(store, PICTURES)
    for name, image in zip(sorted(NAMES, key=id_of), stored_images(store, report), strict=True):
        assert image.sample_id == id_of(name)
        np.testing.assert_array_equal(np.asarray(read_image(store, image)), noise(NAMES.index(name), 8, 10))


def test_only_images_that_are_there_are_listed(store):
    report = download(store, {"a": PICTURES["p0"]}, failed=("b", "c"))
    assert [image.sample_id for image in stored_images(store, report)] == [id_of("a")]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "AVIF"])
def test_each_stored_format_is_decoded(kind):
    flat = Image.new("RGB", (6, 5), (200, 40, 90))
    found = decode_stored(encoded(flat, kind, quality=95))
    assert (found.mode, found.size) == ("RGB", (6, 5))
    assert np.abs(np.asarray(found).astype(int) - np.asarray(flat)).max() <= 4


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "CMYK"])
def test_any_mode_becomes_rgb(mode):
    image = Image.new("RGB", (4, 4), (255, 255, 255)).convert("L" if mode == "I;16" else mode).convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    found = decode_stored(encoded(image, kind))
    assert found.mode == "RGB"
    if mode != "I;16":
        assert np.asarray(found).min() >= 250


def test_transparent_parts_show_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[0, 1] = (0, 0, 0, 128)
    found = np.asarray(decode_stored(png(pixels)))
    assert found[0, 0].tolist() == [10, 20, 30]
    assert np.abs(found[0, 1].astype(int) - 127).max() <= 1
    assert found[1].tolist() == [[255] * 3] * 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>not found</html>",
        PICTURES["p0"][: len(PICTURES["p0"]) // 2],
        encoded(Image.new("RGB", (9, 9)), "GIF"),
        encoded(Image.new("RGB", (9, 9)), "TIFF"),
        encoded(Image.new("RGB", (9, 9)), "EPS"),
    ],
    ids=["empty", "html", "truncated", "gif", "tiff", "eps"],
)
def test_what_is_no_picture_is_an_image_error(data):
    with pytest.raises(ImageError) as caught:
        decode_stored(data)
    assert caught.value.reason == "undecodable_image"
    assert len(caught.value.detail) <= 200


def test_too_many_pixels_are_not_decoded():
    data = bytearray(png(np.zeros((10, 11), np.uint8)))
    assert decode_stored(bytes(data)).size == (11, 10)
    data[16:24] = struct.pack(">II", 8193, 8192)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(ImageError, match="8193 x 8192 pixels"):
        decode_stored(bytes(data))


@given(
    st.sampled_from(["PNG", "JPEG", "WEBP"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=20),
)
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_broken_bytes_give_a_picture_or_an_image_error(kind, changes):
    data = bytearray(encoded(Image.fromarray(noise(1, 9, 9)), kind))
    for place, value in changes:
        data[place % len(data)] = value
    with suppress(ImageError):
        assert decode_stored(bytes(data)).mode == "RGB"


def test_a_changed_byte_is_a_damaged_image(store):
    report = download(store, PICTURES)
    image = stored_images(store, report)[4]
    damage(store, report, image.offset + 20)
    with pytest.raises(DamagedFileError, match="sha256") as caught:
        read_image(store, image)
    assert caught.value.paths == (report.path("tar"),)


def test_a_tar_that_was_cut_short_is_no_loss_of_single_images(store):
    report = download(store, PICTURES)
    image = stored_images(store, report)[-1]
    path = Path(store.files.address(report.path("tar")))
    path.write_bytes(path.read_bytes()[: image.offset + 3])
    with pytest.raises(CorruptFileError, match="cut short"):
        read_image(store, image)
    path.unlink()
    with pytest.raises(MissingFileError):
        read_image(store, image)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_pass_keeps_order_and_batch_shape_and_counts_its_losses(store, threads):
    report = download(store, PICTURES | {"bad": b"no picture"})
    images = stored_images(store, report)
    sizes = []

    def infer(batch):
        sizes.append(len(batch))
        return [value + 1 for value in batch]

    one_pass = ImagePass(store, BatchConfig(size=4, decode_threads=threads))
    found = list(one_pass.run(images, lambda _, picture: int(np.asarray(picture)[0, 0, 0]), infer))
    kept = [image for image in images if image.sample_id != id_of("bad")]
    assert [image for image, _ in found] == kept
    assert [value for _, value in found] == [int(np.asarray(read_image(store, image))[0, 0, 0]) + 1 for image in kept]
    assert sizes == [4, 4, 4]
    assert {entry.sample_id: entry.reason for entry in one_pass.dropped} == {id_of("bad"): "undecodable_image"}
    damage(store, report, images[2].offset)
    with pytest.raises(DamagedFileError):
        list(one_pass.run(images, lambda _, picture: picture.size, lambda batch: batch))


def test_images_are_decoded_while_the_model_works(store):
    report = download(store, PICTURES)
    decoded = threading.Semaphore(0)

    def infer(batch):
        # Ends only when pictures beyond this batch were prepared in the meantime.
        assert all(decoded.acquire(timeout=60) for _ in range(len(batch) + 1))
        for _ in range(len(batch) + 1):
            decoded.release()
        return batch

    def prepare(_, picture):
        decoded.release()
        return picture.size

    one_pass = ImagePass(store, BatchConfig(size=2, decode_threads=2))
    assert len(list(one_pass.run(stored_images(store, report), prepare, infer))) == len(NAMES)


def test_every_image_of_the_corpus_is_found(store):
    reports = [download(store, {name: PICTURES[name] for name in NAMES[at::3]}, shard=f"{at:05}") for at in range(3)]
    index = build_image_index(store, reports)
    assert len(index) == len(NAMES)
    for seed, name in enumerate(NAMES):
        image = index.find(id_of(name))
        assert image.sample_id == id_of(name)
        assert image.shard == reports[seed % 3]
        np.testing.assert_array_equal(np.asarray(read_image(store, image)), noise(seed, 8, 10))


@pytest.mark.parametrize("name", ["", "0" * 20, "f" * 20, "f" * 40, id_of("elsewhere"), id_of("p0")[:-1], "ü"])
def test_a_stranger_is_not_found(store, name):
    index = build_image_index(store, [download(store, PICTURES)])
    with pytest.raises(UnknownImageError, match="give the reports of all shards"):
        index.find(name)


def test_an_empty_corpus_has_no_image(store):
    index = build_image_index(store, [download(store, {}, failed=("a",))])
    assert len(index) == 0
    with pytest.raises(UnknownImageError):
        index.find(id_of("a"))


def test_a_sample_in_two_shards_is_refused(store):
    reports = [download(store, {"a": PICTURES["p0"]}, shard=shard) for shard in ("00000", "00001")]
    with pytest.raises(UnknownImageError, match="two download shards"):
        build_image_index(store, reports)


def test_the_index_is_built_once_for_the_same_content(store):
    report = download(store, PICTURES)
    again = load_image_index(store, [report])
    assert load_image_index(ShardStore.at(store.files.root), [report]) is again
    more = download(store, {"z": PICTURES["p0"]}, shard="00001")
    assert len(load_image_index(store, [report, more])) == len(NAMES) + 1


def test_the_model_stages_are_imported_without_a_model_library():
    script = (
        "import sys, tasks.caption, tasks.embed.stage, tasks.mask.stage\n"
        "print([name for name in ('torch', 'transformers', 'open_clip', 'pyarrow', 'prefect') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("wrong", [{"size": 0}, {"decode_threads": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        BatchConfig(**wrong)
