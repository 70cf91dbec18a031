"""A small corpus of true pairs of the miniature's world, committed as the stages before pack would have."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from miniature.pairs import TruePair, true_pair
from miniature.world import Scene, World
from storage import Dropped, ShardReport, ShardStore, StageRun, VersionInfo, sample_id, write_tar
from storage.ids import digest_of
from tasks.caption import CAPTION
from tasks.download.image_body import perceptual_hash
from tasks.download.stage import DOWNLOAD
from tasks.embed.stage import embed_schema
from tasks.mask.stage import MASK
from tasks.pack.stage import PackConfig, PackInputs, pack_shard, plan_pack, tar_names, write_dataset
from tasks.plan.stage import PLAN
from tasks.retrieve.gates import RETRIEVE
from tasks.swap.stage import SWAP

FP = "0123456789abcdef"
EMBED_DIM = 16
STAGES = {"plan": PLAN, "caption": CAPTION, "swap": SWAP, "retrieve": RETRIEVE, "mask": MASK}


@dataclass(frozen=True)
class NoConfig:
    """Stands for the configuration of a stage that is planted."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One pair: its words and images, and the ids of both."""

    source_id: str
    target_id: str
    truth: TruePair
    rows: Mapping[str, dict[str, Any]]
    """Stage -> what its row says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Pairs of which each source and each target is an image of its own, cut into shards in the order of the input."""

    pairs: tuple[Pair, ...]
    shard_size: int = 7
    """Pairs a shard."""
    order: tuple[int, ...] = ()
    """In which order the reports are handed over; by default as they were cut."""
    images: Mapping[str, bytes] = field(default_factory=dict)
    """Sample id -> bytes of the stored image, where it is not the scene's PNG."""

    def inputs(self, store: ShardStore) -> PackInputs:
        """Commit all stages and return their reports."""
        cut = [self.pairs[i : i + self.shard_size] for i in range(0, len(self.pairs), self.shard_size)]
        reports = [self._commit(store, f"{number:05d}", part) for number, part in enumerate(cut)]
        reports = [reports[i] for i in self.order] if self.order else reports
        stages = ("plan", "download", "caption", "swap", "embed", "retrieve", "mask")
        return PackInputs({stage: tuple(report[stage] for report in reports) for stage in stages})

    def build(self, store: ShardStore, config: PackConfig) -> VersionInfo:
        """Pack everything and return the version."""
        return build(self.inputs(store), config, store)

    def _commit(self, store: ShardStore, shard: str, pairs: Sequence[Pair]) -> dict[str, ShardReport]:
        first = self.pairs.index(pairs[0])
        rows = [self._rows(pair, 2 * (first + i)) for i, pair in enumerate(pairs)]
        found = {"download": self._download(store, shard, pairs), "embed": self._embed(store, shard, pairs)}
        for stage, schema in STAGES.items():
            both = ("source", "target") if stage in ("plan", "caption") else ("source",)
            table = schema.table(row[side][stage] for row in rows for side in both)
            lost = [Dropped(sample_id="x" * 20, reason="too_small")] if stage == "plan" else []
            target = store.target(stage, shard, FP)
            found[stage] = target.commit(table=table, num_in=table.num_rows + len(lost), dropped=lost, seconds=1)
        return found

    def _rows(self, pair: Pair, number: int) -> dict[str, dict[str, dict[str, Any]]]:
        sides = {}
        for side in ("source", "target"):
            name = pair.source_id if side == "source" else pair.target_id
            row = {"sample_id": name}
            place = {"source_file": "a.parquet", "source_row": number + (side == "target")}
            sides[side] = {
                "plan": row | {"url": url(name), "alt_text": f"{side} <b>alt</b>"} | place,
                "caption": row | {"caption": getattr(pair.truth, side).caption, "caption_source": "model"},
            }
        for stage in ("swap", "retrieve", "mask"):
            sides["source"][stage] = {"sample_id": pair.source_id} | _row(stage, pair)
        for stage, row in pair.rows.items():
            sides["source"][stage] |= row
        return sides

    def _embed(self, store: ShardStore, shard: str, pairs: Sequence[Pair]) -> ShardReport:
        schema = embed_schema(EMBED_DIM, layout_dim=EMBED_DIM)
        vectors = [column.name for column in schema.columns if column.type.startswith("float16")]
        hashes = {name: perceptual_hash(self.shown(name, scene)) for name, scene in _scenes(pairs).items()}
        rows = [{"sample_id": name} | dict.fromkeys(vectors, unit_vector(str(seen))) for name, seen in hashes.items()]
        target = store.target("embed", shard, FP)
        return target.commit(table=schema.table(rows), schema=schema, num_in=len(rows), seconds=1)

    def shown(self, name: str, scene: Scene) -> Image.Image:
        """Return the image of a sample; the scene where the stored bytes are broken."""
        try:
            return Image.open(io.BytesIO(self.images[name])).convert("RGB")
        except (KeyError, OSError):
            return scene.render()

    def _download(self, store: ShardStore, shard: str, pairs: Sequence[Pair]) -> ShardReport:
        scenes = _scenes(pairs)
        data = {name: self.images.get(name) or png(scene.render()) for name, scene in sorted(scenes.items())}
        target = store.target("download", shard, FP)
        with target.scratch("tar") as path:
            tar = write_tar(path, ((f"{name}.png", content) for name, content in data.items()))
            rows = []
            for (name, scene), member in zip(sorted(scenes.items()), tar.members, strict=True):
                row = {"sample_id": name, "url": url(name), "alt_text": "alt", "status": "ok"}
                row |= {"sha256": digest_of("original", name), "original_format": "png"}
                row |= {"original_width": 64, "original_height": 64, "width": 64, "height": 64}
                row |= {"stored_sha256": member.sha256, "image_shard": shard, "image_offset": member.offset}
                rows.append(row | {"image_size": member.size, "phash": perceptual_hash(self.shown(name, scene))})
            return target.commit(table=DOWNLOAD.table(rows), num_in=len(rows), blobs={"tar": tar}, seconds=1)


def planted(num_pairs: int, *, seed: int = 0, rows: Mapping[int, Mapping[str, dict[str, Any]]] | None = None) -> Corpus:
    """Return a corpus of true pairs; ``rows`` says for some of them what a stage's row says otherwise."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(num_pairs):
        truth = true_pair(World(seed).scene(number), rng)
        ids = {
            f"{side}_id": sample_id(f"https://world.example/{seed}/{number}/{side}") for side in ("source", "target")
        }
        pairs.append(Pair(**ids, truth=truth, rows=(rows or {}).get(number, {})))
    return Corpus(pairs=tuple(pairs))


def reordered(corpus: Corpus, *, shard_size: int, order: Sequence[int] = ()) -> Corpus:
    """Return the same pairs in other shards."""
    return replace(corpus, shard_size=shard_size, order=tuple(order))


def build(inputs: PackInputs, config: PackConfig, store: ShardStore) -> VersionInfo:
    """Pack and return the version."""
    plan = plan_pack(inputs, config, store)
    packed = [pack_shard(plan, name, inputs, config, store) for name in tar_names(plan)]
    runs = [
        StageRun(stage=stage, code_version=1, config=NoConfig(), reports=inputs.stages[stage], weights_digest=model)
        for stage, model in (("plan", None), ("download", None), ("caption", "blip"), ("swap", None))
    ]
    runs += [StageRun(stage=stage, code_version=1, config=NoConfig(), reports=inputs.stages[stage]) for stage in _LATE]
    return write_dataset(plan, packed, config, store, runs=runs, input_digest="input")


_LATE = ("retrieve", "mask")


def _scenes(pairs: Sequence[Pair]) -> dict[str, Scene]:
    scenes = {pair.source_id: pair.truth.source for pair in pairs}
    return scenes | {pair.target_id: pair.truth.target for pair in pairs}


def unit_vector(text: str) -> np.ndarray:
    """Return a unit vector that is the same for the same text, float16."""
    row = np.random.default_rng(int(digest_of(text)[:8], 16)).normal(size=EMBED_DIM)
    return (row / np.linalg.norm(row)).astype(np.float16)


def url(name: str) -> str:
    """Return the URL of a planted image."""
    return f"https://world.example/{name}.png"


def png(image: Image.Image) -> bytes:
    """Return the image as PNG bytes."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _row(stage: str, pair: Pair) -> dict[str, Any]:
    truth = pair.truth
    if stage == "swap":
        words = {"swapped_from": truth.swapped_from, "swapped_to": truth.swapped_to, "level": 1}
        words |= {"source_diff": truth.source_diff, "target_diff": truth.target_diff, "relation": "cohyponym"}
        words |= {"pos": "noun" if truth.kind == "noun" else "adjective", "source_synset": "a.n.01"}
        return words | {"caption": truth.source.caption, "edit_prompt": truth.edit_prompt, "target_synset": "b.n.01"}
    if stage == "retrieve":
        score = (int(pair.source_id[:4], 16) % 1000) / 1000
        found = {"target_id": pair.target_id, "similarity": score, "rank": 0, "image_similarity": score / 2}
        lists = {column.name: [0.5] for column in RETRIEVE.columns if column.type == "list<float32>"}
        return found | lists | {"candidate_ids": [pair.target_id], "candidate_reasons": [""]}
    masks = {}
    for side in ("source", "target"):
        mask = getattr(truth, side).masks()[truth.position]
        masks[f"{side}_mask_png"] = png(Image.fromarray(mask.astype(np.uint8) * 255))
        masks |= {f"{side}_mask_{name}": float(mask.mean()) for name in ("mean", "max", "area", "border")}
    return masks | {"target_id": pair.target_id, "mask_iou": 0.8, "outside_similarity": 0.9}
