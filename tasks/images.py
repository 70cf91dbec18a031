"""Stored images -> RGB in memory: where bytes of the store are decoded, and where each image of the corpus lies.

Members of a download shard's tar are read by range, checked against their hash and decoded in threads while a model
works. The targets of a shard's pairs may lie in any other shard: ``ImageIndex`` says where. Pixels come as they were
stored: masks and packed samples lie on the same grid.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from iedit_model.batching import map_batches, prefetch
from iedit_model.configuration import configuration
from iedit_model.errors import ImageFileError
from iedit_model.imaging.decode import STORED_FORMATS, ImageLimits, decode_image
from storage import Dropped, ShardReport, ShardStore
from tasks.corpus import Ids, packed_ids
from tasks.errors import TaskError

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image


Prepared = TypeVar("Prepared")
Result = TypeVar("Result")

_COLUMNS: Final = ("sample_id", "status", "image_shard", "image_offset", "image_size", "stored_sha256")


class UnknownImageError(TaskError):
    """A sample's image is asked for that no download shard holds."""


class ImageError(TaskError):
    """One stored image cannot be used; ``reason`` is the word under which its sample is counted as dropped."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep both: ``undecodable_image`` for bytes that are no image of a format that is stored."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@configuration
class BatchConfig:
    """How images go through a model."""

    size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Images per batch. Part of the fingerprint: another shape of batch may change the last bits of a result."""
    decode_threads: Annotated[int, Field(ge=0, le=256)] = field(default=4, metadata={"fingerprint": False})
    """Threads that read, decode and prepare images while the model works; 0 does it in between."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredImage:
    """Where an image lies: the download shard whose tar holds it, and its position and hash there."""

    sample_id: str
    shard: ShardReport
    offset: int
    size: int
    sha256: str


class ImagePass:
    """One pass of a model over stored images: decoded ahead in threads, in batches of one shape; keeps the dropped."""

    def __init__(self, store: ShardStore, config: BatchConfig) -> None:
        self._store = store
        self._config = config
        self.dropped: list[Dropped] = []
        """One entry per image that could not be used, in order."""
        self.num_halvings = 0
        """How often a batch did not fit into memory."""

    def run(
        self,
        images: Iterable[StoredImage],
        prepare: "Callable[[StoredImage, Image], Prepared]",
        infer: Callable[[Sequence[Prepared]], Sequence[Result]],
    ) -> Iterator[tuple[StoredImage, Result]]:
        """Yield each usable image with its result, in order.

        Args:
            images: what to read.
            prepare: called in threads with the decoded RGB image.
            infer: called with batches of prepared images, all of the configured size.

        Raises:
            MissingFileError: a tar is gone.
            MemoryLimitError: not even one image fits into memory.
        """

        def load(image: StoredImage) -> "tuple[StoredImage, Prepared] | tuple[StoredImage, ImageError]":
            try:
                return image, prepare(image, read_image(self._store, image))
            except ImageError as error:
                return image, error

        config = self._config
        loaded = prefetch(images, load, num_threads=config.decode_threads, ahead=2 * config.size)
        batches = map_batches(
            lambda batch: infer([prepared for _, prepared in batch]),
            self._usable(loaded),
            batch_size=config.size,
            on_halving=self._count_halving,
        )
        for (image, _), result in batches:
            yield image, result

    def _usable(self, loaded: Iterable[tuple[StoredImage, Any]]) -> Iterator[tuple[StoredImage, Any]]:
        for image, prepared in loaded:
            if isinstance(prepared, ImageError):
                self.dropped.append(Dropped(sample_id=image.sample_id, reason=prepared.reason, detail=prepared.detail))
            else:
                yield image, prepared

    def _count_halving(self, size: int, next_size: int) -> None:
        del size, next_size
        self.num_halvings += 1


def stored_images(store: ShardStore, download: ShardReport) -> list[StoredImage]:
    """Return the images of one download shard, sorted by sample id.

    Raises:
        UnknownImageError: one of them lies in another shard.
    """
    rows = stored_rows(store, download).to_pylist()
    if elsewhere := [row for row in rows if row["image_shard"] != download.shard]:
        raise UnknownImageError(
            f"the image of {elsewhere[0]['sample_id']} lies in the shard {elsewhere[0]['image_shard']!r}, not in "
            f"{download.name}"
        )
    return [
        StoredImage(
            sample_id=row["sample_id"],
            shard=download,
            offset=row["image_offset"],
            size=row["image_size"],
            sha256=row["stored_sha256"],
        )
        for row in rows
    ]


def read_image(store: ShardStore, image: StoredImage) -> "Image":
    """Return a stored image as RGB.

    Raises:
        ImageError: it is no image.
        MissingFileError: the tar is gone.
        DamagedFileError: its bytes are not those that were stored, so that the shard must be downloaded again.
    """
    return decode_stored(store.read_member(image.shard, image.offset, image.size, sha256=image.sha256))


def decode_stored(data: bytes) -> "Image":
    """Return the RGB image in bytes of the store.

    Raises:
        ImageError: not a whole image of a format that is stored, or one of too many pixels.
    """
    try:
        # Bytes of the store were counted when they were fetched, and checked against their hash.
        limits = ImageLimits(max_bytes=max(1, len(data)))
        return decode_image(data, limits=limits, formats=tuple(STORED_FORMATS), trusted=True)
    except ImageFileError as error:
        raise ImageError("undecodable_image", str(error)[:200]) from error


def stored_rows(store: ShardStore, download: ShardReport) -> "pa.Table":
    """Return where the images of one download shard lie, one row per image, sorted by sample id."""
    import pyarrow.compute as pc

    return store.read_table(download, columns=_COLUMNS, where=pc.field("status") == "ok")


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
