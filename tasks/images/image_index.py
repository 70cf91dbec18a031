"""Where every image of the corpus lies, so that the targets of a shard's pairs can be read from any other shard."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from storage import ShardReport, ShardStore
from tasks.corpus import Ids, packed_ids
from tasks.images.stored_images import StoredImage, UnknownImageError, stored_rows

_KEPT_INDEXES: Final = 2


@dataclass(frozen=True, kw_only=True)
class ImageIndex:
    """Where every image of the corpus lies, packed: 80 bytes per image."""

    shards: tuple[ShardReport, ...]
    ids: Ids
    """Sorted, without repetition."""
    shard_numbers: npt.NDArray[np.int32]
    """Positions in ``shards``."""
    spans: npt.NDArray[np.int64]
    """(images, 2): offset and size, bytes."""
    hashes: npt.NDArray[np.uint8]
    """(images, 32): sha256 of the stored bytes."""

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, sample_id: str) -> StoredImage:
        """Return where the image of a sample lies.

        Raises:
            UnknownImageError: no download shard holds it.
        """
        wanted = sample_id.encode("ascii", "replace")
        row = int(np.searchsorted(self.ids, np.bytes_(wanted)))
        if row == len(self.ids) or bytes(self.ids[row]) != wanted:
            raise UnknownImageError(
                f"no image of the sample {sample_id} among {len(self)} images of {len(self.shards)} download shards: "
                "give the reports of all shards"
            )
        offset, size = (int(number) for number in self.spans[row])
        return StoredImage(
            sample_id=sample_id,
            shard=self.shards[self.shard_numbers[row]],
            offset=offset,
            size=size,
            sha256=self.hashes[row].tobytes().hex(),
        )


def build_image_index(store: ShardStore, downloads: Sequence[ShardReport]) -> ImageIndex:
    """Read where the images of all download shards lie; one table is in memory at a time.

    Raises:
        UnknownImageError: a row names a shard that is not among ``downloads``, or two rows share a sample id.
    """
    numbers = {report.shard: number for number, report in enumerate(downloads)}
    ids, shards, spans, hashes = [packed_ids(())], [], [], []
    for report in downloads:
        table = stored_rows(store, report)
        ids.append(packed_ids(table["sample_id"].to_pylist()))
        names = table["image_shard"].to_pylist()
        if unknown := sorted({name for name in names if name not in numbers}):
            raise UnknownImageError(f"images of {report.name} lie in the shard {unknown[0]!r}, which was not given")
        shards.append(np.array([numbers[name] for name in names], np.int32))
        pairs = (table["image_offset"].to_pylist(), table["image_size"].to_pylist())
        spans.append(np.array(pairs, np.int64).reshape(2, -1).T)
        digests = bytes.fromhex("".join(table["stored_sha256"].to_pylist()))
        hashes.append(np.frombuffer(digests, np.uint8).reshape(-1, 32))
    all_ids = np.concatenate(ids)
    order = np.argsort(all_ids, kind="stable")
    all_ids = all_ids[order]
    if (twice := np.flatnonzero(all_ids[:-1] == all_ids[1:])).size:
        raise UnknownImageError(f"the sample {bytes(all_ids[twice[0]]).decode()} is in two download shards")
    return ImageIndex(
        shards=tuple(downloads),
        ids=all_ids,
        shard_numbers=np.concatenate([np.zeros(0, np.int32), *shards])[order],
        spans=np.concatenate([np.zeros((0, 2), np.int64), *spans])[order],
        hashes=np.concatenate([np.zeros((0, 32), np.uint8), *hashes])[order],
    )


_indexes: dict[tuple[object, ...], ImageIndex] = {}
_indexes_lock = threading.Lock()


def load_image_index(store: ShardStore, downloads: Sequence[ShardReport]) -> ImageIndex:
    """Return the index of these shards, built once per process for the same content, however many threads ask.

    Raises what ``build_image_index`` raises.
    """
    key = (store.files.root, *((report.shard, report.digest) for report in downloads))
    with _indexes_lock:
        if key not in _indexes:
            while len(_indexes) >= _KEPT_INDEXES:
                del _indexes[next(iter(_indexes))]
            _indexes[key] = build_image_index(store, downloads)
        return _indexes[key]
