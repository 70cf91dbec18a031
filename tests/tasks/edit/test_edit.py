"""An edit writes pictures, a sheet and a record, which gives the same bytes again; half an edit leaves no record."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tasks.edit.edit as edit_module
from iedit_model.editing.edit_masks import MaskConfig
from iedit_model.editing.registry import EditorModels
from iedit_model.errors import ConfigError, EditError, ImageFileError, MaskError
from iedit_model.imaging.decode import ImageLimits
from iedit_model.models.source import ModelSource
from storage.errors import DiskFullError
from tasks.edit.edit import edit_file, repeat_edit
from tasks.edit.record import EditJob, EditRecordError, read_record
from tests.builders.editing_methods import MODELS, WEIGHTS, quick_settings, single_pairs

PAIR = single_pairs(3)[2]
NOUN = PAIR.source.objects[PAIR.position].noun
JOB = EditJob(
    method="iedit_m",
    models=MODELS,
    settings=quick_settings(masks=MaskConfig(source="word")),
    edit_prompt=PAIR.edit_prompt,
    word=NOUN,
    num_results=2,
    seed=3,
)
PLAIN = replace(JOB, method="sdedit", word=None, settings=quick_settings())


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A turned picture with an alpha channel, as a phone and a drawing program would leave it together."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = PAIR.source.render().resize((120, 80)).convert("RGBA").transpose(Image.Transpose.ROTATE_90)
    path = tmp_path / "photo.PNG"
    picture.save(path, exif=exif)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_an_edit_leaves_pictures_of_the_sources_size_and_its_record_makes_the_same_bytes(photo: Path, tmp_path: Path):
    outcome = edit_file(photo, JOB, tmp_path / "first")
    made = files(tmp_path / "first")
    assert set(made) == {"source.png", "edited_0.png", "edited_1.png", "mask.png", "sheet.png", "edit.json"}
    assert [path.name for path in outcome.results] == ["edited_0.png", "edited_1.png"]
    assert opened(made["edited_0.png"]).shape == (80, 120, 3)
    assert made["edited_0.png"] != made["edited_1.png"]
    assert made["source.png"] == photo.read_bytes()
    mask = opened(made["mask.png"])
    assert mask.shape == (80, 120)
    assert 0.02 < (mask == 255).mean() < 0.9
    repeat_edit(tmp_path / "first" / "edit.json", tmp_path / "second")
    assert files(tmp_path / "second") == made
    third = tmp_path / "third"
    repeat_edit(tmp_path / "second" / "edit.json", third)
    repeat_edit(third / "edit.json", third)
    assert files(third) == made


def test_a_given_mask_is_kept_beside_and_repeats_too(photo: Path, tmp_path: Path):
    mask = Image.new("L", (60, 40), 0)
    mask.paste(255, (10, 10, 30, 30))
    mask.save(tmp_path / "here.png")
    job = replace(JOB, word=None, settings=quick_settings(masks=MaskConfig(source="request"), paste_back=True))
    edit_file(photo, job, tmp_path / "first", mask=tmp_path / "here.png")
    made = files(tmp_path / "first")
    assert made["given_mask.png"] == (tmp_path / "here.png").read_bytes()
    used = opened(made["mask.png"]) == 255
    assert used[20:60, 20:60].all()
    source = np.asarray(PAIR.source.render().resize((120, 80)))
    edited = opened(made["edited_0.png"])
    assert np.array_equal(edited[~used], source[~used])
    assert not np.array_equal(edited[used], source[used])
    repeat_edit(tmp_path / "first" / "edit.json", tmp_path / "second")
    assert files(tmp_path / "second") == made


def test_seeds_count_up_so_that_one_result_can_be_had_alone(photo: Path, tmp_path: Path):
    edit_file(photo, PLAIN, tmp_path / "both")
    edit_file(photo, replace(PLAIN, num_results=1, seed=4), tmp_path / "one")
    both, one = opened(files(tmp_path / "both")["edited_1.png"]), opened(files(tmp_path / "one")["edited_0.png"])
    # Alone the batch has another size, and sums run in another order.
    assert np.abs(both.astype(int) - one).max() <= 1
    assert "mask.png" not in files(tmp_path / "one")


def test_an_edit_overwrites_and_removes_nothing_and_has_a_place_of_its_own(photo: Path, tmp_path: Path):
    out = tmp_path / "out"
    edit_file(photo, JOB, out)
    (out / "notes.txt").write_text("mine")
    (out / "edited_1.png").write_bytes(b"painted over by hand")
    before = files(out)
    second = edit_file(photo, replace(PLAIN, num_results=1), out)
    third = edit_file(photo, replace(PLAIN, num_results=1, seed=9), out)
    again = edit_file(photo, replace(PLAIN, num_results=1, seed=9), out)
    assert [one.record.parent for one in (second, third, again)] == [out / "edit_2", out / "edit_3", out / "edit_3"]
    assert files(out) == before
    assert read_record(second.record).job.seed == PLAIN.seed
    assert all(path.is_file() for path in (*third.results, third.sheet))


@pytest.mark.parametrize("name", ["edit.json", "edited_0.png", "source.png", "sheet.png", "edit_2"])
@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_strangers_of_any_kind_and_name_stay(photo: Path, tmp_path: Path, name: str, kind: str):
    out, target = tmp_path / "out", tmp_path / "target"
    out.mkdir()
    (out / "edit.json").write_text("somebody's")
    target.write_text("mine")
    (out / name).unlink(missing_ok=True)
    if kind == "folder":
        (out / name).mkdir()
    elif kind == "file":
        (out / name).write_text("mine")
    else:
        (out / name).symlink_to(target if kind == "link" else tmp_path / "nowhere")
    outcome = edit_file(photo, replace(PLAIN, num_results=1), out)
    assert target.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    assert (out / name).is_symlink() == ("link" in kind)
    assert (out / name).is_dir() == (kind == "folder")
    if kind == "file":
        assert (out / name).read_text() == "mine"
    assert read_record(outcome.record).job == replace(PLAIN, num_results=1)


def test_what_an_edit_cannot_keep_and_what_the_model_says_of_itself_is_told(photo: Path, tmp_path: Path):
    large = tmp_path / "photograph.png"
    Image.new("RGBA", (4000, 3000), (90, 120, 60, 128)).save(large)
    quick = replace(PLAIN, num_results=1)
    notes = edit_file(large, quick, tmp_path / "large").notes
    assert "transparent parts" in notes[0]
    assert "4000 x 3000 pixels is edited at 72 x 54" in notes[1]
    assert "only its own picture world" in notes[2]
    assert edit_file(photo, quick, tmp_path / "small").notes == (notes[2],)
    bare = Path(shutil.copytree(WEIGHTS / "ldm", tmp_path / "bare"))
    (bare / "README.md").unlink()
    job = replace(quick, models=EditorModels(base=ModelSource(str(bare))))
    assert edit_file(photo, job, tmp_path / "silent").notes == ()


@pytest.mark.parametrize("fail_at", range(5))
def test_a_disk_that_fills_up_leaves_no_record_and_the_next_try_succeeds(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
):
    out, written = tmp_path / "out", []
    real = edit_module.create_bytes

    def full(path: Path, data: bytes) -> None:
        if len(written) == fail_at:
            raise DiskFullError(str(path))
        written.append(path)
        real(path, data)

    quick = replace(PLAIN, settings=replace(PLAIN.settings, sampling=replace(PLAIN.settings.sampling, strength=0)))
    monkeypatch.setattr(edit_module, "create_bytes", full)
    with pytest.raises(DiskFullError):
        edit_file(photo, quick, out)
    assert not (out / "edit.json").exists()
    monkeypatch.undo()
    edit_file(photo, quick, out)
    edit_file(photo, quick, tmp_path / "whole")
    assert files(out) == files(tmp_path / "whole")


def test_a_record_whose_source_or_weights_changed_is_refused(photo: Path, tmp_path: Path):
    weights = tmp_path / "ldm"
    shutil.copytree(WEIGHTS / "ldm", weights)
    job = replace(PLAIN, models=EditorModels(base=ModelSource(str(weights))))
    edit_file(photo, job, tmp_path / "out")
    record = tmp_path / "out" / "edit.json"
    config = weights / "scheduler" / "scheduler_config.json"
    original = config.read_text()
    config.write_text(json.dumps({**json.loads(original), "steps_offset": 0}))
    with pytest.raises(EditRecordError, match="changed"):
        repeat_edit(record, tmp_path / "again")
    config.write_text(original)
    with (tmp_path / "out" / "source.png").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(EditRecordError, match=r"source\.png"):
        repeat_edit(record, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"method": "dalle"}, ConfigError, "dalle"),
        ({"word": "giraffe" if NOUN != "giraffe" else "guitar"}, MaskError, "empty"),
        ({"word": None}, EditError, "word"),
        ({"edit_prompt": "  "}, EditError, "prompt"),
    ],
)
def test_an_edit_that_cannot_be_made_says_why_and_writes_nothing(
    photo: Path, tmp_path: Path, change: dict[str, Any], error: type[Exception], said: str
):
    with pytest.raises(error, match=said):
        edit_file(photo, replace(JOB, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_pictures_or_too_large_are_refused(photo: Path, tmp_path: Path):
    text = tmp_path / "text.png"
    text.write_text("no picture")
    for path, said in ((text, "no whole image"), (tmp_path, "no file"), (tmp_path / "gone.jpg", "no file")):
        with pytest.raises(ImageFileError, match=said):
            edit_file(path, PLAIN, tmp_path / "out")
    with pytest.raises(ImageFileError, match="bytes"):
        edit_file(photo, PLAIN, tmp_path / "out", limits=ImageLimits(max_bytes=100))
    with pytest.raises(ConfigError, match="takes no mask"):
        edit_file(photo, PLAIN, tmp_path / "out", mask=photo)
