"""The web site as a plan: shares, copies, determinism, and pictures that really show their scenes."""

import io
import zlib
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from miniature.bodies import decompression_bomb, endless_blocks
from miniature.errors import SiteConfigError
from miniature.faults import KINDS, FaultShares
from miniature.pictures import CONTENT_TYPES, SIDES_PX, Picture, paint, picture_bytes
from miniature.plan import MetadataShares
from miniature.site import Site
from miniature.world import World

FAULTS = [field.name for field in fields(FaultShares)]


@settings(max_examples=60, deadline=None)
@given(
    num_urls=st.integers(1, 400),
    weights=st.lists(st.floats(0, 1), min_size=len(FAULTS), max_size=len(FAULTS)),
    used=st.floats(0, 1),
)
def test_counts_of_kinds_are_less_than_one_away_from_their_shares(
    num_urls: int, weights: list[float], used: float
) -> None:
    total = sum(weights) or 1.0
    shares = FaultShares(**{name: used * weight / total for name, weight in zip(FAULTS, weights, strict=True)})
    counts = shares.counts(num_urls)
    assert sum(counts.values()) == num_urls
    for name, share in shares.named():
        assert abs(counts[name] - share * num_urls) < 1
        assert counts[name] >= 0


def test_every_kind_of_the_catalogue_has_a_share_and_only_those() -> None:
    assert {"fine", *FAULTS} == set(KINDS)
    assert all(kind.reason or kind.outcome == "image" for kind in KINDS.values())


def test_the_default_site_of_2000_urls_meets_its_shares_exactly() -> None:
    site = Site()
    kinds = Counter(site.kind(index) for index in range(site.num_urls))
    assert {name: count for name, count in site.counts().items() if count} == dict(kinds)
    for name, share in site.faults.named():
        assert kinds[name] == round(share * 2_000), name
    assert kinds["fine"] == 2_000 - sum(round(share * 2_000) for _, share in site.faults.named())
    for mark in ("unsafe", "watermarked", "small", "unscored", "foreign"):
        marked = sum(site.marked(index, mark) for index in range(site.num_urls))
        assert marked == round(getattr(site.metadata, mark) * 2_000), mark


def test_truth_is_a_pure_function_of_the_configuration() -> None:
    first, second, other = Site(num_urls=80), Site(num_urls=80), Site(num_urls=80, seed=4)
    for index in reversed(range(80)):
        assert second.truth(index) == first.truth(index)
        assert second.sha256(index) == first.sha256(index)
    assert [other.truth(index) for index in range(80)] != [first.truth(index) for index in range(80)]


def test_pictures_are_the_same_bytes_when_drawn_anew() -> None:
    site = Site(num_urls=40)
    before = [site.image_bytes(index) for index in range(40)]
    picture_bytes.cache_clear()
    assert [Site(num_urls=40).image_bytes(index) for index in range(40)] == before


def test_addresses_are_distinct_and_only_hostile_ones_leave_the_site() -> None:
    site = Site(num_urls=120, faults=FaultShares(private_url=0.1, local_file=0.1))
    urls = [site.url(index, "http://127.0.0.1:1/") for index in range(120)]
    assert len(set(urls)) == 120
    for index, url in enumerate(urls):
        outside = site.kind(index) in ("private_url", "local_file")
        assert url.startswith("http://127.0.0.1:1/images/") is not outside
    assert sum(url.startswith("file:") for url in urls) == 12


def test_a_copy_has_its_originals_bytes_and_a_near_copy_its_picture_only() -> None:
    site = Site(num_urls=100, faults=FaultShares.only(copy=0.2, near_copy=0.2))
    for index in range(100):
        truth, original = site.truth(index), site.original(index)
        if truth.copy_of is None:
            assert original == index
            continue
        source = site.truth(original)
        assert source.kind == "fine"
        assert (truth.caption, truth.scene_index) == (source.caption, original)
        if truth.kind == "copy":
            assert site.image_bytes(index) == site.image_bytes(original)
        else:
            assert truth.format != source.format
            assert 0.01 < abs(truth.width / source.width - 1) < 0.08
            near, exact = (_shrunk(site.image_bytes(i)) for i in (index, original))
            assert np.abs(near - exact).mean() < 12


def test_copies_without_anything_to_copy_are_refused() -> None:
    with pytest.raises(SiteConfigError, match="no fine and unmarked URL"):
        _ = Site(num_urls=10, faults=FaultShares.only(copy=1.0)).plan


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Site(seed=-1), "seed is -1"),
        (lambda: Site(num_urls=0), "num_urls is 0"),
        (lambda: Site(slow_s=-1), "slow_s is -1"),
        (lambda: Site(two_object_share=2), "two_object_share is 2"),
        (lambda: Site(bomb_side_px=10**6), "bomb_side_px is 1000000"),
        (lambda: Site(oversized_bytes=0), "oversized_bytes is 0"),
        (lambda: FaultShares(gone=1.5), "share of gone is 1.5"),
        (lambda: FaultShares(gone=0.9, moved=0.9), "add up to"),
        (lambda: FaultShares.only(gonne=0.1), "unknown kind gonne"),
        (lambda: MetadataShares(unsafe=-0.1), "share of unsafe is -0.1"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(make, message: str) -> None:
    with pytest.raises(SiteConfigError, match=message):
        make()


def test_a_url_that_does_not_exist_is_an_index_error() -> None:
    with pytest.raises(IndexError, match="URL 5 does not exist, expected 0 to 4"):
        Site(num_urls=5).truth(5)


def test_every_file_is_what_the_truth_says_and_its_centre_shows_the_scene() -> None:
    site = Site(num_urls=150)
    formats, shapes = Counter(), set()
    for index in range(150):
        truth = site.truth(index)
        with Image.open(io.BytesIO(site.image_bytes(index))) as image:
            assert (image.format or "").lower() == truth.format
            assert image.size == (truth.width, truth.height)
        formats[truth.format] += 1
        shapes.add(np.sign(truth.width - truth.height))
        assert truth.small == (min(truth.width, truth.height) < 64)
        if not truth.small:
            error = _shrunk(site.image_bytes(index)) - np.asarray(site.scene(index).render(), np.float32)
            # 22 dB: the worst is a WebP of 96 pixels, whose colours have half the resolution.
            assert np.square(error).mean() < 255**2 / 10**2.2
    assert set(formats) == set(CONTENT_TYPES)
    assert shapes == {-1, 0, 1}


@pytest.mark.parametrize("side", [side for side in SIDES_PX if side % 64 == 0])
def test_a_png_of_a_whole_multiple_holds_the_scene_exactly(side: int) -> None:
    scene = World(0).scene(3)
    picture = Picture(format="png", width=side, height=side, quality=0, has_alpha=False)
    assert np.array_equal(_shrunk(picture_bytes(scene, picture)), np.asarray(scene.render(), np.float32))


def test_the_ground_goes_on_to_the_sides_without_the_objects() -> None:
    scene = replace(next(s for s in map(World(0).scene, range(50)) if s.style == "plain"), background="green")
    wide = np.asarray(paint(scene, width=192, height=64))
    ground = wide[0, 0]
    assert np.array_equal(wide[:, :64], np.broadcast_to(ground, (64, 64, 3)))
    assert np.array_equal(wide[:, 128:], np.broadcast_to(ground, (64, 64, 3)))
    assert np.array_equal(wide[:, 64:128], np.asarray(scene.render()))


def test_the_bomb_is_small_on_disk_and_huge_in_pixels() -> None:
    data = decompression_bomb(30_000)
    assert len(data) < 200_000
    assert data[16:24] == (30_000).to_bytes(4, "big") * 2


@pytest.mark.parametrize("side", [1, 8, 1_003, 2_896, 5_000])
def test_the_bomb_is_a_valid_black_picture(side: int) -> None:
    data = decompression_bomb(side)
    packed = data[data.index(b"IDAT") + 4 : -16]
    # zlib checks the hand-made stream's own checksum; around 2,896 pixels it passes from one packed block to two.
    assert zlib.decompress(packed) == bytes(side * (1 + (side + 7) // 8))
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (side, side)
        assert image.getextrema() == (0, 0)


@given(start=st.binary(max_size=50), num_bytes=st.integers(0, 200_000))
@settings(max_examples=20, deadline=None)
def test_an_endless_body_ends_at_its_length(start: bytes, num_bytes: int) -> None:
    blocks = list(endless_blocks(start, num_bytes=num_bytes))
    assert b"".join(blocks) == (start + bytes(num_bytes))[:num_bytes]
    assert all(len(block) <= 65_536 for block in blocks)


def _shrunk(data: bytes) -> np.ndarray:
    """Cut the centre square out and reduce it to 64 pixels by averaging, as a downloader does."""
    with Image.open(io.BytesIO(data)) as stored:
        image = stored.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((64, 64), Image.Resampling.BOX), np.float32)
