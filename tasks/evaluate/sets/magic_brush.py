"""Reader of MagicBrush (arXiv:2306.10012): ``edit_turns.json``, ``global_descriptions.json``, ``images/<id>/``.

The edited region of a mask image is transparent, or white where the image has no transparency. Only splits with
descriptions (dev and test) can be read: the metrics need to know what the edited image should show.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from iedit_model.errors import ImageFileError
from iedit_model.imaging.decode import opened_image
from tasks.evaluate.errors import EvalSetError
from tasks.evaluate.sets.folder import NewPair
from tasks.evaluate.sets.pixels import Mask
from tasks.evaluate.sets.untrusted import file_below, read_json, text_of

TURNS, DESCRIPTIONS, IMAGES = "edit_turns.json", "global_descriptions.json", "images"
_WHITE: Final = 250
_FILE = re.compile(r"([A-Za-z0-9_]{1,40})-(input|output[1-9]|mask[1-9])\.png")


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
        if not first_turn_only or source.endswith("-input.png"):
            yield _pair(root, source, output, turn, captions, where=where)


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


def _pair(root: Path, source: str, output: str, turn: Any, captions: dict[str, str], *, where: str) -> NewPair:
    mask = text_of(turn, "mask", where=where)
    parts = [_FILE.fullmatch(name) for name in (source, output, mask)]
    if not all(parts) or len({part[1] for part in parts if part}) != 1:
        raise EvalSetError(f"{where} names the files {source!r:.80}, {output!r:.80}, {mask!r:.80}: not of one image")
    name = source.partition("-")[0]
    missing = [file for file in (source, output) if not captions.get(file, "").strip()]
    if missing:
        raise EvalSetError(f"{where}: {root / DESCRIPTIONS} does not describe {missing[0]}")
    return NewPair(
        pair_id=output.removesuffix(".png"),
        image_id=source.removesuffix(".png"),
        image=file_below(root / IMAGES, f"{name}/{source}", where=where),
        source_prompt=" ".join(captions[source].split()),
        edit_prompt=" ".join(captions[output].split()),
        instruction=text_of(turn, "instruction", where=where) or None,
        mask=mask_of_image(file_below(root / IMAGES, f"{name}/{mask}", where=where), name=mask),
        mask_origin="imported",
    )
