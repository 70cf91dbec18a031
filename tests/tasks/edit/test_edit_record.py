"""The record of an edit comes back as the job that it was, and nothing else is taken for one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iedit_model.editing.edit_masks import MaskConfig
from iedit_model.editing.framing import FramingConfig
from iedit_model.editing.registry import EditorModels, EditorSettings
from iedit_model.editing.settings import SamplingConfig
from iedit_model.errors import ConfigError
from iedit_model.models.source import ModelSource
from tasks.edit.record import (
    EditJob,
    EditRecord,
    EditRecordError,
    RecordedFile,
    read_record,
    read_recorded,
    record_bytes,
    recorded,
)

JOB = EditJob(
    method="iedit_m",
    models=EditorModels(tuned=ModelSource("some/model", revision="v2"), segmenter=ModelSource("some/segmenter")),
    settings=EditorSettings(
        sampling=SamplingConfig(strength=0.6, sampler="dpmsolver++"),
        masks=MaskConfig(source="word", threshold=0.4),
        framing=FramingConfig(size_px=384),
    ),
    edit_prompt="ein Zug 🚆",
    word="bus",
)
RECORD = EditRecord(
    job=JOB,
    editor="iedit_m:1234",
    source=RecordedFile(name="source.jpg", sha256="0" * 64),
    mask=None,
    outputs=(RecordedFile(name="edited_0.png", sha256="1" * 64), RecordedFile(name="sheet.png", sha256="2" * 64)),
)


@given(
    prompt=st.text(min_size=1),
    strength=st.floats(0, 1),
    seed=st.integers(0, 2**62),
    count=st.integers(1, 64),
    word=st.none() | st.text(),
    with_mask=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_a_record_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    prompt: str,
    strength: float,
    seed: int,
    count: int,
    word: str | None,
    with_mask: bool,
):
    sampling = replace(JOB.settings.sampling, strength=strength)
    job = replace(
        JOB,
        edit_prompt=prompt,
        seed=seed,
        num_results=count,
        word=word,
        settings=replace(JOB.settings, sampling=sampling),
    )
    mask = RecordedFile(name="given_mask.png", sha256="3" * 64) if with_mask else None
    record = replace(RECORD, job=job, mask=mask)
    path = tmp_path_factory.getbasetemp() / "edit.json"
    try:
        path.write_bytes(record_bytes(record))
    except UnicodeEncodeError:
        return  # a lone surrogate is no text that a command line could hand over
    assert read_record(path) == record
    assert record_bytes(read_record(path)) == record_bytes(record)


def test_the_record_names_weights_settings_files_and_libraries_in_plain_json():
    content = json.loads(record_bytes(RECORD))
    assert content["job"]["models"]["tuned"] == {"name": "some/model", "revision": "v2"}
    assert content["job"]["settings"]["sampling"]["strength"] == 0.6
    assert content["job"]["settings"]["masks"]["threshold"] == 0.4
    assert content["outputs"][0] == {"name": "edited_0.png", "sha256": "1" * 64}
    assert set(content["libraries"]) >= {"torch", "diffusers"}
    assert content["editor"] == "iedit_m:1234"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1, 2]",
        b'{"format": 2}',
        b'{"format": 1}',
        b"[" * 100_000,
        record_bytes(RECORD).replace(b'"strength": 0.6', b'"strength": 3'),
        record_bytes(RECORD).replace(b'"strength"', b'"power"'),
        record_bytes(RECORD).replace(b'"num_results": 4', b'"num_results": 0'),
        record_bytes(RECORD) + b" " * (1 << 20),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "edit.json"
    path.write_bytes(content)
    with pytest.raises(EditRecordError, match=r"edit\.json"):
        read_record(path)
    with pytest.raises(EditRecordError):
        read_record(tmp_path)


def test_a_file_of_a_record_is_only_what_it_was_and_lies_beside_it(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(b"abc")
    (tmp_path / "inner" / "source.png").write_bytes(b"abc")
    good = recorded("source.png", b"abc")
    assert read_recorded(tmp_path / "inner", good, max_bytes=3) == b"abc"
    for wrong, said in (
        (recorded("source.png", b"abd"), "sha256"),
        (recorded("../secret", b"abc"), "no file beside"),
        (recorded("gone.png", b""), "cannot be read"),
    ):
        with pytest.raises(EditRecordError, match=said):
            read_recorded(tmp_path / "inner", wrong, max_bytes=3)
    with pytest.raises(EditRecordError, match="sha256"):
        read_recorded(tmp_path / "inner", good, max_bytes=1)


@pytest.mark.parametrize("wrong", [{"num_results": 0}, {"num_results": 65}, {"seed": -1}, {"seed": 2**63}])
def test_numbers_of_results_that_cannot_be_are_refused(wrong: dict[str, int]):
    with pytest.raises(ConfigError):
        replace(JOB, **wrong)
    assert list(replace(JOB, seed=5, num_results=2).seeds) == [5, 6]
