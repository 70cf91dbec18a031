"""The sheet of pairs shows each pair's own pictures, masks and words, and a gap where bytes are damaged."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from benchmarks.planted_pairs import planted
from iedit_model.imaging.decode import decode_image
from iedit_model.imaging.mask_files import decode_levels
from iedit_model.imaging.sheet import fitting_text, overlaid, scaled_image
from storage import ShardStore, VersionInfo, VersionStore
from tasks.dataset.gallery import pair_sheet
from tasks.pack.packed_sample import read_sample
from tasks.pack.stage import PackConfig

PART, GAP, CELL_WIDTH, CELL_HEIGHT = 128, 6, 4 * 128 + 12, 128 + 34 + 12
COLUMNS = 2
PAPER = (250, 250, 248)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> tuple[VersionStore, VersionInfo]:
    store = ShardStore.at(tmp_path_factory.mktemp("store"))
    info = planted(8).build(store, PackConfig())
    return VersionStore(store.files), info


def cell(sheet: Image.Image, number: int) -> np.ndarray:
    left, top = number % COLUMNS * CELL_WIDTH + GAP, number // COLUMNS * CELL_HEIGHT + GAP
    return np.asarray(sheet)[top : top + CELL_HEIGHT - 2 * GAP, left : left + CELL_WIDTH - 2 * GAP]


def test_each_pair_stands_in_its_place_with_source_mask_target_mask(version):
    versions, info = version
    rows = versions.manifest(info).to_pylist()
    sheet = pair_sheet(versions, info)
    assert sheet.size == (COLUMNS * CELL_WIDTH, -(-len(rows) // COLUMNS) * CELL_HEIGHT)
    for number, row in enumerate(rows):
        parts = read_sample(versions.files, row)
        for place, (name, mask) in enumerate((("source", None), ("source", "source_mask"), ("target", None))):
            picture = scaled_image(decode_image(parts[name]), (PART, PART))
            if mask is not None:
                picture = overlaid(picture, decode_levels(parts[mask]))
            shown = cell(sheet, number)[:PART, place * PART : (place + 1) * PART]
            np.testing.assert_array_equal(shown, np.asarray(picture))


def test_the_words_stand_below_their_pictures(version):
    versions, info = version
    sheet = pair_sheet(versions, info, limit=1)
    words = cell(sheet, 0)[PART:]
    assert (words[:17] != PAPER).any()
    assert (words[17:34] != PAPER).any()


def test_no_more_pairs_than_the_limit(version):
    versions, info = version
    assert pair_sheet(versions, info, limit=2).size == (2 * CELL_WIDTH, CELL_HEIGHT)
    assert pair_sheet(versions, info, limit=3).size == (COLUMNS * CELL_WIDTH, 2 * CELL_HEIGHT)


def test_a_damaged_pair_leaves_its_place_empty_and_the_others_alone(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    info = planted(4).build(store, PackConfig())
    versions = VersionStore(store.files)
    whole = pair_sheet(versions, info)
    row = versions.manifest(info).to_pylist()[0]
    path = tmp_path / row["tar"]
    data = bytearray(path.read_bytes())
    data[row["tar_offset"] + 600] ^= 0xFF
    path.write_bytes(data)
    sheet = pair_sheet(versions, info)
    assert (cell(sheet, 0)[:PART] == PAPER).all()
    np.testing.assert_array_equal(cell(sheet, 1), cell(whole, 1))


def test_a_sheet_of_a_version_whose_filter_left_one_pair(version):
    versions, info = version
    name = versions.manifest(info)["sample_id"][0].as_py()
    part = versions.subset(info.id, sample_ids=[name])
    assert pair_sheet(versions, part).size == (CELL_WIDTH, CELL_HEIGHT)


@pytest.mark.parametrize(
    "text", ["a red bus", "x" * 500, "two\nlines  and spaces", "", "\x00\u202e" * 50, "漢字" * 100]
)
def test_a_text_is_cut_to_the_width_that_it_has(text):
    font = ImageFont.load_default(size=13)
    shown = fitting_text(text, font, 200)
    assert font.getlength(shown) <= 200
    assert "\n" not in shown
    assert shown == " ".join(text.split()) or shown.endswith("...")
