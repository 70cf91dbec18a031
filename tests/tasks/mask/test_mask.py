"""The mask stage keeps what the segmenter found, measures it rightly, and drops what cannot be used with its reason."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from iedit_model.errors import ConfigError
from iedit_model.models.segmenter import PromptedImage, load_segmenter
from miniature.pairs import true_pair
from miniature.world import World
from storage import ShardReport, ShardStore
from tasks.corpus import CorpusError
from tasks.images import BatchConfig, UnknownImageError, build_image_index
from tasks.mask.scores import (
    MaskShapeError,
    blurred,
    lowest_level,
    mask_iou,
    outside_similarity,
    read_mask,
    score_mask,
)
from tasks.mask.stage import MaskConfig, MaskGates, mask_shard
from tests.builders.stored_images import download, id_of, noise, png, retrieved, swapped
from tests.builders.vision_folders import SEGMENTER

CHANNELS = {"red": 0, "green": 1, "blue": 2}
CONFIG = MaskConfig(model=SEGMENTER, batch=BatchConfig(size=3, decode_threads=2))


class ChannelSegmenter:
    """Finds "red", "green" or "blue": the probability is the channel's value; counts what it was asked."""

    def __init__(self) -> None:
        self.fingerprint = "channels"
        self.seen: list[tuple[int, tuple[str, ...]]] = []

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image, np.float32) / 255

    def segment(self, images: Sequence[PromptedImage]) -> list[np.ndarray]:
        self.seen += [(int(image.prepared.sum()), image.prompts) for image in images]
        for image in images:
            assert image.prepared.shape[:2] == image.size_px
        return [np.stack([image.prepared[..., CHANNELS[word]] for word in image.prompts]) for image in images]


def square(channel: int, left: int, width: int, *, value: int = 255, ground: int = 0) -> np.ndarray:
    """An image (20, 20, 3) with an upright bar of one colour."""
    pixels = np.full((20, 20, 3), ground, np.uint8)
    pixels[5:15, left : left + width] = 0
    pixels[5:15, left : left + width, channel] = value
    return pixels


IMAGES = {
    "red_left": square(0, 2, 8),
    "green_left": square(1, 2, 8),
    "green_right": square(1, 6, 8),
    "blue_edge": square(2, 0, 5),
    "faint": square(0, 2, 8, value=100),
    "grey": np.full((20, 20, 3), 90, np.uint8),
}
PICTURES = {name: png(pixels) for name, pixels in IMAGES.items()}


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore.at(tmp_path / "store")


def masked(
    store: ShardStore,
    pairs: Mapping[str, tuple[str | None, str, str]],
    *,
    config: MaskConfig = CONFIG,
    segmenter: ChannelSegmenter | None = None,
    pictures: Mapping[str, bytes] = PICTURES,
) -> ShardReport:
    """Run the stage over source -> (target, source word, target word); the pictures lie in two download shards."""
    names = list(pictures)
    shards = [
        download(store, {name: pictures[name] for name in names[at::2]}, shard=f"0000{at}", failed=(f"gone{at}",))
        for at in range(2)
    ]
    return mask_shard(
        retrieved(store, {name: target for name, (target, _, _) in pairs.items()}),
        config,
        store,
        segmenter or ChannelSegmenter(),
        swap=swapped(store, {name: ("a", "b", before, after) for name, (_, before, after) in pairs.items()}),
        images=build_image_index(store, shards),
    )


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_masks_and_scores_are_those_of_the_planted_pair(store):
    report = masked(store, {"red_left": ("green_right", "red", "green")})
    [row] = store.read_table(report).to_pylist()
    assert (row["sample_id"], row["target_id"]) == (id_of("red_left"), id_of("green_right"))
    np.testing.assert_array_equal(pixels_of(row["source_mask_png"]), IMAGES["red_left"][..., 0])
    np.testing.assert_array_equal(pixels_of(row["target_mask_png"]), IMAGES["green_right"][..., 1])
    for side in ("source", "target"):
        assert row[f"{side}_mask_area"] == pytest.approx(80 / 400)
        assert row[f"{side}_mask_mean"] == pytest.approx(80 / 400)
        assert row[f"{side}_mask_max"] == 1
        assert row[f"{side}_mask_border"] == 0
    assert row["mask_iou"] == pytest.approx(40 / 120)
    assert row["outside_similarity"] == pytest.approx(1)
    assert (report.num_in, report.num_out) == (1, 1)


def test_empty_masks_drop_the_pair_with_the_reason_and_never_become_full_ones(store):
    pairs = {
        "red_left": ("green_left", "red", "green"),
        "faint": ("green_left", "red", "green"),
        "green_left": ("red_left", "green", "blue"),
        "grey": ("grey", "red", "green"),
    }
    report = masked(store, pairs)
    assert store.read_table(report)["sample_id"].to_pylist() == [id_of("red_left")]
    losses = {row["sample_id"]: row for row in store.read_dropped(report).to_pylist()}
    assert {name: losses[id_of(name)]["reason"] for name in ("faint", "green_left", "grey")} == {
        "faint": "empty_source_mask",
        "green_left": "empty_target_mask",
        "grey": "empty_source_mask",
    }
    assert losses[id_of("faint")]["detail"] == "'red' reaches a probability of 0.392"
    assert report.dropped == {"empty_source_mask": 2, "empty_target_mask": 1}


def test_pairs_without_a_target_do_not_come_in(store):
    report = masked(store, {"red_left": ("green_left", "red", "green"), "grey": (None, "red", "green")})
    assert (report.num_in, report.num_out, report.dropped) == (1, 1, {})


def test_unreadable_images_drop_their_pairs(store):
    pictures = PICTURES | {"green_left": b"html"}
    pairs = {
        "red_left": ("green_left", "red", "green"),
        "green_left": ("red_left", "green", "red"),
        "blue_edge": ("red_left", "blue", "red"),
    }
    report = masked(store, pairs, pictures=pictures)
    assert report.dropped == {"target_undecodable_image": 1, "source_undecodable_image": 1}
    assert store.read_table(report)["sample_id"].to_pylist() == [id_of("blue_edge")]


def test_an_image_is_segmented_once_for_all_of_its_pairs(store):
    segmenter = ChannelSegmenter()
    pairs = {
        "red_left": ("green_left", "red", "green"),
        "green_right": ("green_left", "green", "green"),
        "blue_edge": ("green_left", "blue", "green"),
        "green_left": ("red_left", "green", "red"),
    }
    masked(store, pairs, config=replace(CONFIG, batch=BatchConfig(size=4)), segmenter=segmenter)
    sums = {name: int((IMAGES[name].astype(np.float32) / 255).sum()) for name in pairs}
    assert len(segmenter.seen) == 4
    assert sorted(segmenter.seen) == sorted(
        [
            (sums["red_left"], ("red",)),
            (sums["green_right"], ("green",)),
            (sums["blue_edge"], ("blue",)),
            (sums["green_left"], ("green",)),
        ]
    )


def test_a_popular_target_with_many_prompts_is_scored_for_each(store, monkeypatch):
    monkeypatch.setattr("tasks.mask.stage._PROMPTS_AT_ONCE", 2)
    pictures = {"many": png(np.full((8, 8, 3), (255, 200, 150), np.uint8))}
    pictures |= {f"s{at}": PICTURES["red_left"] for at in range(3)}
    pairs = {f"s{at}": ("many", "red", word) for at, word in enumerate(CHANNELS)}
    rows = store.read_table(masked(store, pairs, pictures=pictures)).to_pylist()
    highest = {row["sample_id"]: row["target_mask_max"] for row in rows}
    assert highest == pytest.approx({id_of("s0"): 1, id_of("s1"): 200 / 255, id_of("s2"): 150 / 255})


GATED = {
    "red_left": ("green_right", "red", "green"),
    "blue_edge": ("green_left", "blue", "green"),
    "green_left": ("red_left", "green", "red"),
}


@pytest.mark.parametrize(
    ("gates", "stopped"),
    [
        (MaskGates(min_area=0.15), {"blue_edge": "source_mask_too_small"}),
        (
            MaskGates(max_area=0.15),
            {
                "red_left": "source_mask_too_large",
                "green_left": "source_mask_too_large",
                "blue_edge": "target_mask_too_large",
            },
        ),
        (MaskGates(max_area=0.1999, min_area=0.1251), dict.fromkeys(GATED, "")),
        (MaskGates(min_area=0.2, max_area=0.2), {"blue_edge": "source_mask_too_small"}),
        (MaskGates(max_border=0.1), {"blue_edge": "source_mask_at_border"}),
        (MaskGates(min_mask_iou=1 / 3), {"blue_edge": "masks_apart"}),
        (MaskGates(min_mask_iou=0.5), {"blue_edge": "masks_apart", "red_left": "masks_apart"}),
        (MaskGates(min_probability=1, min_outside_similarity=1), {}),
    ],
)
def test_each_gate_stops_what_it_says(store, gates, stopped):
    report = masked(store, GATED, config=replace(CONFIG, gates=gates))
    found = {row["sample_id"]: row["reason"] for row in store.read_dropped(report).to_pylist()}
    assert set(found) == {id_of(name) for name in stopped}
    for name, reason in stopped.items():
        assert not reason or found[id_of(name)] == reason
    assert report.num_in == len(GATED) == report.num_out + len(stopped)


def test_other_gates_need_no_segmenter(store):
    segmenter = ChannelSegmenter()
    strict = replace(CONFIG, gates=MaskGates(min_mask_iou=0.9))
    first = masked(store, GATED | {"faint": ("grey", "red", "red")}, config=strict, segmenter=segmenter)
    asked = len(segmenter.seen)
    loose = replace(CONFIG, gates=MaskGates(min_mask_iou=0.32))
    for config, dropped in (
        (strict, {"masks_apart": 2, "empty_source_mask": 1}),
        (loose, {"masks_apart": 1, "empty_source_mask": 1}),
        (CONFIG, {"empty_source_mask": 1}),
    ):
        report = masked(store, GATED | {"faint": ("grey", "red", "red")}, config=config, segmenter=segmenter)
        assert report.dropped == dropped
        assert report.num_in == 4
    assert len(segmenter.seen) == asked
    assert first.dropped == {"masks_apart": 2, "empty_source_mask": 1}


def test_a_second_run_touches_nothing(store):
    config = replace(CONFIG, gates=MaskGates(min_mask_iou=0.2))
    first = masked(store, GATED, config=config)
    paths = [path for path in Path(store.files.root).rglob("mask/**/*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert masked(store, GATED, config=config).digest == first.digest
    assert {path: path.stat().st_mtime_ns for path in paths} == before


def test_another_picture_of_a_target_renews_the_masks(store):
    first = masked(store, GATED)
    other = masked(store, GATED, pictures=PICTURES | {"green_right": PICTURES["green_left"]})
    stranger = masked(store, GATED, pictures=PICTURES | {"grey": PICTURES["green_left"]})
    assert other.fingerprint != first.fingerprint
    assert stranger.fingerprint == first.fingerprint
    assert store.read_table(other).to_pylist() != store.read_table(first).to_pylist()


def test_pairs_whose_parts_are_nowhere_are_refused(store):
    report = download(store, PICTURES)
    index = build_image_index(store, [report])
    swap = swapped(store, {"red_left": ("a", "b", "red", "green")})
    with pytest.raises(CorpusError, match="no swap"):
        mask_shard(retrieved(store, {"grey": "red_left"}), CONFIG, store, ChannelSegmenter(), swap=swap, images=index)
    with pytest.raises(UnknownImageError):
        mask_shard(retrieved(store, {"red_left": "x"}), CONFIG, store, ChannelSegmenter(), swap=swap, images=index)


def test_soft_masks_keep_the_probabilities_and_the_same_scores(store):
    pairs = {"red_left": ("green_right", "red", "green")}
    pictures = PICTURES | {"red_left": png(square(0, 2, 8, value=200, ground=30))}
    [hard] = store.read_table(masked(store, pairs, pictures=pictures)).to_pylist()
    [soft] = store.read_table(masked(store, pairs, pictures=pictures, config=replace(CONFIG, soft=True))).to_pylist()
    assert sorted(set(pixels_of(soft["source_mask_png"]).ravel())) == [30, 200]
    assert sorted(set(pixels_of(hard["source_mask_png"]).ravel())) == [0, 255]
    for name in set(hard) - {"source_mask_png", "target_mask_png"}:
        assert hard[name] == soft[name]


def test_the_miniature_masks_lie_on_the_true_objects(store):
    rng = np.random.default_rng(82)
    pairs = [true_pair(World(82).scene(index), rng) for index in range(6)]
    pictures = {f"s{at}": png(np.asarray(pair.source.render())) for at, pair in enumerate(pairs)}
    pictures |= {f"t{at}": png(np.asarray(pair.target.render())) for at, pair in enumerate(pairs)}
    words = {
        f"s{at}": (
            f"t{at}",
            pair.source_diff,
            pair.target_diff,
        )
        for at, pair in enumerate(pairs)
    }
    report = mask_shard(
        retrieved(store, {name: target for name, (target, _, _) in words.items()}),
        CONFIG,
        store,
        load_segmenter(SEGMENTER),
        swap=swapped(store, {name: ("a", "b", before, after) for name, (_, before, after) in words.items()}),
        images=build_image_index(store, [download(store, pictures)]),
    )
    truth = {id_of(f"s{at}"): pair for at, pair in enumerate(pairs)}
    ious = []
    for row in store.read_table(report).to_pylist():
        pair = truth[row["sample_id"]]
        for side, scene in (("source", pair.source), ("target", pair.target)):
            found, true = pixels_of(row[f"{side}_mask_png"]) == 255, scene.masks()[pair.position]
            ious.append((found & true).sum() / (found | true).sum())
    assert np.mean(ious) > 0.6


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.floats(0, 1, width=32)),
    st.floats(0.01, 1),
)
@settings(max_examples=60, deadline=None)
def test_scores_follow_from_the_levels_pixel_by_pixel(probabilities, threshold):
    scores = score_mask(probabilities, threshold=threshold, soft=True)
    levels = [[round(float(value) * 255) for value in row] for row in probabilities.astype(np.float64)]
    height, width = probabilities.shape
    level = lowest_level(threshold)
    inside = [[value >= level for value in row] for row in levels]
    np.testing.assert_allclose(pixels_of(scores.png), levels, atol=1)
    np.testing.assert_array_equal(read_mask(scores.png, threshold=threshold), pixels_of(scores.png) >= level)
    stored = pixels_of(scores.png).astype(int)
    rim = [(y, x) for y in range(height) for x in range(width) if y in {0, height - 1} or x in {0, width - 1}]
    inside = stored >= level
    assert scores.area == pytest.approx(inside.sum() / (height * width))
    assert scores.border == pytest.approx(sum(inside[place] for place in rim) / len(rim))
    assert scores.mean == pytest.approx(stored.mean() / 255)
    assert scores.highest == stored.max() / 255


@pytest.mark.parametrize(("threshold", "level"), [(0.5, 128), (1, 255), (1e-9, 1), (0.2, 51), (128 / 255, 128)])
def test_the_threshold_is_the_lowest_level_not_below_it(threshold, level):
    assert lowest_level(threshold) == level


@pytest.mark.parametrize(
    "probabilities",
    [np.zeros((1, 2, 3)), np.zeros((0, 3)), np.array([[np.nan]]), np.array([[1.5]]), np.array([[-0.1]])],
)
def test_what_is_no_map_is_refused(probabilities):
    with pytest.raises(MaskShapeError):
        score_mask(probabilities.astype(np.float32), threshold=0.5, soft=False)


def test_iou_of_masks_in_closed_form():
    left, right = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert mask_iou(left, right) == 0
    left[:, :2], right[:, 1:3] = True, True
    assert mask_iou(left, right) == pytest.approx(4 / 12)
    assert mask_iou(left, left) == 1
    assert mask_iou(left, np.repeat(np.repeat(left, 3, 0), 3, 1)) == 1
    assert mask_iou(left, ~left) == 0


def test_what_lies_outside_is_compared_in_closed_form():
    black, white = (Image.new("RGB", (64, 64), colour) for colour in ("black", "white"))
    half = np.zeros((64, 64), bool)
    half[:, :32] = True
    nothing = np.zeros((64, 64), bool)
    split = black.copy()
    split.paste("white", (0, 0, 32, 64))

    def similarity(source, target, source_mask, target_mask):
        return outside_similarity(blurred(source), blurred(target), source_mask=source_mask, target_mask=target_mask)

    assert similarity(black, black, nothing, nothing) == 1
    assert similarity(black, white, nothing, nothing) == 0
    assert similarity(black, split, nothing, nothing) == pytest.approx(0.5)
    assert similarity(black, split, half, nothing) == 1
    assert similarity(black, split, nothing, half) == 1
    assert similarity(black, split, ~half, nothing) == 0
    assert similarity(black, black, half, ~half) == 0  # nothing is left to compare
    grey = Image.new("RGB", (10, 30), (51, 51, 51))
    assert similarity(black, grey, nothing, np.zeros((30, 10), bool)) == pytest.approx(0.8)


def test_a_small_shift_costs_less_than_another_ground():
    pixels = noise(3, 64, 64)
    shifted = np.roll(pixels, 1, axis=1)
    other = 255 - pixels // 4
    nothing = np.zeros((64, 64), bool)

    def to(target):
        return outside_similarity(
            blurred(Image.fromarray(pixels)),
            blurred(Image.fromarray(target)),
            source_mask=nothing,
            target_mask=nothing,
        )

    assert to(pixels) == 1
    assert to(shifted) > to(other) + 0.1


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"threshold": 1.1}])
def test_a_threshold_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigError):
        MaskConfig(model=SEGMENTER, **wrong)


@pytest.mark.parametrize("name", ["min_area", "max_area", "min_probability", "max_border", "min_mask_iou"])
def test_a_gate_out_of_range_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        MaskGates(**{name: 1.5})


def test_a_shard_in_which_nothing_found_a_target_is_an_empty_one(store):
    config = replace(CONFIG, gates=MaskGates(min_area=0.1))
    report = masked(store, {"red_left": (None, "red", "green")}, config=config)
    assert (report.num_in, report.num_out, report.dropped) == (0, 0, {})
    assert store.read_table(report).num_rows == 0
