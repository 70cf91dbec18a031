"""A store with planted captions, embeddings and images, as the stages before the measured ones leave it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from miniature.world import World
from storage import ShardReport, ShardStore, sample_id, write_tar
from tasks.caption import CAPTION
from tasks.download.stage import DOWNLOAD
from tasks.embed.stage import embed_schema
from tasks.mask.stage import MASK
from tasks.plan.stage import PLAN

SHARD_ROWS = 1_000
_FINGERPRINT = "0123456789abcdef"
_LAYOUT_DIM = 256
_PNG = b"\x89PNG\r\n\x1a\n"
_IMAGE_BYTES, _MASK_BYTES = 2_000, 200
_GREY_HEADER = _PNG + (13).to_bytes(4, "big") + b"IHDR" + (64).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
_WORLD = World(0)
_ROWS_A_CLUSTER = 100
_SPREAD = 0.6

Float16s = npt.NDArray[np.float16]


def plant(root: Path, *, num_rows: int, dim: int) -> None:
    """Commit plan, download, caption and embed shards of ``num_rows`` rows under ``root``."""
    store = ShardStore.at(root / "store")
    reports: dict[str, list[ShardReport]] = {stage: [] for stage in ("plan", "download", "caption", "embed")}
    centres = _unit(np.random.default_rng(1).normal(size=(max(2, num_rows // _ROWS_A_CLUSTER), dim)))
    for number, first in enumerate(range(0, num_rows, SHARD_ROWS)):
        shard, numbers = f"{number:05d}", range(first, min(first + SHARD_ROWS, num_rows))
        rows = sorted(
            ({"sample_id": sample_id(_url(n)), "number": n} for n in numbers), key=lambda row: row["sample_id"]
        )
        reports["plan"].append(_plan(store, shard, rows))
        reports["download"].append(_download(store, shard, rows))
        captions = [_row(row, caption=_WORLD.scene(row["number"]).caption, caption_source="model") for row in rows]
        reports["caption"].append(_commit(store, "caption", shard, CAPTION.table(captions)))
        reports["embed"].append(_embed(store, shard, rows, centres))
    for stage, found in reports.items():
        save(root, stage, found)


def plant_masks(store: ShardStore, root: Path) -> None:
    """Commit a pair of masks for every target that was retrieved."""
    found = []
    for swap, retrieve in zip(load(root, "swap"), load(root, "retrieve"), strict=True):
        swapped = set(store.read_table(swap, columns=["sample_id"])["sample_id"].to_pylist())
        rows = store.read_table(retrieve, columns=["sample_id", "target_id"]).to_pylist()
        kept = [row for row in rows if row["target_id"] and row["sample_id"] in swapped]
        found.append(_commit(store, "mask", swap.shard, MASK.table(map(_mask, kept))))
    save(root, "mask", found)


def save(root: Path, stage: str, reports: Iterable[ShardReport]) -> None:
    """Note the reports of a stage, for a later process."""
    (root / f"{stage}.json").write_text(json.dumps([report.to_json().decode() for report in reports]))


def load(root: Path, stage: str) -> tuple[ShardReport, ...]:
    """Return the reports of a stage."""
    return tuple(ShardReport.from_json(text.encode()) for text in json.loads((root / f"{stage}.json").read_text()))


def _plan(store: ShardStore, shard: str, rows: Sequence[Mapping[str, Any]]) -> ShardReport:
    planned = [
        _row(row, url=_url(row["number"]), alt_text="alt", source_file="a.parquet", source_row=row["number"])
        for row in rows
    ]
    return _commit(store, "plan", shard, PLAN.table(planned))


def _download(store: ShardStore, shard: str, rows: Sequence[Mapping[str, Any]]) -> ShardReport:
    target = store.target("download", shard, _FINGERPRINT)
    with target.scratch("tar") as path:
        tar = write_tar(path, ((f"{row['sample_id']}.png", _image(row["number"])) for row in rows))
        fetched = []
        for row, member in zip(rows, tar.members, strict=True):
            place = {"image_shard": shard, "image_offset": member.offset, "image_size": member.size}
            sizes = dict.fromkeys(("original_width", "original_height", "width", "height"), 64)
            said = {"url": _url(row["number"]), "alt_text": "alt", "status": "ok", "original_format": "png"}
            phash = int.from_bytes(hashlib.sha256(row["sample_id"].encode()).digest()[:8], "big", signed=True)
            hashes = {"sha256": member.sha256, "stored_sha256": member.sha256, "phash": phash}
            fetched.append(_row(row, **said, **place, **sizes, **hashes))
        table = DOWNLOAD.table(fetched)
        return target.commit(table=table, num_in=len(rows), blobs={"tar": tar}, seconds=0)


def _embed(store: ShardStore, shard: str, rows: Sequence[Mapping[str, Any]], centres: Any) -> ShardReport:
    import pyarrow as pa

    rng = np.random.default_rng(int(shard))
    num, dim = len(rows), centres.shape[1]
    near = [_unit(centres[rng.integers(len(centres), size=num)] + _noise(rng, num, dim)) for _ in range(2)]
    columns = {
        "image_embeds": near[0],
        "text_embeds": near[1],
        "caption_embeds": _unit(near[0] + _noise(rng, num, dim)),
        "layout_embeds": _unit(rng.normal(size=(num, _LAYOUT_DIM))),
    }
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(_flat(values), values.shape[1]) for name, values in columns.items()
    }
    table = pa.table({"sample_id": [row["sample_id"] for row in rows], **arrays})
    schema = embed_schema(dim, layout_dim=_LAYOUT_DIM)
    return store.target("embed", shard, _FINGERPRINT).commit(table=table, schema=schema, num_in=num, seconds=0)


def _commit(store: ShardStore, stage: str, shard: str, table: Any) -> ShardReport:
    return store.target(stage, shard, _FINGERPRINT).commit(table=table, num_in=table.num_rows, seconds=0)


def _row(row: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    return {"sample_id": row["sample_id"], **values}


def _mask(row: Mapping[str, Any]) -> dict[str, Any]:
    name = row["sample_id"]
    made = dict(row) | {"mask_iou": 0.5, "outside_similarity": 0.5}
    for side in ("source", "target"):
        made[f"{side}_mask_png"] = _GREY_HEADER + np.random.default_rng(int(name, 16)).bytes(_MASK_BYTES)
        made |= {f"{side}_mask_{what}": 0.25 for what in ("mean", "max", "area", "border")}
    return made


def _image(number: int) -> bytes:
    return _PNG + np.random.default_rng(number).bytes(_IMAGE_BYTES)


def _url(number: int) -> str:
    return f"https://planted.example/{number}.png"


def _noise(rng: np.random.Generator, num: int, dim: int) -> Any:
    return rng.normal(size=(num, dim)) * (_SPREAD / np.sqrt(dim))


def _unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _flat(rows: Any) -> Any:
    import pyarrow as pa

    return pa.array(rows.astype(np.float16).ravel())
