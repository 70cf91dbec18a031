"""A sheet of pairs as one image: source, its mask, target, its mask, and the prompts below."""

from typing import TYPE_CHECKING, Any, Final

from iedit_model.errors import ImageFileError, MaskError
from iedit_model.imaging.decode import STORED_FORMATS, decode_image
from iedit_model.imaging.mask_files import decode_levels
from iedit_model.imaging.sheet import SheetCell, contact_sheet, overlaid
from storage import SAMPLE_PARTS, CorruptFileError, VersionInfo, VersionStore
from tasks.pack.packed_sample import read_sample

if TYPE_CHECKING:
    from PIL.Image import Image

_COLUMNS: Final = 2
_COLUMNS_READ: Final = ("sample_id", "caption", "edit_prompt", "tar", "tar_offset", "tar_size")


def pair_sheet(versions: VersionStore, version: VersionInfo, *, limit: int = 12) -> "Image":
    """Return a sheet of the first pairs by sample id, which is as good as a random sample.

    Args:
        versions: where the version lies.
        version: the version.
        limit: most pairs, 1 or more. A pair whose bytes are damaged leaves a gap.
    """
    hashes = tuple(f"{part}_member_sha256" for part in SAMPLE_PARTS)
    rows = versions.manifest(version, columns=(*_COLUMNS_READ, *hashes)).slice(0, limit).to_pylist()
    cells = [
        SheetCell(images=_images(versions, row), lines=(row["caption"], "> " + row["edit_prompt"])) for row in rows
    ]
    return contact_sheet(cells, columns=_COLUMNS)


def _images(versions: VersionStore, row: dict[str, Any]) -> "list[Image]":
    shown: list[Image] = []
    try:
        parts = read_sample(versions.files, row)
        for part in ("source", "target"):
            image = decode_image(parts[part], formats=tuple(STORED_FORMATS))
            shown += [image, overlaid(image, decode_levels(parts[f"{part}_mask"]))]
    except (CorruptFileError, ImageFileError, MaskError):
        return shown
    return shown
