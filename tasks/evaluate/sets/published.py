"""Readers of published evaluation sets: MagicBrush and PIE-Bench.

MagicBrush (arXiv:2306.10012): ``edit_turns.json``, ``global_descriptions.json``, ``images/<id>/``. The edited region of
a mask image is transparent, or white where the image has no transparency. Only splits with descriptions (dev and test)
can be read: the metrics need to know what the edited image should show.

PIE-Bench (arXiv:2310.01506): ``mapping_file.json`` with run-length masks, ``annotation_images/``. The published
evaluation sets the outermost ring of every mask to 1 "to avoid annotation errors in boundary". Here that is an option,
since it makes every mask reach the border. Prompts carry [brackets] around words, which are taken off.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from iedit_model.errors import ImageFileError
from iedit_model.imaging.decode import opened_image
from tasks.evaluate.errors import EvalSetError
from tasks.evaluate.sets.folder import NewPair
from tasks.evaluate.sets.pixels import Mask
from tasks.evaluate.sets.untrusted import file_below, read_json, text_of

TURNS, DESCRIPTIONS = "edit_turns.json", "global_descriptions.json"
_WHITE: Final = 250
_FILE = re.compile(r"([A-Za-z0-9_]{1,40})-(input|output[1-9]|mask[1-9])\.(?i:png)")


def magic_brush_pairs(root: Path, *, first_turn_only: bool = True) -> Iterator[NewPair]:
    """Yield the pairs of a MagicBrush split in the order of their names.

    Args:
        root: holds ``edit_turns.json``, ``global_descriptions.json`` and ``images/``.
        first_turn_only: leave out turns that edit an already edited image, which is no real image.

    Raises:
        EvalSetError: a file is missing, or an entry is not as MagicBrush writes them.
    """
    turns = read_json(root / TURNS)
    if not isinstance(turns, list) or not turns:
        raise EvalSetError(f"{root / TURNS} is no list of turns")
    captions = _captions(root)
    entries = sorted(((text_of(turn, "output", where=str(root / TURNS)), turn) for turn in turns), key=lambda e: e[0])
    for output, turn in entries:
        where = f"turn {output!r:.80} of {root / TURNS}"
        source = text_of(turn, "input", where=where)
        if not first_turn_only or source.lower().endswith("-input.png"):
            yield _magic_brush_pair(root, source, output, turn, captions, where=where)


def mask_of_image(data: bytes, *, name: str) -> Mask:
    """Return the mask that a MagicBrush mask image shows: its transparent region, else its white one.

    Raises:
        EvalSetError: the bytes are no image, or too large a one.
    """
    try:
        with opened_image(data, formats=("PNG",)) as image:
            pixels = np.asarray(image.convert("RGBA"))
    except ImageFileError as error:
        raise EvalSetError(f"{name} cannot be used: {error}") from error
    hole = pixels[..., 3] < 128
    return hole if hole.any() else pixels[..., :3].min(axis=2) >= _WHITE


def _captions(root: Path) -> dict[str, str]:
    content = read_json(root / DESCRIPTIONS)
    if not isinstance(content, dict) or not all(isinstance(group, dict) for group in content.values()):
        raise EvalSetError(f"{root / DESCRIPTIONS} is no object of objects")
    return {name: text for group in content.values() for name, text in group.items() if isinstance(text, str)}


def _magic_brush_pair(
    root: Path, source: str, output: str, turn: Any, captions: dict[str, str], *, where: str
) -> NewPair:
    mask = text_of(turn, "mask", where=where)
    parts = [_FILE.fullmatch(name) for name in (source, output, mask)]
    if not all(parts) or len({part[1] for part in parts if part}) != 1:
        raise EvalSetError(f"{where} names the files {source!r:.80}, {output!r:.80}, {mask!r:.80}: not of one image")
    name = source.partition("-")[0]
    missing = [file for file in (source, output) if not captions.get(file, "").strip()]
    if missing:
        raise EvalSetError(f"{where}: {root / DESCRIPTIONS} does not describe {missing[0]}")
    return NewPair(
        pair_id=Path(output).stem,
        image_id=Path(source).stem,
        image=file_below(root / "images", f"{name}/{source}", where=where),
        source_prompt=" ".join(captions[source].split()),
        edit_prompt=" ".join(captions[output].split()),
        instruction=text_of(turn, "instruction", where=where) or None,
        mask=mask_of_image(file_below(root / "images", f"{name}/{mask}", where=where), name=mask),
        mask_origin="imported",
    )


MAPPING = "mapping_file.json"
SIZE_PX: Final = 512
"""Side of every image and mask."""
KINDS: Final = {
    "0": "random",
    "1": "change_object",
    "2": "add_object",
    "3": "delete_object",
    "4": "change_content",
    "5": "change_pose",
    "6": "change_colour",
    "7": "change_material",
    "8": "change_background",
    "9": "change_style",
}
"""``editing_type_id`` -> kind of edit."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def pie_bench_pairs(root: Path, *, border_ring: bool = False) -> Iterator[NewPair]:
    """Yield the pairs of a PIE-Bench folder in the order of their keys; an image is read when its pair is due.

    Args:
        root: holds ``mapping_file.json`` and ``annotation_images/``.
        border_ring: set the outermost pixels of every mask to 1, as the published evaluation does.

    Raises:
        EvalSetError: a file is missing, or an entry is not as PIE-Bench writes them.
    """
    mapping = read_json(root / MAPPING)
    if not isinstance(mapping, dict) or not mapping:
        raise EvalSetError(f"{root / MAPPING} is no object of entries")
    for key in sorted(mapping):
        if not _KEY.fullmatch(key):
            raise EvalSetError(f"{root / MAPPING} has an entry {key!r:.80}, expected {_KEY.pattern}")
        yield _pie_bench_pair(root, key, mapping[key], border_ring=border_ring)


def decode_runs(runs: Sequence[int], *, size: tuple[int, int] = (SIZE_PX, SIZE_PX)) -> Mask:
    """Return the mask (height, width) of a list [start, length, start, length, ...] over the rows' pixels.

    A run that reaches past the last pixel is cut there, as in the published reader.

    Args:
        runs: starts and lengths, alternating.
        size: height and width.

    Raises:
        EvalSetError: an odd count, more numbers than pixels, a negative one, or a start outside of the frame.
    """
    num_pixels = size[0] * size[1]
    if len(runs) % 2 or len(runs) > 2 * num_pixels:
        raise EvalSetError(f"a run-length mask has {len(runs)} numbers, expected an even count up to {2 * num_pixels}")
    mask = np.zeros(num_pixels, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if type(start) is not int or type(length) is not int or not 0 <= start < num_pixels or length < 0:
            raise EvalSetError(f"a run-length mask has the run ({start!r:.20}, {length!r:.20}) outside of {num_pixels}")
        mask[start : start + length] = True
    return mask.reshape(size)


def _pie_bench_pair(root: Path, key: str, entry: Any, *, border_ring: bool) -> NewPair:
    where = f"entry {key} of {root / MAPPING}"
    if not isinstance(entry, dict) or not isinstance(entry.get("mask"), list):
        raise EvalSetError(f"{where} has no list 'mask'")
    mask = decode_runs(entry["mask"])
    if border_ring:
        mask[[0, -1], :] = mask[:, [0, -1]] = True
    path = entry.get("image_path")
    if not isinstance(path, str):
        raise EvalSetError(f"{where} has no string 'image_path'")
    words = text_of(entry, "blended_word", where=where).split() if entry.get("blended_word") else []
    return NewPair(
        pair_id=key,
        image_id=key,
        image=file_below(root / "annotation_images", path, where=where),
        source_prompt=text_of(entry, "original_prompt", where=where),
        edit_prompt=text_of(entry, "editing_prompt", where=where),
        word=words[0] if words else None,
        replacement=words[-1] if len(words) > 1 else None,
        instruction=text_of(entry, "editing_instruction", where=where) or None,
        kind=KINDS.get(str(entry.get("editing_type_id"))),
        mask=mask,
        mask_origin="imported",
    )
