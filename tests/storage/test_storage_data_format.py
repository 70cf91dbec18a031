"""The documentation of the data format is what the code says now."""

import json
import re
import subprocess
import sys
from pathlib import Path

from storage import SAMPLE_PARTS, ShardReport
from tasks.data_format import data_format
from tasks.stages import stage_names

DOCUMENT = Path(__file__).parents[2] / "docs" / "data_format.md"


def test_the_document_is_fresh():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == data_format(), "run: python -m tasks.data_format > docs/data_format.md"


def test_the_command_prints_it():
    run = subprocess.run(
        [sys.executable, "-m", "tasks.data_format"], capture_output=True, check=True, cwd=DOCUMENT.parents[1]
    )
    assert run.stdout.decode() == data_format()


def test_it_names_every_stage_and_every_member_of_a_sample():
    text = data_format()
    folders = re.findall(r"\| `((?!versions|outside)\w+)/` \|", text)
    assert tuple(folders) == stage_names()
    members = re.findall(r"\| `<sample_id>\.(\w+)(?:\.png)?` \|", text)
    assert tuple(members) == SAMPLE_PARTS


def test_its_example_is_a_true_marker():
    found = re.search(r"```json\n(.*?)```", data_format(), re.DOTALL)
    assert found is not None
    report = ShardReport.from_json(found[1].encode())
    assert report.num_in == report.num_out + sum(report.dropped.values())
    assert json.loads(found[1])["digest"] == report.digest
