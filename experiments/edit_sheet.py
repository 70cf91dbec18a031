"""A contact sheet of edits: the source above, what became of it below, the prompt under both."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from PIL.Image import Image

    from experiments.edit_cases import EditCase

_COLUMNS: Final = 10
_SIDE: Final = 96
_TEXT: Final = 26


def save_sheet(cases: "Sequence[EditCase]", images: "Sequence[Image]", path: Path, *, count: int = 40) -> None:
    """Write the first ``count`` edits as one picture."""
    from PIL import Image, ImageDraw

    shown = list(zip(cases, images, strict=True))[:count]
    high = 2 * _SIDE + _TEXT
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, high * -(-len(shown) // _COLUMNS)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (case, image) in enumerate(shown):
        x, y = number % _COLUMNS * _SIDE, number // _COLUMNS * high
        sheet.paste(case.image.resize((_SIDE, _SIDE)), (x, y))
        sheet.paste(image.resize((_SIDE, _SIDE)), (x, y + _SIDE))
        text = case.edit_prompt.replace(" background", "").replace(" on ", "\non ")
        draw.text((x + 1, y + 2 * _SIDE), text[:40], fill="black", font_size=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
