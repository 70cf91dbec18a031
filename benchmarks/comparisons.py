"""For each stage: our function, the baseline on the same work, and how to have ours do it once more."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.baseline_calls import Blip, ClipSeg, OpenClip, img2dataset_shard, write_webdataset
from benchmarks.corpus import Corpus
from benchmarks.retrieval_comparison import NUM_QUERIES, retrieval_work
from benchmarks.side_by_side import Work
from benchmarks.site_process import site_process
from flows.config.tree import DataConfig
from iedit_model.errors import ConfigError
from iedit_model.models.captioner import load_captioner
from iedit_model.models.clip import load_clip
from iedit_model.models.segmenter import load_segmenter
from storage import ShardReport, ShardStore, iter_tar, read_tar_member, split_member
from storage.reports import stage_folder
from tasks.caption import caption_shard
from tasks.download.stage import download_shard
from tasks.embed.layout import layout_descriptors, layout_pixels
from tasks.embed.stage import embed_shard
from tasks.images import StoredImage, load_image_index, read_image, stored_images
from tasks.index.vector_index import open_index
from tasks.mask.stage import MaskConfig, MaskGates, mask_shard
from tasks.pack.stage import PackInputs, pack_shard, plan_pack, tar_names
from tasks.plan.stage import PlanConfig, plan_shards
from tasks.retrieve.gates import GateConfig
from tasks.retrieve.stage import retrieve_shard

Row = Mapping[str, Any]
_ONE_SHARD = 100_000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all comparisons are held on."""

    corpus: Corpus
    """One shard, made by the stages before."""
    config: DataConfig
    folder: Path
    """Holds the corpus and its metadata; free for use."""
    port: int
    """Where the site is served."""
    num_planted: int
    """Vectors in the index that is searched."""

    @property
    def root(self) -> Path:
        """Folder of the corpus' store."""
        return self.folder / "store"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One stage against its baseline."""

    num_items: int
    """Images (queries, pairs) that go through each of the two."""
    ours: Work
    baseline: Work
    forget: Work
    """Takes our result away, so that the stage does its work again."""
    parts: Callable[[], Sequence[tuple[str, float]]] = tuple
    """What our work is made of, and how long each part takes, seconds."""


@contextmanager
def download_comparison(setting: Setting) -> Iterator[Comparison]:
    """Urls to images in a tar."""
    folder, store = setting.folder, ShardStore.at(setting.folder / "fetched")
    [plan] = plan_shards(str(folder / "metadata"), PlanConfig(shard_size=_ONE_SHARD), store).reports
    urls = store.read_table(plan, columns=("url",))["url"].to_pylist()
    given = setting.config.download
    # All URLs are of one server: politeness towards it would make ours wait where the baseline does not.
    fetch = replace(given.fetch, allowed_hosts=(f"127.0.0.1:{setting.port}",), per_host=given.threads)
    config = replace(given, fetch=fetch)
    with site_process(setting.corpus.site, port=setting.port):
        yield Comparison(
            num_items=len(urls),
            ours=lambda: _complete(download_shard(plan, config, store).num_out, len(urls)),
            baseline=lambda: _complete(img2dataset_shard(urls, folder / "baseline", config), len(urls)),
            forget=lambda: shutil.rmtree(folder / "fetched" / "download", ignore_errors=True),
        )


@contextmanager
def caption_comparison(setting: Setting) -> Iterator[Comparison]:
    """Images to captions."""
    config, [download] = setting.config.caption, setting.corpus.downloads
    if config.model is None:
        raise ConfigError("the profile has no captioner")
    tokens, captioner, blip = config.model.max_new_tokens, load_captioner(config.model), Blip(config.model.model.name)
    yield Comparison(
        num_items=download.num_out,
        ours=lambda: caption_shard(download, config, setting.corpus.store, captioner),
        baseline=lambda: blip.captions(_tar(setting, download), batch=config.batch.size, max_new_tokens=tokens),
        forget=_forget(setting, setting.corpus.captions[0]),
    )


@contextmanager
def embed_comparison(setting: Setting) -> Iterator[Comparison]:
    """Images and texts to vectors."""
    corpus, config = setting.corpus, setting.config.embed
    [download], [caption], [swap] = corpus.downloads, corpus.captions, corpus.swaps
    encoder, baseline = load_clip(config.model), OpenClip(config.model.model.name)
    table = corpus.store.read_table(swap, columns=("edit_prompt", "caption"))
    texts = sorted({text for column in table.columns for text in column.to_pylist()})
    yield Comparison(
        num_items=download.num_out,
        ours=lambda: embed_shard(download, config, corpus.store, encoder, caption=caption, swap=swap),
        baseline=lambda: baseline.embeds(_tar(setting, download), texts, batch=config.batch.size),
        forget=_forget(setting, corpus.embeds[0]),
        parts=lambda: _beside_the_model(setting, download),
    )


@contextmanager
def retrieve_comparison(setting: Setting) -> Iterator[Comparison]:
    """Queries to neighbours."""
    folder = setting.folder / "planted"
    with retrieval_work(folder, setting.config, num_vectors=setting.num_planted) as work:
        yield Comparison(
            num_items=NUM_QUERIES,
            ours=work.ours,
            baseline=work.baseline,
            forget=lambda: shutil.rmtree(folder / "retrieve", ignore_errors=True),
            parts=work.parts,
        )


@contextmanager
def mask_comparison(setting: Setting) -> Iterator[Comparison]:
    """Images and prompts to masks."""
    corpus, config, [swap] = setting.corpus, _open_masks(setting), setting.corpus.swaps
    store, segmenter, baseline = corpus.store, load_segmenter(config.model), ClipSeg(config.model.model.name)
    retrieve, images = _retrieved(setting), load_image_index(corpus.store, corpus.downloads)

    def ours() -> ShardReport:
        return mask_shard(retrieve, config, store, segmenter, swap=swap, images=images)

    words = {row["sample_id"]: row for row in store.read_table(swap).to_pylist()}
    pairs = [row for row in store.read_table(retrieve).to_pylist() if row["target_id"]]
    wanted = [(row["sample_id"], words[row["sample_id"]]["source_diff"]) for row in pairs]
    wanted += [(row["target_id"], words[row["sample_id"]]["target_diff"]) for row in pairs]
    places = [images.find(sample) for sample, _ in wanted]

    def baseline_masks() -> int:
        data = [store.read_member(one.shard, one.offset, one.size, sha256=one.sha256) for one in places]
        return baseline.masks(data, [prompt for _, prompt in wanted], batch=config.batch.size)

    yield Comparison(num_items=len(pairs), ours=ours, baseline=baseline_masks, forget=_forget(setting, ours()))


@contextmanager
def pack_comparison(setting: Setting) -> Iterator[Comparison]:
    """Pairs to a tar."""
    store, config = setting.corpus.store, replace(setting.config.pack, samples_per_tar=_ONE_SHARD)
    inputs = _pack_inputs(setting)
    plan = plan_pack(inputs, config, store)
    tar = tar_names(plan)[0]
    packed = pack_shard(plan, tar, inputs, config, store)
    masks = {row["sample_id"]: row for row in store.read_table(inputs.stages["mask"][0]).to_pylist()}
    records = _json_records(setting, packed)
    images = load_image_index(store, setting.corpus.downloads)
    pairs = [
        (images.find(row["sample_id"]), images.find(row["target_id"]))
        for row in store.read_table(packed, columns=("sample_id", "target_id")).to_pylist()
    ]
    yield Comparison(
        num_items=packed.num_out,
        ours=lambda: pack_shard(plan, tar, inputs, config, store),
        baseline=lambda: write_webdataset(
            setting.folder / "baseline.tar",
            _samples(_tar(setting, setting.corpus.downloads[0]), pairs, masks, records),
        ),
        forget=_forget(setting, packed),
    )


COMPARISONS: Mapping[str, Callable[[Setting], AbstractContextManager[Comparison]]] = {
    "download": download_comparison,
    "caption": caption_comparison,
    "embed": embed_comparison,
    "retrieve": retrieve_comparison,
    "mask": mask_comparison,
    "pack": pack_comparison,
}
"""Stage -> what makes its comparison."""


def _complete(found: int, wanted: int) -> int:
    if found != wanted:
        raise SystemExit(f"{found} images came instead of {wanted}: the two sides did not do the same work")
    return found


def _tar(setting: Setting, download: ShardReport) -> Path:
    return setting.root / download.path("tar")


def _forget(setting: Setting, report: ShardReport) -> Callable[[], None]:
    """Return what removes the folder of a report: the next call finds nothing finished and writes the same again."""
    return lambda: shutil.rmtree(setting.root / stage_folder(report.stage, report.fingerprint))


def _beside_the_model(setting: Setting, download: ShardReport) -> list[tuple[str, float]]:
    """Return what the embed stage does with each image beside the model."""
    store = setting.corpus.store
    images = stored_images(store, download)
    arrays = [np.asarray(read_image(store, image)) for image in images]
    clock = [time.perf_counter()]
    size = setting.config.embed.batch.size
    for start in range(0, len(arrays), size):
        layout_descriptors([layout_pixels(array) for array in arrays[start : start + size]])
    clock.append(time.perf_counter())
    for image in images:
        read_tar_member(store.files, image.shard.path("tar"), image.offset, image.size, sha256=image.sha256)
    clock.append(time.perf_counter())
    layout, reading = np.diff(clock).tolist()
    return [("layouts, on both sides", layout), ("reading by range, checking hashes", reading)]


def _retrieved(setting: Setting) -> ShardReport:
    """Return targets without gates, so that enough pairs are left to be timed."""
    corpus, config = setting.corpus, setting.config
    ungated = replace(config.retrieve, gates=GateConfig())
    with open_index(corpus.index, corpus.store, config.index.search) as index:
        return retrieve_shard(corpus.embeds[0], ungated, corpus.store, index)


def _open_masks(setting: Setting) -> MaskConfig:
    return replace(setting.config.mask, gates=MaskGates())


def _pack_inputs(setting: Setting) -> PackInputs:
    corpus, store, retrieve = setting.corpus, setting.corpus.store, _retrieved(setting)
    config, images = _open_masks(setting), load_image_index(store, corpus.downloads)
    mask = mask_shard(retrieve, config, store, load_segmenter(config.model), swap=corpus.swaps[0], images=images)
    return PackInputs(
        {
            "plan": tuple(corpus.plans),
            "download": tuple(corpus.downloads),
            "caption": tuple(corpus.captions),
            "swap": tuple(corpus.swaps),
            "embed": tuple(corpus.embeds),
            "retrieve": (retrieve,),
            "mask": (mask,),
        }
    )


def _json_records(setting: Setting, packed: ShardReport) -> dict[str, Row]:
    with setting.corpus.store.open_blob(packed, "tar") as stream:
        members = ((*split_member(member.name), data) for member, data in iter_tar(stream, name=packed.name))
        return {sample: json.loads(data) for sample, part, data in members if part == "json"}


def _samples(
    tar: Path, pairs: Sequence[tuple[StoredImage, StoredImage]], masks: Mapping[str, Row], records: Mapping[str, Row]
) -> Iterator[dict[str, Any]]:
    with tar.open("rb") as stream:
        for source, target in pairs:
            name = source.sample_id
            sample: dict[str, Any] = {"__key__": name, "json": records[name]}
            for part, image in (("source", source), ("target", target)):
                stream.seek(image.offset)
                sample[f"{part}.png"] = stream.read(image.size)
                sample[f"{part}_mask.png"] = masks[name][f"{part}_mask_png"]
            yield sample
