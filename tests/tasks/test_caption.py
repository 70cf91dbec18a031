"""The caption stage writes one row an image, drops with a reason, and its bytes follow from the images alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from iedit_model.errors import ConfigError
from iedit_model.models.captioner import load_captioner
from iedit_model.models.source import ModelSource
from miniature.world import World
from storage import ShardReport, ShardStore
from tasks.caption import CaptionConfig, caption_shard
from tasks.images import BatchConfig
from tests.builders.stored_images import download, id_of, noise, png
from tests.builders.vision_folders import CAPTIONER

PICTURES = {f"p{seed}": png(noise(seed, 6, 6)) for seed in range(7)}
CONFIG = CaptionConfig(model=CAPTIONER, batch=BatchConfig(size=3, decode_threads=2))


class BrightnessCaptioner:
    """Says how bright a picture is; of very dark ones it says nothing."""

    def __init__(self, fingerprint: str = "brightness", fails_after: int | None = None) -> None:
        self.fingerprint = fingerprint
        self.num_batches = 0
        self._fails_after = fails_after

    def prepare(self, image) -> float:
        return float(np.asarray(image).mean())

    def caption(self, prepared: Sequence[float]) -> list[str]:
        if self.num_batches == self._fails_after:
            raise KeyboardInterrupt
        self.num_batches += 1
        return [f"  a picture of  brightness {value:.2f}\n" if value > 5 else " \t" for value in prepared]

    def __call__(self, images) -> list[str]:
        return self.caption([self.prepare(image) for image in images])


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore.at(tmp_path / "store")


def captions_of(store: ShardStore, report: ShardReport) -> dict[str, str]:
    return {row["sample_id"]: row["caption"] for row in store.read_table(report).to_pylist()}


def modified(store: ShardStore) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(store.files.root).rglob("*") if path.is_file()}


def test_each_image_gets_its_caption_in_plain_spacing(store):
    report = caption_shard(download(store, PICTURES, failed=("gone",)), CONFIG, store, BrightnessCaptioner())
    expected = {
        id_of(name): f"a picture of brightness {noise(seed, 6, 6).mean():.2f}" for seed, name in enumerate(PICTURES)
    }
    assert captions_of(store, report) == expected
    assert (report.num_in, report.num_out, report.dropped) == (len(PICTURES), len(PICTURES), {})
    assert set(store.read_table(report)["caption_source"].to_pylist()) == {"model"}


def test_losses_are_counted_with_their_reason(store):
    dark = png(np.zeros((4, 4, 3), np.uint8))
    source = download(store, PICTURES | {"dark": dark, "html": b"<html>"})
    report = caption_shard(source, CONFIG, store, BrightnessCaptioner())
    assert report.num_in == len(PICTURES) + 2
    assert report.dropped == {"empty_caption": 1, "undecodable_image": 1}
    assert {row["sample_id"]: row["reason"] for row in store.read_dropped(report).to_pylist()} == {
        id_of("dark"): "empty_caption",
        id_of("html"): "undecodable_image",
    }
    assert len(captions_of(store, report)) == report.num_out == len(PICTURES)


def test_a_second_run_touches_nothing_and_asks_no_model(store):
    source = download(store, PICTURES)
    first = caption_shard(source, CONFIG, store, BrightnessCaptioner())
    before = modified(store)
    idle = BrightnessCaptioner()
    assert caption_shard(source, CONFIG, store, idle).digest == first.digest
    assert idle.num_batches == 0
    assert modified(store) == before


def test_an_interrupted_run_is_unfinished_and_the_next_one_gives_the_same_bytes(store, tmp_path):
    source = download(store, PICTURES)
    with pytest.raises(KeyboardInterrupt):
        caption_shard(source, CONFIG, store, BrightnessCaptioner(fails_after=1))
    assert not list(Path(store.files.root).glob("caption/**/*.done.json"))
    resumed = caption_shard(source, CONFIG, store, BrightnessCaptioner())
    other = ShardStore.at(tmp_path / "undisturbed")
    whole = caption_shard(download(other, PICTURES), CONFIG, other, BrightnessCaptioner())
    assert resumed.digest == whole.digest


def test_what_decides_the_captions_decides_the_folder(store):
    source = download(store, PICTURES)
    captioner = BrightnessCaptioner()
    plain = caption_shard(source, CONFIG, store, captioner).fingerprint
    moved = replace(CAPTIONER, model=ModelSource("/elsewhere"))
    threads = replace(CONFIG, batch=BatchConfig(size=3, decode_threads=0))
    assert caption_shard(source, replace(CONFIG, model=moved), store, captioner).fingerprint == plain
    assert caption_shard(source, threads, store, captioner).fingerprint == plain
    others = [
        caption_shard(source, CONFIG, store, BrightnessCaptioner("other weights")),
        caption_shard(source, replace(CONFIG, model=replace(CAPTIONER, num_beams=3)), store, captioner),
        caption_shard(source, replace(CONFIG, batch=BatchConfig(size=4)), store, captioner),
        caption_shard(download(store, PICTURES | {"more": PICTURES["p0"]}), CONFIG, store, captioner),
    ]
    assert len({plain, *(report.fingerprint for report in others)}) == 5


def test_the_real_captioner_says_the_same_whatever_the_shards(store):
    scenes = [World(80, two_object_share=0).scene(index) for index in range(10)]
    pictures = {f"s{index}": png(np.asarray(scene.render())) for index, scene in enumerate(scenes)}
    captioner = load_captioner(CAPTIONER)
    whole = captions_of(store, caption_shard(download(store, pictures), CONFIG, store, captioner))
    parts = {}
    for shard, names in enumerate((list(pictures)[:3], list(pictures)[3:])):
        source = download(store, {name: pictures[name] for name in names}, shard=f"1{shard}")
        parts |= captions_of(store, caption_shard(source, CONFIG, store, captioner))
    assert parts == whole
    right = [whole[id_of(f"s{index}")] == scene.caption for index, scene in enumerate(scenes)]
    assert np.mean(right) >= 0.7


def test_alt_texts_are_kept_without_looking_at_the_images(store):
    texts = {"p0": "Buy  a RED bus!", "p1": "", "p2": None, "p3": " \n "}
    source = download(store, dict.fromkeys(texts, b"unread"), alt_texts=texts, failed=("gone",))
    config = CaptionConfig(mode="alt_text")
    report = caption_shard(source, config, store, None)
    assert captions_of(store, report) == {id_of("p0"): "Buy a RED bus!"}
    assert report.dropped == {"empty_caption": 3}
    assert store.read_table(report)["caption_source"].to_pylist() == ["alt_text"]
    # The model that the other mode would use makes no difference.
    again = caption_shard(source, replace(CONFIG, mode="alt_text"), store, None)
    assert again.fingerprint == report.fingerprint


def test_an_empty_shard_is_finished_empty(store):
    report = caption_shard(download(store, {}, failed=("a",)), CONFIG, store, BrightnessCaptioner())
    assert (report.num_in, report.num_out) == (0, 0)


def test_mode_and_captioner_must_agree(store):
    source = download(store, PICTURES)
    with pytest.raises(ConfigError, match="names none"):
        CaptionConfig()
    with pytest.raises(ConfigError, match="expected one of"):
        CaptionConfig(mode="blip")  # pyright: ignore[reportArgumentType] - what a YAML file may say
    with pytest.raises(ConfigError, match="needs a captioner"):
        caption_shard(source, CONFIG, store, None)
    with pytest.raises(ConfigError, match="takes no captioner"):
        caption_shard(source, CaptionConfig(mode="alt_text"), store, BrightnessCaptioner())
