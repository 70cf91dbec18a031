"""The contact sheet shows source, mask and results beside one another, whatever the prompt is written in."""

import numpy as np
from PIL import Image

from tasks.edit.sheet import TILE_PX, contact_sheet, mask_overlay


def plain(colour: str, size: tuple[int, int] = (64, 32)) -> Image.Image:
    return Image.new("RGB", size, colour)


def tile(sheet: np.ndarray, column: int, row: int = 0, *, high: int = 128) -> np.ndarray:
    x, y = 10 + column * (TILE_PX + 10), 30 + row * (high + 30)
    return sheet[y : y + high, x : x + TILE_PX]


def test_the_tiles_stand_in_order_and_in_full():
    mask = np.zeros((32, 64), np.float32)
    mask[:, :32] = 1
    sheet = np.asarray(contact_sheet("x", plain("white"), mask, [plain("blue"), plain("lime")], ["a", "b"]))
    assert (tile(sheet, 0) == 255).all()
    assert (tile(sheet, 2) == (0, 0, 255)).all()
    assert (tile(sheet, 3) == (0, 255, 0)).all()
    veil = tile(sheet, 1)
    assert (veil[:, : TILE_PX // 2] == (242, 148, 148)).all()
    assert (veil[:, TILE_PX // 2 :] == 153).all()
    assert sheet.shape[1] == 4 * (TILE_PX + 10) + 10


def test_without_a_mask_its_tile_is_left_out_and_many_results_go_on_in_the_next_row():
    sheet = np.asarray(contact_sheet("x", plain("red"), None, [plain("blue")] * 7, ["s"] * 7))
    assert (tile(sheet, 1) == (0, 0, 255)).all()
    assert (tile(sheet, 1, row=1) == (0, 0, 255)).all()
    assert (tile(sheet, 2, row=1) == 255).all()


def test_a_tall_or_tiny_picture_keeps_its_shape():
    sheet = contact_sheet("x", plain("red", (10, 1000)), None, [plain("blue", (10, 1000))], ["s"])
    assert sheet.width == 2 * (3 + 10) + 10
    assert contact_sheet("x", plain("red", (1, 1)), None, [plain("blue", (1, 1))], ["s"]).height > TILE_PX


def test_a_prompt_in_any_letters_and_of_any_length_ends_on_the_sheet():
    for title in ("ein Zug", "поезд 🚆 " * 50, "", "a\nb"):
        sheet = contact_sheet(title, plain("white"), None, [plain("white")], [title])
        dark = (np.asarray(sheet.convert("L"))[:28] < 128).any()
        assert dark == bool(title.strip())
        assert (np.asarray(sheet)[:, -4:] == 255).all()


def test_the_veil_follows_a_soft_mask():
    overlay = np.asarray(mask_overlay(plain("white", (3, 1)), np.array([[0, 0.5, 1]], np.float32)))
    assert overlay[0, 0].tolist() == [153, 153, 153]
    assert overlay[0, 2].tolist() == [242, 148, 148]
    assert np.allclose(overlay[0, 1], [198, 150, 150], atol=1)
