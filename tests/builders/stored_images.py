"""Finished download shards in a real store, made of given bytes, and what stages after it would have written."""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from storage import Dropped, ShardReport, ShardStore, digest_of, sample_id, write_tar
from tasks.caption import CAPTION
from tasks.download.stage import DOWNLOAD
from tasks.retrieve.gates import RETRIEVE
from tasks.swap.stage import SWAP

FINGERPRINT = "0123456789abcdef"


def id_of(name: str) -> str:
    """Sample id of the image called ``name``."""
    return sample_id(f"https://pictures.test/{name}")


def png(pixels: np.ndarray) -> bytes:
    """PNG of a uint8 array."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def noise(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Random colours, uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def download(
    store: ShardStore,
    images: Mapping[str, bytes],
    *,
    shard: str = "00000",
    alt_texts: Mapping[str, str | None] | None = None,
    failed: tuple[str, ...] = (),
) -> ShardReport:
    """Commit a download shard: ``images`` are there, ``failed`` ones could not be fetched."""
    target = store.target("download", shard, FINGERPRINT)
    with target.scratch("tar") as path:
        tar = write_tar(path, ((f"{id_of(name)}.png", images[name]) for name in sorted(images, key=id_of)))
        places = {member.name.partition(".")[0]: member for member in tar.members}
        rows = []
        for name in (*images, *failed):
            member = places.get(id_of(name))
            row = {"sample_id": id_of(name), "url": f"https://pictures.test/{name}"}
            row |= {"status": "ok" if member else "failed", "alt_text": (alt_texts or {}).get(name)}
            if member:
                row |= {"image_shard": shard, "image_offset": member.offset, "image_size": member.size}
                row |= {"stored_sha256": member.sha256, "sha256": member.sha256}
            rows.append(row)
        return target.commit(
            num_in=len(rows),
            num_out=len(images),
            seconds=0,
            table=DOWNLOAD.table(rows),
            blobs={"tar": tar},
            dropped=[Dropped(sample_id=id_of(name), reason="not_found") for name in failed],
        )


def captioned(store: ShardStore, captions: Mapping[str, str], *, shard: str = "00000") -> ShardReport:
    """Commit a caption shard."""
    rows = [{"sample_id": id_of(name), "caption": text, "caption_source": "model"} for name, text in captions.items()]
    target = store.target("caption", shard, digest_of(*sorted(captions))[:16])
    return target.commit(num_in=len(rows), seconds=0, table=CAPTION.table(rows))


def swapped(store: ShardStore, swaps: Mapping[str, tuple[str, str, str, str]], *, shard: str = "00000") -> ShardReport:
    """Commit a swap shard of name -> (caption, edit prompt, source_diff, target_diff)."""
    words = {"swapped_from": "x", "swapped_to": "y", "relation": "cohyponym", "pos": "noun", "level": 1}
    rows = [
        {"sample_id": id_of(name), "caption": old, "edit_prompt": new, "source_diff": before, "target_diff": after}
        | {"source_synset": "x.n.01", "target_synset": "y.n.01"}
        | words
        for name, (old, new, before, after) in swaps.items()
    ]
    target = store.target("swap", shard, FINGERPRINT)
    return target.commit(num_in=len(rows), seconds=0, table=SWAP.table(rows))


def retrieved(store: ShardStore, targets: Mapping[str, str | None], *, shard: str = "00000") -> ShardReport:
    """Commit a retrieve shard of name -> name of its target."""
    rows = []
    for name, found in targets.items():
        row = {"sample_id": id_of(name), "target_id": id_of(found) if found else None}
        empty = {column.name: [] for column in RETRIEVE.columns if column.type.startswith("list")}
        rows.append(row | empty)
    target = store.target("retrieve", shard, FINGERPRINT)
    lost = [Dropped(sample_id=id_of(name), reason="all_gated") for name, found in targets.items() if found is None]
    return target.commit(
        num_in=len(rows),
        num_out=len(rows) - len(lost),
        seconds=0,
        table=RETRIEVE.table(rows),
        dropped=lost,
    )
