"""Stage 8: the same pairs give the same tars, every pair is accounted for, and plain webdataset reads them."""

import io
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from benchmarks.planted_pairs import Corpus, build, planted, png, reordered
from iedit_model.errors import ConfigError
from storage import (
    SAMPLE_PARTS,
    CorruptFileError,
    DamagedFileError,
    Dropped,
    EmptyVersionError,
    MissingFileError,
    ShardStore,
    VersionInfo,
    VersionStore,
    iter_tar,
    verify_version,
)
from tasks.data_format import data_format
from tasks.pack.near_duplicates import DuplicateConfig
from tasks.pack.packed_sample import json_columns, read_sample
from tasks.pack.plan import edit_template
from tasks.pack.rows import PackInputError
from tasks.pack.splits import SplitConfig
from tasks.pack.stage import PackConfig, PackInputs, pack_shard, plan_pack, tar_names, write_dataset
from tasks.stages import MANIFEST
from tests.references.split_rules import crossings

SPLITS = SplitConfig(val_share=0.2, test_share=0.2, max_cluster_share=0.05)
CONFIG = PackConfig(samples_per_tar=5, splits=SPLITS)
PARTS = ("source.png", "target.png", "source_mask.png", "target_mask.png", "json")


def _store(root: Path, name: str = "store") -> ShardStore:
    return ShardStore.at(root / name)


def _rows(store: ShardStore, info: VersionInfo) -> list[dict]:
    return VersionStore(store.files).manifest(info).to_pylist()


def _tars(store: ShardStore, info: VersionInfo) -> dict[str, bytes]:
    """Return the bytes of each tar by its name, without the folder and the hash."""
    paths = [path for path in info.files if path.endswith(".tar")]
    return {path.rpartition("/")[2].partition(".")[0]: store.files.read_bytes(path) for path in paths}


def _samples(store: ShardStore, info: VersionInfo, *, decode: str | None = None) -> dict[str, dict]:
    paths = [store.files.address(path) for path in sorted(info.files) if path.endswith(".tar")]
    dataset = wds.WebDataset(paths, shardshuffle=False, empty_check=False)
    return {sample["__key__"]: sample for sample in (dataset.decode(decode) if decode else dataset)}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return planted(30)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> tuple[ShardStore, VersionInfo]:
    store = _store(tmp_path_factory.mktemp("packed"))
    return store, corpus.build(store, CONFIG)


def test_plain_webdataset_reads_what_the_pairs_show(packed, corpus: Corpus):
    store, info = packed
    pairs = {pair.source_id: pair for pair in corpus.pairs}
    samples = _samples(store, info, decode="pil")
    assert set(samples) == {row["sample_id"] for row in _rows(store, info)} <= set(pairs)
    assert len(samples) > 20
    for sample_id, sample in samples.items():
        truth = pairs[sample_id].truth
        for side, scene in (("source", truth.source), ("target", truth.target)):
            assert np.array_equal(np.asarray(sample[f"{side}.png"]), np.asarray(scene.render()))
            mask = np.asarray(sample[f"{side}_mask.png"].convert("L"))
            assert np.array_equal(mask == 255, scene.masks()[truth.position])
            assert set(np.unique(mask)) <= {0, 255}
        record = sample["json"]
        assert (record["caption"], record["edit_prompt"]) == (truth.source.caption, truth.edit_prompt)
        assert (record["swapped_from"], record["swapped_to"]) == (truth.swapped_from, truth.swapped_to)
        assert (record["source_diff"], record["target_diff"]) == (truth.source_diff, truth.target_diff)
        assert (record["sample_id"], record["target_id"]) == (sample_id, pairs[sample_id].target_id)


def test_the_loop_of_the_data_formats_document_runs(packed):
    store, info = packed
    found = re.search(r"```python\n(.*?)( {4}sample\[.*?)\n```", data_format(), re.DOTALL)
    assert found is not None
    path = next(path for path in info.files if "/train-" in path)
    loop = re.sub(r'"pack/.*?\.tar"', repr(store.files.address(path)), found[1])
    shown = (
        f"    print(*(part.get('sample_id') if isinstance(part, dict) else part.size for part in ({found[2].strip()})))"
    )
    run = subprocess.run([sys.executable, "-c", loop + shown], capture_output=True, text=True, check=True, timeout=120)
    names = [row["sample_id"] for row in _rows(store, info) if row["tar"] == path]
    assert sorted(run.stdout.splitlines()) == sorted(f"{'(64, 64) ' * 4}{name}" for name in names)


def test_pictures_and_masks_are_the_stored_bytes(packed, corpus: Corpus):
    store, info = packed
    pairs = {pair.source_id: pair for pair in corpus.pairs}
    for sample_id, sample in _samples(store, info).items():
        truth = pairs[sample_id].truth
        assert sample["source.png"] == png(truth.source.render())
        assert sample["target.png"] == png(truth.target.render())
        mask = Image.fromarray(truth.source.masks()[truth.position].astype(np.uint8) * 255)
        assert sample["source_mask.png"] == png(mask)


def test_the_manifest_tells_where_each_sample_lies_and_what_it_is(packed):
    store, info = packed
    assert verify_version(VersionStore(store.files), info.id) == []
    samples = _samples(store, info)
    for row in _rows(store, info):
        parts = read_sample(store.files, row)
        assert tuple(parts) == SAMPLE_PARTS
        assert [parts[part] for part in SAMPLE_PARTS] == [samples[row["sample_id"]][end] for end in PARTS]
        record = json.loads(parts["json"])
        assert set(record) == set(json_columns(MANIFEST))
        assert {name: row[name] for name in ("url", "phash", "split") if name in record} == {
            "url": row["url"],
            "phash": row["phash"],
        }
        for name, value in record.items():
            assert value == (pytest.approx(row[name], rel=1e-6) if isinstance(value, float) else row[name])
        assert row["split"] in row["tar"].rpartition("/")[2]


def test_a_tar_holds_the_configured_number_and_only_the_last_of_a_split_fewer(packed):
    store, info = packed
    counts = Counter(row["tar"].rpartition("/")[2].partition(".")[0] for row in _rows(store, info))
    for split, number in info.splits.items():
        full, rest = divmod(number, 5)
        names = [f"{split}-{i:05d}" for i in range(full + bool(rest))]
        assert [counts[name] for name in names] == [5] * full + [rest] * bool(rest)
    assert sum(counts.values()) == info.num_samples


def test_a_rerun_leaves_every_file_alone(packed, corpus: Corpus):
    store, info = packed
    before = store.files.stats()
    assert corpus.build(store, CONFIG) == info
    assert store.files.stats() == before


@pytest.mark.parametrize(("shard_size", "order"), [(7, (4, 2, 0, 3, 1)), (2, ()), (30, ()), (11, (1, 2, 0))])
def test_neither_the_order_of_the_inputs_nor_their_shards_show_in_the_tars(
    packed, corpus: Corpus, tmp_path: Path, shard_size: int, order: tuple[int, ...]
):
    store, info = packed
    other = _store(tmp_path)
    again = reordered(corpus, shard_size=shard_size, order=order).build(other, CONFIG)
    assert _tars(other, again) == _tars(store, info)
    assert again.splits == info.splits
    differs = {"tar", "image_shard", "image_offset"} if shard_size != 7 else set()
    for row, twin in zip(_rows(store, info), _rows(other, again), strict=True):
        assert {name for name in row if row[name] != twin[name]} <= differs
    if shard_size == 7:
        assert again == info


def test_every_pair_is_packed_or_dropped_for_a_reason(packed, corpus: Corpus):
    _, info = packed
    record = info.stages[-1]
    assert (record.stage, record.num_in, record.num_out) == ("pack", len(corpus.pairs), info.num_samples)
    assert record.num_in == record.num_out + sum(record.dropped.values())
    assert set(record.dropped) <= {"split_conflict"}


def test_no_picture_text_or_template_crosses_a_split(tmp_path: Path):
    corpus = planted(60, seed=3)
    store = _store(tmp_path)
    rows = _rows(store, corpus.build(store, CONFIG))
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    things = [
        [
            *(row[name] for name in ("sample_id", "target_id", "stored_sha256", "target_stored_sha256")),
            *(row[name] for name in ("caption", "edit_prompt")),
            ("template", edit_template(row["caption"], row["edit_prompt"])),
            ("group", row["group_id"]),
        ]
        for row in rows
    ]
    assert len({thing for own in things for thing in own if thing[0] == "template"}) > 30
    assert not crossings([row["split"] for row in rows], things)


def test_a_target_that_two_sources_share_is_on_one_side(tmp_path: Path):
    corpus = planted(40, seed=5)
    shared = corpus.pairs[0].target_id
    pairs = [
        replace(pair, rows={"mask": {"target_id": shared}, "retrieve": {"target_id": shared}}) for pair in corpus.pairs
    ]
    store = _store(tmp_path)
    info = replace(corpus, pairs=tuple(pairs)).build(store, CONFIG)
    rows = _rows(store, info)
    assert {row["target_id"] for row in rows} == {shared}
    assert len({row["split"] for row in rows}) == 1
    assert info.stages[-1].dropped["split_conflict"] == 40 - len(rows) > 0
    assert {row["target_url"] for row in rows} == {f"https://world.example/{shared}.png"}


def test_pictures_with_close_hashes_and_like_embeddings_are_on_one_side(tmp_path: Path):
    corpus = planted(40, seed=7)
    scene = corpus.pairs[0].truth.source
    # Every source shows one scene, one pixel of it different, so that no two have the same bytes.
    pictures = {}
    for number, pair in enumerate(corpus.pairs):
        pixels = np.array(scene.render())
        pixels[0, number] ^= 1
        pictures[pair.source_id] = png(Image.fromarray(pixels))
    corpus = replace(corpus, images=pictures)
    store = _store(tmp_path)
    inputs = corpus.inputs(store)
    rows = _rows(store, build(inputs, CONFIG, store))
    assert len({row["stored_sha256"] for row in rows}) == len(rows) == 24  # the other 16 were to be held out
    assert {row["split"] for row in rows} == {"train"}
    apart = replace(CONFIG, duplicates=DuplicateConfig(max_phash_distance=None))
    assert len(_rows(store, build(inputs, apart, store))) == 40
    with pytest.raises(PackInputError, match="embed stage are needed"):
        plan_pack(PackInputs({**inputs.stages, "embed": ()}), CONFIG, store)
    with pytest.raises(PackInputError, match="no table of the stage embed"):
        plan_pack(PackInputs({**inputs.stages, "embed": inputs.stages["embed"][:1]}), CONFIG, store)
    alone = replace(CONFIG, duplicates=DuplicateConfig(min_image_similarity=-1))
    assert plan_pack(PackInputs({**inputs.stages, "embed": ()}), alone, store).extra["train"] == 24


def test_copies_that_the_retrieval_met_are_on_one_side(tmp_path: Path):
    corpus = planted(40, seed=6)
    ids = [pair.source_id for pair in corpus.pairs]
    copies = {"candidate_ids": ids, "candidate_reasons": ["near_duplicate"] * 40, "candidate_scores": [0.5] * 40}
    pairs = (replace(corpus.pairs[0], rows={"retrieve": copies}), *corpus.pairs[1:])
    store = _store(tmp_path)
    assert len({row["split"] for row in _rows(store, replace(corpus, pairs=pairs).build(store, CONFIG))}) == 1
    excluded = copies | {"candidate_reasons": ["same_caption"] * 40}
    pairs = (replace(corpus.pairs[0], rows={"retrieve": excluded}), *corpus.pairs[1:])
    store = _store(tmp_path, "other")
    assert len({row["split"] for row in _rows(store, replace(corpus, pairs=pairs).build(store, CONFIG))}) == 3


def _overwrite(store: ShardStore, inputs: PackInputs, row: dict, prefix: str = "") -> None:
    path = inputs.of("download", row[f"{prefix}image_shard"]).path("tar")
    data = bytearray(store.files.read_bytes(path))
    data[row[f"{prefix}image_offset"] + 40] ^= 1
    store.files.write_bytes(path, bytes(data))


def test_damaged_parts_are_counted_and_the_rest_is_packed(tmp_path: Path):
    rgb, no_png = png(Image.new("RGB", (64, 64))), b"\x89PNG\r\n\x1a\n"
    rows = {0: {"mask": {"source_mask_png": no_png}}, 1: {"mask": {"target_mask_png": rgb}}}
    corpus = planted(12, rows=rows)
    broken = png(Image.new("RGB", (64, 64)))[1:]
    corpus = replace(corpus, images={corpus.pairs[2].source_id: broken})
    store = _store(tmp_path)
    inputs = corpus.inputs(store)
    config = PackConfig(splits=SplitConfig(val_share=0, test_share=0))
    plan = plan_pack(inputs, config, store)
    report = pack_shard(plan, "train-00000", inputs, config, store)
    assert report.dropped == {
        "damaged_source_mask": 1,
        "damaged_target_mask": 1,
        "damaged_source_image": 1,
    }
    assert (report.num_in, report.num_out) == (12, 9)
    lost = {row["sample_id"]: row["detail"] for row in store.read_dropped(report).to_pylist()}
    assert set(lost) == {pair.source_id for pair in corpus.pairs[:3]}
    info = write_dataset(plan, [report], config, store, runs=[], input_digest="input")
    assert verify_version(VersionStore(store.files), info.id) == []
    assert set(_samples(store, info)) == {pair.source_id for pair in corpus.pairs[3:]}


def test_an_image_that_is_not_what_was_stored_is_no_loss_but_damage(tmp_path: Path):
    corpus, store = planted(12), _store(tmp_path)
    inputs = corpus.inputs(store)
    config = PackConfig(splits=SplitConfig(val_share=0, test_share=0))
    plan = plan_pack(inputs, config, store)
    downloads = {
        row["sample_id"]: row for report in inputs.stages["download"] for row in store.read_table(report).to_pylist()
    }
    _overwrite(store, inputs, downloads[corpus.pairs[3].source_id])
    with pytest.raises(DamagedFileError, match="sha256"):
        pack_shard(plan, "train-00000", inputs, config, store)


def test_an_empty_result_is_an_error_and_no_version(tmp_path: Path):
    config = PackConfig(splits=SplitConfig(val_share=0, test_share=0))
    store = _store(tmp_path)
    rows = {i: {"mask": {"source_mask_png": b"no mask"}} for i in range(3)}
    with pytest.raises(EmptyVersionError, match=r"damaged_source_mask 3"):
        planted(3, rows=rows).build(store, config)
    nothing = planted(3).inputs(store)
    empty = store.target("mask", "00000", "f" * 16).commit(
        num_in=3, num_out=0, seconds=0, table=store.read_table(nothing.stages["mask"][0]).slice(0, 0),
        dropped=[Dropped(sample_id=f"{number:020d}", reason="empty_mask") for number in range(3)],
    )  # fmt: skip
    with pytest.raises(EmptyVersionError, match=r"swap: 3 of 3; .*mask: 0 of 3 \(empty_mask 3\)"):
        plan_pack(PackInputs({**nothing.stages, "mask": (empty,)}), config, store)
    assert VersionStore(store.files).list() == []


def test_a_download_tar_that_is_gone_or_cut_short_is_no_dropped_sample(tmp_path: Path):
    store = _store(tmp_path)
    inputs = planted(4).inputs(store)
    config = PackConfig(splits=SplitConfig(val_share=0, test_share=0))
    plan = plan_pack(inputs, config, store)
    path = inputs.stages["download"][0].path("tar")
    data = store.files.read_bytes(path)
    store.files.write_bytes(path, data[:3000])
    with pytest.raises(CorruptFileError, match="cut short"):
        pack_shard(plan, "train-00000", inputs, config, store)
    store.files.remove(path)
    with pytest.raises(MissingFileError):
        pack_shard(plan, "train-00000", inputs, config, store)
    assert not [name for name in store.files.stats("pack") if "train" in name]
    store.files.write_bytes(path, data)
    assert pack_shard(plan, "train-00000", inputs, config, store).num_out == 4


def test_tables_that_do_not_fit_together_are_refused(tmp_path: Path):
    store = _store(tmp_path)
    corpus = planted(6)
    inputs = corpus.inputs(store)
    with pytest.raises(PackInputError, match="lacks the shard 00000"):
        PackInputs({**inputs.stages, "swap": ()})
    with pytest.raises(PackInputError, match="does not belong"):
        PackInputs({**inputs.stages, "swap": inputs.stages["caption"]})
    with pytest.raises(PackInputError, match="twice"):
        PackInputs({**inputs.stages, "swap": inputs.stages["swap"] * 2})
    strange = replace(corpus.pairs[0], rows={"mask": {"target_id": "f" * 20}})
    with pytest.raises(PackInputError, match=f"{'f' * 20} of a pair is in 0 tables"):
        plan_pack(replace(corpus, pairs=(strange, *corpus.pairs[1:])).inputs(store), CONFIG, store)
    target = store.target("swap", "00000", "a" * 16)
    table = store.read_table(inputs.stages["swap"][0])
    less = target.commit(num_in=5, seconds=0, table=table.slice(1))
    with pytest.raises(PackInputError, match=f"no row of the sample {table['sample_id'][0]}"):
        plan_pack(PackInputs({**inputs.stages, "swap": (less,)}), CONFIG, store)
    plan = plan_pack(inputs, CONFIG, store)
    with pytest.raises(PackInputError, match="plans no tar 'train-00099'"):
        pack_shard(plan, "train-00099", inputs, CONFIG, store)
    with pytest.raises(PackInputError, match="missing or too many"):
        write_dataset(plan, [], CONFIG, store, runs=[], input_digest="x")


def test_another_configuration_is_another_version(packed, corpus: Corpus):
    store, info = packed
    inputs = corpus.inputs(store)
    versions = {build(inputs, replace(CONFIG, samples_per_tar=size), store).id for size in (5, 6)}
    versions.add(build(inputs, replace(CONFIG, splits=replace(SPLITS, seed=1)), store).id)
    assert len(versions) == 3
    assert info.id in versions
    with pytest.raises(ConfigError, match="samples_per_tar"):
        PackConfig(samples_per_tar=0)


def test_a_damaged_packed_sample_is_noticed_when_it_is_read(tmp_path: Path):
    store = _store(tmp_path)
    info = planted(3).build(store, PackConfig())
    row = _rows(store, info)[0]
    data = bytearray(store.files.read_bytes(row["tar"]))
    data[row["tar_offset"] + 600] ^= 1
    store.files.write_bytes(row["tar"], bytes(data))
    with pytest.raises(CorruptFileError, match="source is not what the manifest says"):
        read_sample(store.files, row)


def test_tars_hold_no_time_and_no_owner(packed):
    store, info = packed
    for data in _tars(store, info).values():
        members = [member for member, _ in iter_tar(io.BytesIO(data), name="tar")]
        assert [member.name.partition(".")[2] for member in members] == list(PARTS) * (len(members) // 5)
        header = data[:512]
        assert header[136:147] == b"0" * 11
        assert header[265:329] == bytes(64)


def test_all_tars_of_a_plan_are_named(packed, corpus: Corpus):
    store, info = packed
    plan = plan_pack(corpus.inputs(store), CONFIG, store)
    assert set(tar_names(plan)) == set(_tars(store, info))


def test_importing_the_stage_loads_neither_torch_nor_pyarrow():
    modules = "tasks.pack.stage, tasks.dataset.takedown, tasks.dataset.dataset_card, tasks.dataset.gallery"
    code = f"import sys, {modules}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert {"torch", "pyarrow", "PIL", "prefect", "faiss", "webdataset"}.isdisjoint(found.stdout.split())
