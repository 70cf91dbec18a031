"""``iedit edit``: what its options mean, and that wrong ones are told in words."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from flows.cli.edit import configure, run
from iedit_model.editing.methods import METHODS, masked_form
from iedit_model.errors import ConfigError
from tasks.edit.record import EditRecord, read_record
from tests.builders.editing_methods import single_pairs

PAIR = single_pairs(3)[2]
NOUN = PAIR.source.objects[PAIR.position].noun
QUICK = ("--steps", "4", "-n", "1", "--device", "cpu", "--dtype", "fp32")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    PAIR.source.render().save(path)
    return path


def edited(tmp_path: Path, *arguments: str) -> EditRecord:
    parser = argparse.ArgumentParser()
    configure(parser)
    assert run(parser.parse_args([*arguments, "-o", str(tmp_path / "out")])) == 0
    return read_record(max(tmp_path.rglob("edit.json"), key=lambda path: path.stat().st_mtime_ns))


def test_with_a_word_the_edit_is_masked_and_without_it_is_not(photo: Path, tmp_path: Path, capsys):
    masked = edited(tmp_path, str(photo), PAIR.edit_prompt, "--word", NOUN, *QUICK)
    assert (masked.job.method, masked.job.settings.masks.source) == ("iedit_m", "word")
    printed = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in printed[:3]] == ["edited_0.png", "sheet.png", "edit.json"]
    assert all(Path(line).is_file() for line in printed[:3])
    plain = edited(tmp_path, str(photo), PAIR.edit_prompt, "--word", NOUN, "--mask", "none", *QUICK)
    assert plain.job.method == "iedit"
    assert edited(tmp_path, str(photo), PAIR.edit_prompt, "--method", "sdedit", *QUICK).job.method == "sdedit"


def test_every_option_lands_in_the_record(photo: Path, tmp_path: Path):
    mask = tmp_path / "mask.png"
    Image.fromarray(PAIR.source.masks()[PAIR.position]).save(mask)
    record = edited(
        tmp_path,
        str(photo),
        PAIR.edit_prompt,
        "--mask",
        str(mask),
        "--strength",
        "0.5",
        "--guidance",
        "3",
        "--sampler",
        "dpmsolver++",
        "--seed",
        "9",
        "--threshold",
        "0.3",
        "--dilate",
        "2",
        "--paste-back",
        "--size",
        "48",
        "--max-aspect",
        "1",
        "--source-prompt",
        "before",
        "-n",
        "2",
        *QUICK[4:],
    )
    job, settings = record.job, record.job.settings
    assert (settings.sampling.strength, settings.sampling.guidance_scale) == (0.5, 3)
    assert (settings.sampling.sampler, settings.sampling.num_inference_steps) == ("dpmsolver++", 20)
    assert (settings.masks.source, settings.masks.threshold, settings.masks.dilate_cells) == ("request", 0.3, 2)
    assert (settings.framing.size_px, settings.framing.max_aspect, settings.paste_back) == (48, 1, True)
    assert (job.seed, job.num_results, job.source_prompt, record.mask is not None) == (9, 2, "before", True)


def test_an_instruction_is_made_of_word_and_replacement(photo: Path, tmp_path: Path):
    record = edited(
        tmp_path,
        str(photo),
        PAIR.edit_prompt,
        "--method",
        "instruct_pix2pix",
        "--word",
        PAIR.source_diff,
        "--replacement",
        PAIR.target_diff,
        *QUICK,
    )
    assert record.job.method == "instruct_pix2pix"
    assert record.job.settings.instruct.num_inference_steps == 4


def test_repeat_takes_everything_from_the_record(photo: Path, tmp_path: Path):
    first = edited(tmp_path, str(photo), PAIR.edit_prompt, *QUICK)
    kept = (tmp_path / "out").rename(tmp_path / "first")
    assert edited(tmp_path, "--repeat", str(kept / "edit.json")) == first
    with pytest.raises(ConfigError, match="--repeat"):
        edited(tmp_path, str(photo), "x", "--repeat", str(kept / "edit.json"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to edit"),
        (("PHOTO",), "nothing to edit"),
        (("PHOTO", "x", "--method", "inpaint"), "inside a mask"),
        (("PHOTO", "x", "--method", "diffedit", "--mask", "auto"), "takes no mask"),
        (("PHOTO", "x", "--threshold", "0.3"), "--threshold changes nothing with iEdit: leave it out"),
        (("PHOTO", "x", "--image-guidance", "2"), "--image-guidance changes nothing with iEdit"),
        (
            ("PHOTO", "x", "--method", "instruct_pix2pix", "--strength", "0.3"),
            "--strength changes nothing",
        ),
        (("--repeat", "edit.json", "--steps", "3"), "leave the steps out"),
        (
            ("PHOTO", "x", "--method", "instruct_pix2pix", "--guidance", "1"),
            "guidance_scale is 1.0, expected more",
        ),
    ],
)
def test_options_that_do_not_go_together_are_told(photo: Path, tmp_path: Path, arguments: tuple[str, ...], said: str):
    with pytest.raises(ConfigError, match=said):
        edited(tmp_path, *(str(photo) if one == "PHOTO" else one for one in arguments))


def test_every_method_can_be_asked_for():
    parser = argparse.ArgumentParser()
    configure(parser)
    masked = {masked_form("iedit"), masked_form("sdedit")}
    for method in set(METHODS) - masked:
        assert parser.parse_args(["a.png", "x", "-o", "out", "--method", method]).method == method
    for method in ("iedit_m", "dalle"):
        with pytest.raises(SystemExit):
            parser.parse_args(["a.png", "x", "-o", "out", "--method", method])
    assert masked_form("iedit") == "iedit_m"


def test_a_process_that_edits_imports_neither_peft_nor_scipy_nor_pipelines(photo: Path, tmp_path: Path):
    # About 1.3 of 6.7 seconds; the rest is torch with its compiler, which diffusers and transformers import themselves.
    command = [str(photo), PAIR.edit_prompt, "-o", str(tmp_path / "out"), "--sampler", "dpmsolver++", *QUICK]
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flows.cli.main", "edit", *command],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert {"torch", "diffusers", "transformers"} <= imported
    assert not {"peft", "scipy", "diffusers.pipelines", "open_clip", "prefect"} & imported
    assert (tmp_path / "out" / "edited_0.png").is_file()


@pytest.mark.parametrize("guidance", ["0", "1"])
def test_the_ranges_of_another_method_are_not_checked(photo: Path, tmp_path: Path, guidance: str):
    record = edited(tmp_path, str(photo), PAIR.edit_prompt, "--guidance", guidance, *QUICK)
    assert record.job.settings.sampling.guidance_scale == float(guidance)
