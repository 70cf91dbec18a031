"""Edit one image by words: results, a contact sheet, and a record from which the same bytes come again."""

import fcntl
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from iedit_model.editing.editor import Editor, EditRequest, EditResult, Mask
from iedit_model.editing.framing import frame
from iedit_model.editing.methods import all_methods, build_editor, method_info
from iedit_model.editing.registry import editor_spec
from iedit_model.errors import ConfigError, EditError, ImageFileError
from iedit_model.imaging.decode import LIMITS, ImageLimits, decode_image, left_behind
from iedit_model.imaging.encode import encode_image
from iedit_model.imaging.mask_files import encode_mask, read_mask
from iedit_model.imaging.sheet import SheetCell, contact_sheet, overlaid
from iedit_model.models.latent_diffusion import PART_FILES, native_size
from iedit_model.models.source import CARD, ModelSource, described_limits, model_folder
from storage.atomic import create_bytes
from tasks.edit.record import (
    RECORD_NAME,
    EditJob,
    EditRecord,
    EditRecordError,
    read_record,
    read_recorded,
    record_bytes,
    recorded,
)

if TYPE_CHECKING:
    from PIL.Image import Image


TILE_PX: Final = 256
"""Longer side of a tile."""
_MAX_COLUMNS: Final = 6
_MUCH_LARGER: Final = 4
"""How many times the pixels of the model's canvas an image has before it is said that detail is lost."""


def edit_sheet(
    title: str, source: "Image", mask: Mask | None, results: Sequence["Image"], labels: Sequence[str]
) -> "Image":
    """Return the sheet: source | mask | results, at most six tiles per row, under a title.

    Args:
        title: the edit in words; what does not fit is cut off.
        source: RGB.
        mask: (height, width) of the source, shown as an overlay; None leaves the tile out.
        results: RGB, in the source's size.
        labels: one per result.
    """
    scale = TILE_PX / max(source.size)
    tile = max(1, round(source.width * scale)), max(1, round(source.height * scale))
    cells = [SheetCell(images=[image], lines=[label]) for label, image in zip(labels, results, strict=True)]
    if mask is not None:
        shown = overlaid(source, np.rint(mask * 255).astype(np.uint8), tile_size=tile)
        cells.insert(0, SheetCell(images=[shown], lines=["mask"]))
    cells.insert(0, SheetCell(images=[source], lines=["source"]))
    return contact_sheet(cells, columns=_MAX_COLUMNS, tile_size=tile, title=title)


SHEET_NAME: Final = "sheet.png"
SOURCE_STEM: Final = "source"
MASK_NAME: Final = "mask.png"
GIVEN_MASK_STEM: Final = "given_mask"


@dataclass(frozen=True, kw_only=True)
class EditOutcome:
    """What an edit wrote."""

    results: tuple[Path, ...]
    """One image per seed."""
    sheet: Path
    record: Path
    seconds: float
    """For all results, models already loaded."""
    notes: tuple[str, ...] = ()
    """What a user should know: what of the image could not be kept, how small the model sees it, and its limits."""


@dataclass(frozen=True, kw_only=True)
class _Input:
    """A file from outside, kept as it came."""

    name: str
    data: bytes


def edit_file(
    image: Path, job: EditJob, folder: Path, *, mask: Path | None = None, limits: ImageLimits = LIMITS
) -> EditOutcome:
    """Edit an image file and write the results into a folder, the record last.

    Args:
        image: an image file of any size and mode.
        job: the edit.
        folder: where to; made if it is not there. Nothing there is overwritten: where other files have the names that
            are needed, an earlier edit's for instance, this one goes into ``edit_2``, ``edit_3``, ... in it.
        mask: a mask file, white where to edit, of the image's shape as it is shown.
        limits: how large the files may be.

    Returns:
        The paths.

    Raises:
        ImageFileError: an image cannot be read.
        MaskError: the mask does not fit the image, or an automatic one is empty.
        EditError, ConfigError, WeightsError: the method lacks what it needs.
        DiskFullError: no room.
    """
    source = _Input(name=f"{SOURCE_STEM}{_suffix(image)}", data=_read(image, limits))
    given = None
    if mask is not None:
        given = _Input(name=f"{GIVEN_MASK_STEM}{_suffix(mask)}", data=_read(mask, limits))
    return _edit(source, given, job, folder, build_editor(editor_spec(job.method, job.models, job.settings)), limits)


def repeat_edit(record: Path, folder: Path, *, limits: ImageLimits = LIMITS) -> EditOutcome:
    """Make an edit again from its record; the files come out byte for byte, on the same libraries and device.

    Args:
        record: an ``edit.json``, with the files that it names beside it.
        folder: where to.
        limits: how large the files may be.

    Raises:
        EditRecordError: the record or a file of it is damaged, or the weights are not those of the record.
        WeightsError: the weights are gone.
    """
    known = read_record(record)
    inputs = [
        None
        if file is None
        else _Input(name=file.name, data=read_recorded(record.parent, file, max_bytes=limits.max_bytes))
        for file in (known.source, known.mask)
    ]
    source, given = inputs
    editor = build_editor(editor_spec(known.job.method, known.job.models, known.job.settings))
    if editor.fingerprint != known.editor:
        raise EditRecordError(
            f"the record was made by {known.editor}, and the same names now mean {editor.fingerprint}: weights, "
            "settings or device have changed"
        )
    if source is None:
        raise EditRecordError(f"{record} names no source")
    return _edit(source, given, known.job, folder, editor, limits)


def _edit(
    source: _Input, given: _Input | None, job: EditJob, folder: Path, editor: Editor, limits: ImageLimits
) -> EditOutcome:
    if given is not None and not method_info(job.method).needs_mask:
        known = sorted(method.name for method in all_methods() if method.needs_mask)
        raise ConfigError(f"the method {job.method} takes no mask; those that do: {', '.join(known)}")
    image = decode_image(source.data, limits=limits)
    mask = None if given is None else read_mask(given.data, size=image.size, limits=limits)
    results = editor.edit(_requests(job, image, mask))
    files = _files(job, image, results)
    outputs = tuple(recorded(name, data) for name, data in files.items())
    record = EditRecord(
        job=job,
        editor=editor.fingerprint,
        source=recorded(source.name, source.data),
        mask=None if given is None else recorded(given.name, given.data),
        outputs=outputs,
    )
    kept = {file.name: file.data for file in (source, given) if file is not None}
    written = {**kept, **files, RECORD_NAME: record_bytes(record)}
    with _own_folder(folder, written) as own:
        for name, data in written.items():
            create_bytes(own / name, data)
    return EditOutcome(
        results=tuple(own / name for name in list(files)[: len(results)]),
        sheet=own / SHEET_NAME,
        record=own / RECORD_NAME,
        seconds=sum(result.seconds for result in results),
        notes=(*left_behind(source.data, limits=limits), *_model_notes(job, image.size)),
    )


def _model_notes(job: EditJob, size: tuple[int, int]) -> Iterator[str]:
    """Yield what a user should know of the model and this image: its size there, and the limits its card names."""
    name = method_info(job.method).weights
    model: ModelSource | None = None if name == "none" else getattr(job.models, name)
    if model is None:
        return
    folder = model_folder(model, files=PART_FILES)
    native_px, cell_px = native_size(folder)
    wide, high = frame(size, job.settings.framing, native_px=native_px, multiple_px=cell_px).box_size
    if wide * high * _MUCH_LARGER < size[0] * size[1]:
        yield (
            f"the image of {size[0]} x {size[1]} pixels is edited at {wide} x {high} and enlarged again: detail is lost"
        )
    if limits := described_limits(folder):
        yield f"what the model says of itself ({folder / CARD}): {limits}"


def _requests(job: EditJob, image: "Image", mask: Mask | None) -> list[EditRequest]:
    return [
        EditRequest(
            image=image,
            edit_prompt=job.edit_prompt,
            source_prompt=job.source_prompt,
            word=job.word,
            replacement=job.replacement,
            instruction=job.instruction,
            mask=mask,
            seed=seed,
        )
        for seed in job.seeds
    ]


def _files(job: EditJob, image: "Image", results: Sequence[EditResult]) -> dict[str, bytes]:
    """Return what is written beside the record: the results first, then the mask that was used and the sheet."""
    digits = len(str(len(results) - 1))
    files = {f"edited_{index:0{digits}}.png": encode_image(result.image) for index, result in enumerate(results)}
    mask = results[0].mask
    if mask is not None:
        files[MASK_NAME] = encode_mask(np.rint(mask * 255).astype(np.uint8))
    title = f"{job.edit_prompt}  ({job.method})"
    sheet = edit_sheet(title, image, mask, [result.image for result in results], [f"seed {seed}" for seed in job.seeds])
    files[SHEET_NAME] = encode_image(sheet)
    return files


@contextmanager
def _own_folder(folder: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    """Yield where these files overwrite no other: ``folder``, or ``edit_2``, ``edit_3``, ... in it; locked meanwhile.

    A file that is there already with the same bytes is no other: an edit that is made again has its place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise EditError(f"the results cannot go to {folder} ({error.strerror}): name another folder") from error
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        numbered = (folder / f"edit_{number}" for number in itertools.count(2))
        own = next(place for place in itertools.chain([folder], numbered) if _is_free(place, files))
        yield own
    finally:
        os.close(descriptor)


def _is_free(folder: Path, files: Mapping[str, bytes]) -> bool:
    if folder.is_symlink() or not (folder.is_dir() or not folder.exists()):
        return False
    there = {name: folder / name for name in files if os.path.lexists(folder / name)}
    return all(
        path.is_file()
        and not path.is_symlink()
        and path.stat().st_size == len(files[name])
        and path.read_bytes() == files[name]
        for name, path in there.items()
    )


def _read(path: Path, limits: ImageLimits) -> bytes:
    if not path.is_file():
        raise ImageFileError(f"{path} is no file")
    try:
        with path.open("rb") as stream:
            # One byte more than allowed, so that the decoder can tell.
            return stream.read(limits.max_bytes + 1)
    except OSError as error:
        raise ImageFileError(f"{path} cannot be read: {error.strerror or error}") from error


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return suffix if suffix[1:].isalnum() and suffix.isascii() else ".image"
