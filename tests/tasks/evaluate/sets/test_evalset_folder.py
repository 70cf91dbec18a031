"""The folder of an evaluation set: what is written comes back, and what was tampered with is refused."""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage import parquet_bytes
from tasks.evaluate.errors import EvalSetError, EvalSetExistsError, UnknownPairError
from tasks.evaluate.sets.evalset import EVALSET, EvalSetInfo
from tasks.evaluate.sets.folder import NewPair, check_evalset, open_evalset, replace_masks, write_evalset
from tasks.evaluate.sets.pixels import framed, mask_bytes, set_mask

INFO = EvalSetInfo(name="tiny", origin="real", description="Two pairs of one picture.", license="CC0")


def encoded(size=(12, 8), *, seed=0, kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue(), pixels


def half_mask(size=(12, 8)):
    mask = np.zeros((size[1], size[0]), bool)
    mask[:, : size[0] // 2] = True
    return mask


def pair(pair_id="b", **changes):
    fields = {
        "pair_id": pair_id,
        "image_id": "one",
        "image": encoded()[0],
        "source_prompt": "a red bus",
        "edit_prompt": "a blue bus",
        "word": "bus",
        "replacement": "van",
        "mask": half_mask(),
        "mask_origin": "truth",
    }
    return NewPair(**(fields | changes))


def test_what_is_written_comes_back_sorted_with_the_same_pixels(tmp_path):
    write_evalset(tmp_path, INFO, [pair("b"), pair("a", mask=None, mask_origin="none", edit_prompt="a <b>van</b>")])
    evalset = open_evalset(tmp_path)
    assert evalset.info == INFO
    assert [p.pair_id for p in evalset.pairs] == ["a", "b"]
    assert evalset.pairs[0].edit_prompt == "a <b>van</b>"
    assert evalset.num_images == 1
    np.testing.assert_array_equal(np.asarray(evalset.image(evalset.pairs[1])), encoded()[1])
    np.testing.assert_array_equal(evalset.mask(evalset.pairs[1]), half_mask())
    assert evalset.mask(evalset.pairs[0]) is None
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["one.png"]
    assert check_evalset(evalset) == []


def test_the_digest_follows_every_word_and_pixel_but_not_the_place_or_the_name(tmp_path):
    digests = set()
    variants: tuple[dict[str, Any], ...] = (
        {},
        {"replacement": "x"},
        {"word": "van"},
        {"mask": ~half_mask()},
        {"image": encoded(seed=1)[0]},
        {"kind": "noun"},
    )
    for number, changes in enumerate(variants):
        digests.add(write_evalset(tmp_path / str(number), INFO, [pair(**changes)]).digest)
    assert len(digests) == 6
    other = EvalSetInfo(name="other", origin="real", description="Elsewhere.")
    assert write_evalset(tmp_path / "again", other, [pair()]).digest in digests
    assert open_evalset(tmp_path / "again").digest == open_evalset(tmp_path / "0").digest


def test_writing_the_same_set_again_touches_nothing_and_another_one_is_refused(tmp_path):
    write_evalset(tmp_path, INFO, [pair()])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    write_evalset(tmp_path, INFO, [pair()])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(EvalSetExistsError, match="tiny"):
        write_evalset(tmp_path, INFO, [pair(edit_prompt="another")])


@pytest.mark.parametrize("name", ["images/one.png", "evalset.json"])
def test_files_of_somebody_else_in_the_folder_stay(name: str, tmp_path):
    write_evalset(tmp_path / "made", INFO, [pair()])
    mine = tmp_path / "mine" / next(path.relative_to(tmp_path / "made") for path in (tmp_path / "made").glob(name))
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(EvalSetExistsError, match="is no part of this set and stays"):
        write_evalset(tmp_path / "mine", INFO, [pair()])
    assert [path for path in (tmp_path / "mine").rglob("*") if path.is_file()] == [mine]
    assert mine.read_bytes() == b"mine"


def test_a_run_killed_before_the_table_leaves_no_set_and_can_be_repeated(tmp_path, monkeypatch):
    from tasks.evaluate.sets import folder

    def killed(evalset):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "_write_pairs", killed)
    with pytest.raises(KeyboardInterrupt):
        write_evalset(tmp_path, INFO, [pair()])
    with pytest.raises(EvalSetError, match="no evaluation set"):
        open_evalset(tmp_path)
    monkeypatch.undo()
    write_evalset(tmp_path, INFO, [pair()])
    assert open_evalset(tmp_path).pairs[0].word == "bus"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pair_id": "../up"}, "pair_id"),
        ({"image_id": "a/b"}, "image"),
        ({"edit_prompt": "  "}, "edit_prompt"),
        ({"edit_prompt": "x" * 2001}, "2001 characters"),
        ({"source_prompt": "bell \x07"}, "control character"),
        ({"image": b"GIF89a"}, "no whole image"),
        ({"image": encoded()[0][:60]}, "no whole image"),
        ({"mask": np.ones((8, 11), bool)}, r"\(11, 8\), its image \(12, 8\)"),
        ({"mask_origin": "none"}, "mask_origin"),
        ({"mask": None}, "mask_origin"),
    ],
)
def test_a_pair_that_cannot_be_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(EvalSetError, match=message):
        write_evalset(tmp_path, INFO, [pair(**changes)])
    assert list(tmp_path.iterdir()) == []


def test_two_pairs_of_one_name_or_two_contents_of_one_image_are_refused(tmp_path):
    with pytest.raises(EvalSetError, match="two pairs"):
        write_evalset(tmp_path, INFO, [pair(), pair()])
    with pytest.raises(EvalSetError, match="other content"):
        write_evalset(tmp_path, INFO, [pair("a"), pair("b", image=encoded(seed=3)[0])])
    with pytest.raises(EvalSetError, match="no pair"):
        write_evalset(tmp_path, INFO, [])


def tampered(tmp_path, **changes):
    evalset = write_evalset(tmp_path, INFO, [pair()])
    row = {name: getattr(evalset.pairs[0], name) for name in EVALSET.names} | changes
    (tmp_path / "pairs.parquet").write_bytes(parquet_bytes(EVALSET.table([row]), EVALSET))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "images/../../../etc/passwd.png"}, "image is"),
        ({"image": "/etc/passwd"}, "image is"),
        ({"image": "s3://bucket/one.png"}, "image is"),
        ({"image_sha256": "00"}, "image_sha256"),
        ({"edit_prompt": ""}, "edit_prompt"),
        ({"word": "\x00"}, "control"),
    ],
)
def test_a_tampered_row_is_refused_when_the_set_is_opened(tmp_path, changes, message):
    tampered(tmp_path, **changes)
    with pytest.raises(EvalSetError, match=message):
        open_evalset(tmp_path)


def test_a_changed_picture_and_a_mask_of_another_size_are_found_when_they_are_read(tmp_path):
    evalset = write_evalset(tmp_path, INFO, [pair()])
    (tmp_path / "images" / "one.png").write_bytes(encoded(seed=9)[0])
    with pytest.raises(EvalSetError, match="hash"):
        evalset.image(evalset.pairs[0])
    assert len(check_evalset(evalset)) == 1
    (tmp_path / "images" / "one.png").unlink()
    with pytest.raises(EvalSetError, match="not there"):
        evalset.image(evalset.pairs[0])
    tampered(tmp_path / "two", mask=mask_bytes(np.ones((3, 3), bool)))
    evalset = open_evalset(tmp_path / "two")
    with pytest.raises(EvalSetError, match="3 x 3, its image 12 x 8"):
        evalset.frame(evalset.pairs[0], size_px=8)


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_a_table_that_unpacks_to_more_than_the_limit_is_not_unpacked(tmp_path, monkeypatch, use_dictionary):
    from tasks.evaluate.sets import untrusted

    write_evalset(tmp_path, INFO, [pair()])
    row = {name: getattr(open_evalset(tmp_path).pairs[0], name) for name in EVALSET.names}
    rows = [row | {"pair_id": f"p{i}", "mask": b"\0" * 100_000} for i in range(20)]
    table = pa.Table.from_pylist(rows, schema=EVALSET.arrow())
    pq.write_table(table, tmp_path / "pairs.parquet", compression="zstd", use_dictionary=use_dictionary)
    monkeypatch.setattr(untrusted, "MAX_TABLE_BYTES", 1_000_000)
    assert (tmp_path / "pairs.parquet").stat().st_size < 1_000_000
    with pytest.raises(EvalSetError, match="at most 1000000"):
        open_evalset(tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", '{"name": 1}', '{"name": "UP", "origin": "real", "description": "x"}', "{", "[" * 100_000, "{}"]
)
def test_a_description_that_is_none_is_refused(tmp_path, content):
    write_evalset(tmp_path, INFO, [pair()])
    (tmp_path / "evalset.json").write_text(content)
    with pytest.raises(EvalSetError):
        open_evalset(tmp_path)


def test_masks_are_replaced_in_one_switch_and_everything_else_stays(tmp_path):
    evalset = write_evalset(tmp_path, INFO, [pair("a"), pair("b")])
    other = ~half_mask()
    replace_masks(evalset, {"a": other, "b": None})
    again = open_evalset(tmp_path)
    np.testing.assert_array_equal(again.mask(again.pairs[0]), other)
    assert [p.mask_origin for p in again.pairs] == ["hand", "none"]
    assert [p.edit_prompt for p in again.pairs] == [p.edit_prompt for p in evalset.pairs]
    assert again.digest != evalset.digest
    with pytest.raises(EvalSetError, match="its image"):
        replace_masks(again, {"a": np.ones((2, 2), bool)})
    with pytest.raises(UnknownPairError):
        replace_masks(again, {"c": other})
    # A set that is opened through the old object still has the pictures, so nothing dangles.
    assert check_evalset(evalset) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_mask_survives_its_encoding(width, height, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    np.testing.assert_array_equal(set_mask(mask_bytes(mask), name="m", size=(width, height)), mask)


def test_a_picture_of_the_frames_size_is_taken_as_it_is():
    data, pixels = encoded((16, 16))
    frame = framed(Image.open(io.BytesIO(data)), half_mask((16, 16)), size_px=16)
    np.testing.assert_array_equal(np.asarray(frame.image), pixels)
    np.testing.assert_array_equal(frame.mask, half_mask((16, 16)))


def test_the_frame_is_the_centre_of_the_picture_and_the_mask_goes_with_it():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    frame = framed(Image.fromarray(pixels), pixels[..., 0] > 0, size_px=10)
    assert frame.image.size == (10, 10)
    assert frame.mask.all()
    assert np.asarray(frame.image)[2:-2, 2:-2].min() > 250
    empty = framed(Image.fromarray(pixels), None, size_px=10)
    assert not empty.mask_known
    assert not empty.mask.any()


def test_the_description_is_one_file_that_people_can_read(tmp_path):
    write_evalset(tmp_path, INFO, [pair()])
    assert json.loads((tmp_path / "evalset.json").read_text())["license"] == "CC0"


def test_a_set_can_lie_in_an_object_store():
    root = "memory://evalset-folder-test"
    write_evalset(root, INFO, [pair()])
    evalset = open_evalset(root)
    np.testing.assert_array_equal(np.asarray(evalset.image(evalset.pairs[0])), encoded()[1])
