"""The contact sheet shows source, mask and results beside one another, whatever the prompt is written in."""

import numpy as np
from PIL import Image

from iedit_model.imaging.sheet import GAP_PX, LINE_PX, PAPER, overlaid
from tasks.edit.edit import TILE_PX, edit_sheet


def plain(colour: str, size: tuple[int, int] = (64, 32)) -> Image.Image:
    return Image.new("RGB", size, colour)


def tile(sheet: np.ndarray, column: int, row: int = 0, *, high: int = 128) -> np.ndarray:
    x = GAP_PX + column * (TILE_PX + 2 * GAP_PX)
    y = LINE_PX + GAP_PX + row * (high + LINE_PX + 2 * GAP_PX)
    return sheet[y : y + high, x : x + TILE_PX]


def test_the_tiles_stand_in_order_and_in_full():
    mask = np.zeros((32, 64), np.float32)
    mask[:, :32] = 1
    sheet = np.asarray(edit_sheet("x", plain("white"), mask, [plain("blue"), plain("lime")], ["a", "b"]))
    assert (tile(sheet, 0) == 255).all()
    assert (tile(sheet, 2) == (0, 0, 255)).all()
    assert (tile(sheet, 3) == (0, 255, 0)).all()
    masked = tile(sheet, 1)
    assert (masked[2:-2, 2 : TILE_PX // 2 - 2] == 255).all()
    assert (masked[:, TILE_PX // 2 + 2 :] < 100).all()
    assert sheet.shape[1] == 4 * (TILE_PX + 2 * GAP_PX)


def test_without_a_mask_its_tile_is_left_out_and_many_results_go_on_in_the_next_row():
    sheet = np.asarray(edit_sheet("x", plain("red"), None, [plain("blue")] * 7, ["s"] * 7))
    assert (tile(sheet, 1) == (0, 0, 255)).all()
    assert (tile(sheet, 1, row=1) == (0, 0, 255)).all()
    assert (tile(sheet, 2, row=1) == PAPER).all()


def test_a_tall_or_tiny_picture_keeps_its_shape():
    sheet = edit_sheet("x", plain("red", (10, 1000)), None, [plain("blue", (10, 1000))], ["s"])
    assert sheet.width == 2 * (3 + 2 * GAP_PX)
    assert edit_sheet("x", plain("red", (1, 1)), None, [plain("blue", (1, 1))], ["s"]).height > TILE_PX


def test_a_prompt_in_any_letters_and_of_any_length_ends_on_the_sheet():
    for title in ("ein Zug", "поезд 🚆 " * 50, "", "a\nb"):
        sheet = edit_sheet(title, plain("white"), None, [plain("white")], [title])
        dark = (np.asarray(sheet.convert("L"))[:LINE_PX] < 128).any()
        assert dark == bool(title.strip())
        assert (np.asarray(sheet)[:, -4:] == PAPER).all()


def test_the_veil_follows_a_soft_mask():
    soft = np.repeat(np.array([[0, 100, 255]], np.uint8), 64, axis=1)
    shown = np.asarray(overlaid(plain("white", (192, 1)), soft, tile_size=(192, 192))).astype(int)
    dark, half, clear = (shown[96, column].mean() for column in (30, 96, 160))
    assert dark < half < clear == 255
