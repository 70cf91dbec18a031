"""Stored images -> RGB in memory: where bytes of the store are decoded.

Members of a download shard's tar are read by range, checked against their hash and decoded in threads while a model
works. Where the images of other shards lie, the targets of a pair among them, says ``tasks.images.image_index``.
Pixels come as they were stored: masks and packed samples lie on the same grid.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from pydantic import Field

from iedit_model.batching import map_batches, prefetch
from iedit_model.configuration import configuration
from iedit_model.errors import ImageFileError
from iedit_model.imaging.decode import STORED_FORMATS, ImageLimits, decode_image
from storage import CorruptFileError, Dropped, ShardReport, ShardStore, read_tar_member
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
        """Keep both: ``damaged_image`` for other bytes than were stored, ``undecodable_image`` for no image."""
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
        ImageError: its bytes are not those that were stored, or are no image.
        MissingFileError: the tar is gone.
        CorruptFileError: the tar was cut short, so that the shard must be downloaded again.
    """
    path = image.shard.path("tar")
    try:
        data = read_tar_member(store.files, path, image.offset, image.size, sha256=image.sha256)
    except CorruptFileError as error:
        if (store.files.size(path) or 0) < image.offset + image.size:
            raise
        raise ImageError("damaged_image", str(error)) from error
    return decode_stored(data)


def decode_stored(data: bytes) -> "Image":
    """Return the RGB image in bytes of the store.

    Raises:
        ImageError: not a whole image of a format that is stored, or one of too many pixels.
    """
    try:
        # Bytes of the store were counted when they were fetched, and checked against their hash.
        limits = ImageLimits(max_bytes=max(1, len(data)))
        return decode_image(data, limits=limits, formats=tuple(STORED_FORMATS))
    except ImageFileError as error:
        raise ImageError("undecodable_image", str(error)[:200]) from error


def stored_rows(store: ShardStore, download: ShardReport) -> "pa.Table":
    """Return where the images of one download shard lie, one row per image, sorted by sample id."""
    import pyarrow.compute as pc

    return store.read_table(download, columns=_COLUMNS, where=pc.field("status") == "ok")
