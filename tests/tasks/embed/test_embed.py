"""The embed stage stores unit vectors of every captioned image and of the texts of every swap, bit for bit the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from iedit_model.models.clip import ClipEncoder, load_clip
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.source import ModelSource
from miniature.world import World
from storage import ShardReport, ShardStore
from tasks.corpus import CorpusError
from tasks.embed.layout import LAYOUT_DIM, layout_descriptor
from tasks.embed.stage import EmbedConfig, EmbedRows, embed_shard, read_embeds
from tasks.images import BatchConfig
from tests.builders.stored_images import captioned, download, id_of, png, swapped
from tests.builders.vision_folders import CLIP

SCENES = {f"s{index}": World(81, two_object_share=0).scene(index) for index in range(9)}
PIXELS = {name: np.asarray(scene.render()) for name, scene in SCENES.items()}
PICTURES = {name: png(pixels) for name, pixels in PIXELS.items()}
CAPTIONS = {name: scene.caption for name, scene in SCENES.items()}
SWAPS = {
    name: (CAPTIONS[name], f"a red bus number {at // 2}", "dog", "bus") for at, name in enumerate(list(SCENES)[:6])
}
CONFIG = EmbedConfig(model=CLIP, batch=BatchConfig(size=4, decode_threads=2))


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore.at(tmp_path / "store")


@pytest.fixture(scope="module")
def encoder() -> ClipEncoder:
    return load_clip(CLIP)


def embedded(store, encoder, names=tuple(SCENES), *, shard="00000", config=CONFIG, pictures=PICTURES) -> ShardReport:
    source = download(store, {name: pictures[name] for name in names}, shard=shard, failed=("gone",))
    caption = captioned(store, {name: CAPTIONS[name] for name in names}, shard=shard)
    swap = swapped(store, {name: SWAPS[name] for name in names if name in SWAPS}, shard=shard)
    return embed_shard(source, config, store, encoder, caption=caption, swap=swap)


def rows_of(store: ShardStore, report: ShardReport) -> EmbedRows:
    return read_embeds(store, report, "image_embeds", "text_embeds", "caption_embeds", "layout_embeds")


def vectors_of(store: ShardStore, report: ShardReport) -> dict[str, bytes]:
    return {str(row["sample_id"]): repr(row).encode() for row in store.read_table(report).to_pylist()}


def test_rows_are_the_encoders_own_vectors_in_half_precision(store, encoder):
    rows = rows_of(store, embedded(store, encoder))
    names = sorted(SCENES, key=id_of)
    assert [name.decode() for name in rows.ids.tolist()] == [id_of(name) for name in names]
    for at, name in enumerate(names):
        image = SCENES[name].render()
        wanted = {"image_embeds": encoder.encode_images([image])[0], "layout_embeds": layout_descriptor(PIXELS[name])}
        if name in SWAPS:
            caption, prompt = SWAPS[name][:2]
            wanted |= dict(zip(("caption_embeds", "text_embeds"), encoder.encode_texts([caption, prompt]), strict=True))
        else:
            wanted |= dict.fromkeys(("caption_embeds", "text_embeds"), np.zeros(encoder.dim))
        for column, expected in wanted.items():
            found = getattr(rows, column)[at].astype(np.float64)
            # Half precision rounds a number below one by at most 2**-11 of itself.
            np.testing.assert_allclose(found, expected, rtol=2**-10, atol=1e-5, err_msg=f"{column} of {name}")
            assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(expected), abs=1e-3)


def test_every_image_counts_and_unreadable_ones_are_dropped(store, encoder):
    report = embedded(store, encoder, pictures=PICTURES | {"s3": b"no picture"})
    assert (report.num_in, report.num_out, report.dropped) == (len(SCENES), len(SCENES) - 1, {"undecodable_image": 1})
    assert id_of("s3").encode() not in rows_of(store, report).ids.tolist()


def test_only_captioned_images_are_embedded(store, encoder):
    source = download(store, PICTURES)
    caption = captioned(store, {name: CAPTIONS[name] for name in ("s1", "s7")})
    swap = swapped(store, {"s1": SWAPS["s1"]})
    report = embed_shard(source, CONFIG, store, encoder, caption=caption, swap=swap)
    assert sorted(rows_of(store, report).ids.tolist()) == sorted(id_of(name).encode() for name in ("s1", "s7"))
    assert (report.num_in, report.num_out) == (2, 2)


def test_a_caption_without_an_image_is_refused(store, encoder):
    source = download(store, {"s0": PICTURES["s0"]})
    caption = captioned(store, {name: CAPTIONS[name] for name in ("s0", "s1")})
    with pytest.raises(CorpusError, match=id_of("s1")):
        embed_shard(source, CONFIG, store, encoder, caption=caption, swap=swapped(store, {}))


def test_the_cut_into_shards_changes_not_a_bit(store, encoder):
    whole = vectors_of(store, embedded(store, encoder))
    names = list(SCENES)
    parts = {}
    for shard, some in enumerate((names[:2], names[2:7], names[7:])):
        parts |= vectors_of(store, embedded(store, encoder, some, shard=f"1{shard}"))
    assert parts == whole


def test_a_second_run_touches_nothing(store, encoder):
    first = embedded(store, encoder)
    paths = [path for path in Path(store.files.root).rglob("embed/**/*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert embedded(store, encoder).digest == first.digest
    assert {path: path.stat().st_mtime_ns for path in paths} == before
    assert len(paths) == 2


def test_threads_and_the_models_place_are_no_part_of_the_fingerprint(store, encoder):
    plain = embedded(store, encoder).fingerprint
    moved = replace(CONFIG, model=replace(CLIP, model=ModelSource("/elsewhere")), batch=BatchConfig(size=4))
    assert embedded(store, encoder, config=moved).fingerprint == plain
    assert embedded(store, encoder, config=replace(CONFIG, batch=BatchConfig(size=5))).fingerprint != plain
    low = load_clip(replace(CLIP, device=DeviceConfig(device="cpu", dtype="bf16")))
    assert embedded(store, low).fingerprint != plain


def test_an_empty_shard_has_an_empty_table_of_the_right_shape(store, encoder):
    report = embedded(store, encoder, ())
    assert (report.num_in, report.num_out) == (0, 0)
    rows = rows_of(store, report)
    assert rows.image_embeds is not None
    assert rows.image_embeds.shape == (0, encoder.dim)
    assert rows.layout_embeds is not None
    assert rows.layout_embeds.shape == (0, LAYOUT_DIM)
