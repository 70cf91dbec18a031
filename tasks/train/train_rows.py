"""The samples of a version that a run trains on, and what a sample is once its tar members are decoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from iedit_model.errors import ImageFileError, MaskError
from iedit_model.imaging.mask_files import decode_levels
from storage import SAMPLE_PARTS, CorruptFileError, Files, VersionInfo, VersionStore
from storage.tables import compute
from tasks.errors import TrainingRowsError
from tasks.images import ImageError, decode_stored
from tasks.pack.packed_sample import read_sample
from tasks.train.run_config import PromptSource, RowsConfig

if TYPE_CHECKING:
    import pyarrow as pa

Bytes = npt.NDArray[np.uint8]

_COLUMNS: Final = (
    *("sample_id", "tar", "tar_offset", "tar_size"),
    *(f"{part}_member_sha256" for part in SAMPLE_PARTS),
    *("caption", "edit_prompt", "source_diff", "target_diff", "alt_text", "target_alt_text"),
)


@dataclass(frozen=True, kw_only=True)
class TrainRows:
    """The rows of one split and which of them a run uses; everything sorted by sample id."""

    table: "pa.Table"
    """All rows of the split, the columns that training reads."""
    chosen: tuple[str, ...]
    """Sample ids that are trained on."""
    dropped: Mapping[str, int]
    """Why others of the split are not: ``filter``, ``no_alt_text``, ``max_samples``."""

    def tars(self) -> list[str]:
        """Return the tars of the split, sorted."""
        return sorted(self.table["tar"].unique().to_pylist())

    def of_tar(self, tar: str) -> list[dict[str, Any]]:
        """Return the rows of one tar, sorted by sample id."""
        return self.table.filter(compute().field("tar") == tar).to_pylist()

    def of_ids(self, sample_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of some samples, in their order."""
        import pyarrow as pa

        wanted = pa.array(sample_ids, type=pa.string())
        found = self.table.filter(compute().is_in(self.table["sample_id"], value_set=wanted)).to_pylist()
        by_id = {row["sample_id"]: row for row in found}
        return [by_id[sample_id] for sample_id in sample_ids]


def read_rows(versions: VersionStore, info: VersionInfo, config: RowsConfig) -> TrainRows:
    """Return the samples of a version that ``config`` means.

    Raises:
        TrainingRowsError: none is left.
        FilterError: ``config.where`` is no filter over the manifest.
    """
    split = f"split == {config.split!r}"
    table = versions.manifest(info, columns=_COLUMNS, where=split)
    both = split if config.where is None else f"({config.where}) and {split}"
    found = versions.manifest(info, columns=("sample_id", "alt_text", "target_alt_text"), where=both)
    dropped = {"filter": table.num_rows - found.num_rows}
    rows = found.to_pylist()
    if config.prompts == "caption":
        usable = [row for row in rows if (row["alt_text"] or "").strip() and (row["target_alt_text"] or "").strip()]
        dropped["no_alt_text"] = len(rows) - len(usable)
        rows = usable
    chosen = tuple(row["sample_id"] for row in rows)
    kept = chosen[: config.max_samples]  # ids are hashes, so that the first ones are a random choice
    dropped["max_samples"] = len(chosen) - len(kept)
    if not kept:
        raise TrainingRowsError(
            f"version {info.id} has {table.num_rows} samples in the split {config.split!r}, of which none is left "
            f"(filter {config.where!r}, prompts {config.prompts!r}); its splits are {dict(info.splits)}"
        )
    return TrainRows(table=table, chosen=kept, dropped={reason: count for reason, count in dropped.items() if count})


@dataclass(frozen=True, kw_only=True)
class PairSample:
    """One pair, decoded: images (3, height, width) and masks (1, height, width) as bytes, and its words."""

    sample_id: str
    source_pixels: Bytes
    target_pixels: Bytes
    source_mask: Bytes
    """0 ... 255, 255 = edit here."""
    target_mask: Bytes
    prompt: str
    """y_2, what the edited image shall show."""
    source_prompt: str
    """y_1."""
    diff_prompt: str
    """y_2^diff, what shall stand inside the mask."""


def read_pair(files: Files, row: Mapping[str, Any], prompts: PromptSource) -> PairSample:
    """Read one packed sample and decode it.

    Raises:
        MissingFileError: its tar is gone.
        CorruptFileError: the sample is not what the manifest says.
        TrainingRowsError: an image or mask cannot be decoded, or the four are not of one size.
    """
    parts = read_sample(files, row)
    try:
        pixels = {side: _pixels(parts[side]) for side in ("source", "target")}
        masks = {side: _mask(parts[f"{side}_mask"]) for side in ("source", "target")}
    except (ImageError, CorruptFileError) as error:
        raise TrainingRowsError(f"sample {row['sample_id']} cannot be decoded: {error}") from error
    sizes = {array.shape[1:] for array in (*pixels.values(), *masks.values())}
    if len(sizes) > 1:
        raise TrainingRowsError(f"images and masks of sample {row['sample_id']} differ in size: {sorted(sizes)}")
    if prompts == "source":
        pixels["target"], masks["target"] = pixels["source"], masks["source"]
    prompt, source_prompt, diff_prompt = row_words(row, prompts)
    return PairSample(
        sample_id=row["sample_id"],
        source_pixels=pixels["source"],
        target_pixels=pixels["target"],
        source_mask=masks["source"],
        target_mask=masks["target"],
        prompt=prompt,
        source_prompt=source_prompt,
        diff_prompt=diff_prompt,
    )


def row_words(row: Mapping[str, Any], prompts: PromptSource) -> tuple[str, str, str]:
    """Return y_2, y_1 and y_2^diff of a row of the manifest."""
    if prompts == "caption":
        return row["target_alt_text"] or "", row["alt_text"] or "", row["target_diff"]
    if prompts == "source":
        return row["caption"], row["caption"], row["source_diff"]
    return row["edit_prompt"], row["caption"], row["target_diff"]


def _pixels(data: bytes) -> Bytes:
    return np.ascontiguousarray(np.asarray(decode_stored(data), np.uint8).transpose(2, 0, 1))


def _mask(data: bytes) -> Bytes:
    try:
        return decode_levels(data, trusted=True)[None]
    except (ImageFileError, MaskError) as error:
        raise ImageError("undecodable_mask", str(error)[:200]) from error
