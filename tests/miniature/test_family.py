"""The family reaches its floors on a small sample, and its folders are what their libraries expect."""

import json
from pathlib import Path

import pytest

from miniature.measure import MEASURES, WEIGHTS, Sample
from miniature.pretrain import MEMBERS

SMALL = Sample(num_scenes=60, num_held_out=40, num_generated=24, num_edits=16)
SLACK = {"%": 8.0, "": 0.05, "dB": 0.5}
"""How far a small sample may fall under a floor: about two standard errors of a share of 0.95 of 40."""
QUICK = ("clip", "clip_metric", "captioner", "segmenter", "perceptual")


def _check(member: str) -> None:
    figures = MEASURES[member](SMALL)
    assert figures
    for figure in figures:
        assert figure.value >= figure.floor - SLACK[figure.unit], figure


@pytest.mark.parametrize("member", QUICK)
def test_a_member_reaches_its_floors(member):
    _check(member)


@pytest.mark.slow
@pytest.mark.parametrize("member", ["ldm", "instruct_pix2pix"])
def test_a_diffusion_model_reaches_its_floors(member):
    _check(member)


def test_the_family_is_small_and_has_no_pickles():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".txt"}


def test_every_member_has_a_folder_and_a_card_with_its_figures():
    folders = {path.name for path in WEIGHTS.iterdir() if path.is_dir()}
    assert folders == set(MEMBERS) - {"vae"}
    for folder in folders:
        card = (WEIGHTS / folder / "README.md").read_text()
        for needed in ("| parameters |", "| data |", "| training of", "| licence |", "## Figures", "## Limits"):
            assert needed in card, (folder, needed)


def test_no_file_names_a_place_on_the_machine_that_made_it():
    for path in (path for path in WEIGHTS.rglob("*.json") if path.name != "tokenizer.json"):
        assert '"/' not in path.read_text(encoding="utf-8"), path


def test_the_scheduler_is_the_one_of_stable_diffusion():
    """diffusers' own defaults for DDIM differ in each of these."""
    for folder in ("ldm", "instruct_pix2pix"):
        config = json.loads(Path(WEIGHTS / folder / "scheduler" / "scheduler_config.json").read_text())
        expected = {
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "prediction_type": "epsilon",
        }
        assert {key: config[key] for key in expected} == expected
