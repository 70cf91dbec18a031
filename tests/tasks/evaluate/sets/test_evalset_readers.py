"""PIE-Bench's and MagicBrush's layouts: values of hand-made folders, and entries that cannot be."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.evaluate.errors import EvalSetError
from tasks.evaluate.sets.published import decode_runs, magic_brush_pairs, mask_of_image, pie_bench_pairs


def decoded_by_hand(runs, height, width):
    """The published loop, pixel by pixel, without its border ring."""
    pixels = [0] * (height * width)
    for i in range(0, len(runs), 2):
        for j in range(min(runs[i + 1], height * width - runs[i])):
            pixels[runs[i] + j] = 1
    return np.array(pixels, bool).reshape(height, width)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 34), st.integers(0, 80)), max_size=8))
def test_runs_are_what_the_published_loop_makes_of_them(runs):
    flat = [number for run in runs for number in run]
    np.testing.assert_array_equal(decode_runs(flat, size=(5, 7)), decoded_by_hand(flat, 5, 7))


@pytest.mark.parametrize("runs", [[1], [-1, 3], [35, 1], [0, -1], [0.5, 1], ["0", 1], [True, 1], [0, 1] * 100])
def test_runs_that_cannot_be_are_refused(runs):
    with pytest.raises(EvalSetError):
        decode_runs(runs, size=(5, 7))


def pie_bench(tmp_path, **changes):
    (tmp_path / "annotation_images" / "0_random_140").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (512, 512), "red").save(tmp_path / "annotation_images" / "0_random_140" / "000000000000.jpg")
    entry = {
        "image_path": "0_random_140/000000000000.jpg",
        "original_prompt": "a slanted mountain bicycle",
        "editing_prompt": "a slanted [rusty] mountain bicycle",
        "editing_instruction": "Make the frame of the bike rusty",
        "editing_type_id": "0",
        "blended_word": "bicycle bicycle",
        "mask": [0, 3, 512 * 511, 512],
    }
    (tmp_path / "mapping_file.json").write_text(json.dumps({"000000000000": entry | changes}))
    return tmp_path


def test_a_pie_bench_entry_becomes_a_pair_without_its_brackets(tmp_path):
    (pair,) = pie_bench_pairs(pie_bench(tmp_path))
    assert pair.edit_prompt == "a slanted rusty mountain bicycle"
    assert (pair.word, pair.kind, pair.mask_origin) == ("bicycle", "random", "imported")
    assert pair.mask is not None
    assert pair.mask.sum() == 3 + 512
    assert pair.mask[0, :3].all()
    assert pair.mask[511].all()
    (ringed,) = pie_bench_pairs(tmp_path, border_ring=True)
    assert ringed.mask is not None
    assert ringed.mask.sum() == 4 * 511
    assert not ringed.mask[1:-1, 1:-1].any()


@pytest.mark.parametrize(
    "changes",
    [
        {"image_path": "../mapping_file.json"},
        {"image_path": "/etc/hostname"},
        {"image_path": "nothing.jpg"},
        {"image_path": "0_random_140/\x00.jpg"},
        {"image_path": 3},
        {"mask": "0 3"},
        {"mask": [0]},
        {"original_prompt": None},
    ],
)
def test_a_pie_bench_entry_that_cannot_be_is_refused(tmp_path, changes):
    with pytest.raises(EvalSetError):
        list(pie_bench_pairs(pie_bench(tmp_path, **changes)))


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 200_000, '{"../x": {}}'])
def test_a_mapping_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "mapping_file.json").write_text(content)
    with pytest.raises(EvalSetError):
        list(pie_bench_pairs(tmp_path))


def magic_brush(tmp_path, **changes):
    folder = tmp_path / "images" / "139"
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(folder / "139-input.png")
    Image.new("RGB", (8, 6), "blue").save(folder / "139-output1.png")
    mask = Image.new("RGBA", (8, 6), (255, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (2, 1, 5, 4))
    for number in (1, 2):
        mask.save(folder / f"139-mask{number}.png")
    first = {"input": "139-input.png", "mask": "139-mask1.png", "output": "139-output1.png", "instruction": "blue it"}
    second = {"input": "139-output1.png", "mask": "139-mask2.png", "output": "139-output2.png", "instruction": "more"}
    (tmp_path / "edit_turns.json").write_text(json.dumps([second, first | changes]))
    texts = {"139-input.png": "a red wall", "139-output1.png": "a blue  wall", "139-output2.png": "a bluer wall"}
    (tmp_path / "global_descriptions.json").write_text(json.dumps({"139": texts}))
    return tmp_path


def test_the_first_turns_of_magic_brush_become_pairs(tmp_path):
    (pair,) = magic_brush_pairs(magic_brush(tmp_path))
    assert (pair.pair_id, pair.image_id) == ("139-output1", "139-input")
    assert (pair.source_prompt, pair.edit_prompt, pair.instruction) == ("a red wall", "a blue wall", "blue it")
    assert pair.mask is not None
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:5] = True
    np.testing.assert_array_equal(pair.mask, expected)
    later = list(magic_brush_pairs(tmp_path, first_turn_only=False))
    assert [p.pair_id for p in later] == ["139-output1", "139-output2"]
    assert later[1].image_id == "139-output1"


def test_a_mask_without_transparency_is_its_white_region():
    image = Image.new("RGB", (4, 4), "black")
    image.paste("white", (0, 0, 2, 4))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    mask = mask_of_image(stream.getvalue(), name="mask")
    assert mask[:, :2].all()
    assert not mask[:, 2:].any()


@pytest.mark.parametrize(
    "changes",
    [
        {"input": "../../etc/passwd"},
        {"mask": "140-mask1.png"},
        {"output": "139-output9.png"},
        {"instruction": 4},
        {"mask": None},
    ],
)
def test_a_magic_brush_turn_that_cannot_be_is_refused(tmp_path, changes):
    with pytest.raises(EvalSetError):
        list(magic_brush_pairs(magic_brush(tmp_path, **changes), first_turn_only=False))


def test_a_split_without_descriptions_is_refused(tmp_path):
    (magic_brush(tmp_path) / "global_descriptions.json").unlink()
    with pytest.raises(EvalSetError, match="cannot be read"):
        list(magic_brush_pairs(tmp_path))
