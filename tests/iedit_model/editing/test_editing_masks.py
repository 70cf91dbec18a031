"""Where to edit: who gives the mask, what an empty one means, and that the miniature's segmenter finds the word."""

import numpy as np
import pytest
import torch
from PIL import Image

from iedit_model.editing.edit_masks import latent_masks, pixel_masks, shown_mask
from iedit_model.editing.editor import EditRequest
from iedit_model.editing.framing import FramingConfig, frame
from iedit_model.editing.settings import MaskConfig, MaskSource
from iedit_model.errors import ConfigError, EditError, MaskError
from iedit_model.models.segmenter import load_segmenter
from tests.builders.editing_methods import single_pairs
from tests.builders.vision_folders import SEGMENTER

IMAGE = Image.new("RGB", (8, 6), "white")
GIVEN = np.zeros((6, 8), np.float32)
GIVEN[2:4, 3:6] = 1


def wanted(mask: np.ndarray | None = None, word: str | None = None) -> EditRequest:
    return EditRequest(image=IMAGE, edit_prompt="a train", mask=mask, word=word)


def test_a_given_mask_is_taken_and_none_edits_everywhere():
    found = pixel_masks([wanted(GIVEN)], MaskConfig(source="request"), None)[0]
    assert found is not None
    assert np.array_equal(found, GIVEN)
    assert pixel_masks([wanted(GIVEN), wanted()], MaskConfig(source="none"), None) == [None, None]


def test_a_mask_given_as_a_tensor_is_the_same():
    assert np.array_equal(
        wanted(torch.from_numpy(GIVEN).half()).mask_array,  # pyright: ignore[reportArgumentType]
        GIVEN,
    )


@pytest.mark.parametrize(
    ("source", "request_", "said"),
    [
        ("request", wanted(word="bus"), "brings none"),
        ("word", wanted(GIVEN, word=" "), "the word"),
        ("word", wanted(GIVEN), "the word"),
        ("request_or_word", wanted(), "the word"),
    ],
)
def test_what_is_missing_is_said(source: MaskSource, request_: EditRequest, said: str):
    with pytest.raises(EditError, match=said):
        pixel_masks([request_], MaskConfig(source=source), load_segmenter(SEGMENTER))


def test_an_empty_mask_is_an_error_or_everywhere_as_asked():
    nowhere = wanted(0 * GIVEN)
    with pytest.raises(MaskError, match="empty"):
        pixel_masks([nowhere], MaskConfig(source="request"), None)
    assert pixel_masks([nowhere], MaskConfig(source="request", on_empty="everywhere"), None) == [None]
    plain = EditRequest(image=IMAGE, edit_prompt="a train", word="giraffe")
    with pytest.raises(MaskError, match="giraffe"):
        pixel_masks([plain], MaskConfig(source="word"), load_segmenter(SEGMENTER))


def test_the_word_is_found_where_it_is_also_in_images_that_are_no_squares():
    pairs = single_pairs(12)
    segmenter = load_segmenter(SEGMENTER)
    for margins in ((0, 0), (0, 24)):
        overlaps = []
        requests, truths = [], []
        for pair in pairs:
            noun = pair.source.objects[pair.position].noun
            image = np.pad(np.asarray(pair.source.render()), (margins, (0, 0), (0, 0)), mode="edge")
            truths.append(np.pad(pair.source.masks()[pair.position], (margins, (0, 0))))
            requests.append(EditRequest(image=Image.fromarray(image), edit_prompt="x", word=noun))
        found = pixel_masks(requests, MaskConfig(source="word", on_empty="everywhere"), segmenter)
        for mask, truth in zip(found, truths, strict=True):
            inside = np.zeros(truth.shape, bool) if mask is None else mask > 0.5
            assert inside.shape == truth.shape
            overlaps.append((inside & truth).sum() / (inside | truth).sum())
        # The segmenter itself reaches about 0.8 on squares; the longer images lie outside its training.
        assert np.mean(overlaps) > (0.65 if margins == (0, 0) else 0.4), (margins, overlaps)


def test_a_latent_cell_is_in_as_soon_as_one_pixel_is_and_the_mask_grows_by_cells():
    mask = np.zeros((64, 64), np.float32)
    mask[33, 17] = 1
    place = frame((64, 64), FramingConfig(), native_px=64, multiple_px=4)

    def cells(**options: object) -> torch.Tensor:
        return latent_masks([mask], [place], MaskConfig(**options), cell_px=4)[0, 0]  # pyright: ignore[reportArgumentType]

    assert cells(dilate_cells=0).nonzero().tolist() == [[8, 4]]
    assert cells(dilate_cells=1).sum() == 9
    assert cells(dilate_cells=0, latent_mode="area").sum() == 0
    assert cells(dilate_cells=0, latent_mode="soft").max() == pytest.approx(1 / 16)
    everywhere = latent_masks([None], [place], MaskConfig(), cell_px=4)
    assert everywhere.shape == (1, 1, 16, 16)
    assert everywhere.min() == 1


def test_the_mask_shown_is_the_cells_that_were_used():
    cells = torch.zeros(1, 2, 3)
    cells[0, 1, 2] = 1
    shown = shown_mask(cells, cell_px=4)
    assert shown.shape == (8, 12)
    assert np.argwhere(shown).min(axis=0).tolist() == [4, 8]
    assert shown.sum() == 16


@pytest.mark.parametrize(
    "wrong",
    [{"source": "magic"}, {"latent_mode": "x"}, {"threshold": 0.0}, {"dilate_cells": -1}, {"on_empty": "guess"}],
)
def test_a_setting_that_cannot_be_is_named(wrong: dict[str, object]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MaskConfig(**wrong)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("mask", "said"),
    [(np.zeros((8, 6)), "shape"), (GIVEN * 255, "255"), (np.full((6, 8), np.nan), "nan"), (GIVEN - 0.5, "-0.5")],
)
def test_a_mask_that_does_not_fit_its_image_is_refused_with_the_request(mask: np.ndarray, said: str):
    with pytest.raises(MaskError, match=said):
        wanted(mask)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"edit_prompt": " \n"}, "empty"), ({"seed": -1}, "-1"), ({"image": IMAGE.convert("L")}, "'L'")],
)
def test_a_request_that_cannot_be_edited_is_refused(change: dict[str, object], said: str):
    values: dict[str, object] = {"image": IMAGE, "edit_prompt": "a train", **change}
    with pytest.raises(EditError, match=said):
        EditRequest(**values)  # pyright: ignore[reportArgumentType]
