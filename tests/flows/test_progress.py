"""How far a flow is, told to people, to machines and to logs: every form says the same, and nothing as markup."""

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TextColumn

from flows.reporting.progress import (
    CompositeProgress,
    JsonLines,
    PlainLines,
    Progress,
    RichBars,
    StageTotals,
    current_progress,
    rich_bars,
    shown,
)
from storage import ShardReport
from tasks.stages import DATASET
from tests.flows.made_reports import report

HOSTILE = "[red]no[/red] [/] [link=file:///x]y[/link] \x1b[31m"


def test_json_lines_are_one_object_each_with_all_counts():
    stream = io.StringIO()
    progress = JsonLines(stream)
    progress.begin("mask", 2)
    progress.finish(report("mask", "00000", num_in=5, dropped={"empty_target_mask": 2}, seconds=0.25))
    progress.fail("mask", "00001", "two\nlines")
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"event": "begin", "stage": "mask", "shards": 2},
        {
            "event": "shard",
            "stage": "mask",
            "shard": "00000",
            "seconds": 0.25,
            "num_in": 5,
            "num_out": 3,
            "dropped": {"empty_target_mask": 2},
        },
        {"event": "failed", "stage": "mask", "shard": "00001", "reason": "two\nlines"},
    ]


@given(st.text())
def test_any_reason_stays_one_json_line(reason):
    stream = io.StringIO()
    JsonLines(stream).fail("mask", "00001", reason)
    (line,) = stream.getvalue().split("\n")[:-1]
    assert json.loads(line)["reason"] == reason


def test_a_log_gets_one_line_a_stage_when_its_last_shard_is_done():
    stream = io.StringIO()
    progress = PlainLines(stream)
    progress.begin("caption", 2)
    progress.begin("embed", 1)
    progress.finish(report("caption", "00000", num_in=1500))
    assert stream.getvalue() == ""
    progress.finish(report("caption", "00001", num_in=700, dropped={"empty_caption": 1}))
    assert re.fullmatch(r"caption +2,200 in +2,199 out +\d+\.\d s\n", stream.getvalue())
    progress.finish(report("embed", "00000"))
    assert len(stream.getvalue().splitlines()) == 2


def test_a_log_tells_failures_at_once_and_counts_their_shards_as_done():
    stream = io.StringIO()
    progress = PlainLines(stream)
    progress.begin("caption", 2)
    progress.fail("caption", "00000", "caption 00000: the disk is gone")
    progress.finish(report("caption", "00001"))
    first, second = stream.getvalue().splitlines()
    assert first == "failed: caption 00000: the disk is gone"
    assert second.split()[:2] == ["caption", "10"]


def _recorded() -> tuple[Console, Bars]:
    console = Console(file=io.StringIO(), record=True, width=120, force_terminal=True)
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed}/{task.total} {task.fields[rate]}"))
    return console, Bars(*columns, console=console, auto_refresh=False)


def test_bars_count_shards_and_say_what_a_stage_takes_by_the_second():
    _, bars = _recorded()
    progress = RichBars(bars, units={"mask": "pairs"})
    with bars:
        progress.begin("mask", 3)
        progress.begin("mask", 1)
        time.sleep(0.4)
        progress.finish(report("mask", num_in=100, seconds=0.4))
        progress.fail("mask", "00001", "gone")
        (task,) = bars.tasks
        assert (task.description, task.completed, task.total) == ("mask", 2, 4)
        progress.finish(report("mask", num_in=100, seconds=0.1))
        rate = int(re.fullmatch(r"(\d+) pairs/s", bars.tasks[0].fields["rate"])[1])  # type: ignore[index]
        assert 300 <= rate <= 500


def test_a_finished_stage_is_printed_once_and_leaves_the_bars():
    console, bars = _recorded()
    progress = RichBars(bars)
    with bars:
        for stage in ("caption", "embed"):
            progress.begin(stage, 1)
            assert [task.description for task in bars.tasks] == [stage]
            progress.finish(report(stage, num_in=7))
        assert bars.tasks == []
        for _ in range(20):
            bars.refresh()
    assert re.findall(r"(caption|embed) +7 in", console.export_text()) == ["caption", "embed"]


def test_steps_of_a_training_are_a_bar_that_becomes_a_line():
    console, bars = _recorded()
    progress = RichBars(bars)
    with bars:
        progress.on_step(1, 2, {"loss": 0.5})
        assert [task.completed for task in bars.tasks] == [1]
        progress.on_step(2, 2, {"loss": 0.25})
        assert bars.tasks == []
    assert re.search(r"train +2 of 2 loss 0.2500", console.export_text())


def test_a_stage_that_nobody_announced_gets_its_line():
    console, bars = _recorded()
    with bars:
        RichBars(bars).finish(report("embed"))
    assert console.export_text().split()[0] == "embed"


def rate_of(*reports: ShardReport) -> str:
    _, bars = _recorded()
    progress = RichBars(bars)
    with bars:
        progress.begin("mask", 1 + len(reports))
        time.sleep(0.3)
        for one in reports:
            progress.finish(one)
        return bars.tasks[0].fields["rate"]


def test_the_rate_counts_from_the_work_and_not_from_the_flow():
    assert 5000 < int(rate_of(report("mask", num_in=1000, seconds=0.1)).split()[0].replace(",", "")) <= 10_000


def test_what_an_earlier_run_did_makes_no_rate():
    assert rate_of(report("mask", num_in=1000, seconds=20.0), report("mask", num_in=9, seconds=20.0)) == ""


def test_the_bars_of_a_build_know_the_unit_of_every_stage():
    units = {stage.name: stage.unit for stage in DATASET}
    assert units["mask"] == units["pack"] == "pairs"
    assert units["download"] == "URLs"
    assert units["caption"] == units["embed"] == "images"
    assert units["retrieve"] == "queries"


def test_the_time_of_what_is_announced_before_its_shards_are_known_counts_from_there():
    stream = io.StringIO()
    progress = PlainLines(stream)
    progress.begin("plan", 0)
    time.sleep(0.3)
    progress.begin("plan", 1)
    progress.finish(report("plan"))
    assert 0.2 <= float(stream.getvalue().split()[-2]) < 5


def test_hostile_markup_in_a_reason_is_shown_as_it_is():
    console, bars = _recorded()
    progress = RichBars(bars)
    with bars:
        progress.begin("caption", 1)
        progress.fail("caption", "00000", HOSTILE)
    text = console.export_text(styles=False)
    assert "failed: [red]no[/red] [/] [link=file:///x]y[/link]" in text


@pytest.mark.parametrize("make", [JsonLines, PlainLines])
def test_lines_hold_no_control_characters_that_a_terminal_obeys(make):
    stream = io.StringIO()
    make(stream).fail("caption", "00000", HOSTILE)
    assert "\x1b" not in stream.getvalue()


def test_the_bars_of_the_command_go_to_the_standard_error(capsys):
    with rich_bars() as bars:
        bars.begin("caption", 1)
        bars.finish(report("caption"))
    assert capsys.readouterr().out == ""


_BUSY = """
import time
from flows.reporting.progress import rich_bars
with rich_bars() as bars:
    for stage in ("download", "caption", "words", "swap", "embed"):
        bars.begin(stage, 20)
    for step in range(300):
        bars.on_step(step, 1000, {"loss": 0.5, "grad_norm": 1.0, "images_per_s": 30.0})
        time.sleep(0.01)
"""


def test_bars_write_little_however_often_they_are_moved():
    own, others = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", _BUSY], stderr=others) as process:
        os.close(others)
        written = 0
        with contextlib.suppress(OSError):  # the end of a terminal is an error
            while block := os.read(own, 65_536):
                written += len(block)
    os.close(own)
    assert process.returncode == 0
    # Five drawings of six bars, each some 1.5 KB: ten minutes of them stay under a megabyte.
    assert written < 10_000


def test_a_tally_adds_up_per_stage():
    totals = StageTotals()
    totals.begin("caption", 2)
    totals.finish(report("caption", num_in=30, seconds=2.0))
    totals.finish(report("caption", num_in=10, seconds=2.0))
    totals.fail("caption", "00002", "gone")
    assert totals.per_second("caption") == 10.0
    assert totals.per_second("mask") is None


def test_several_tell_all_the_same():
    streams = [io.StringIO(), io.StringIO()]
    both = CompositeProgress([JsonLines(stream) for stream in streams])
    both.begin("caption", 1)
    both.finish(report("caption"))
    both.fail("caption", "00001", "gone")
    assert streams[0].getvalue() == streams[1].getvalue()
    assert len(streams[0].getvalue().splitlines()) == 3


def test_a_flow_finds_what_its_command_set_up_and_nothing_afterwards():
    progress = StageTotals()
    with shown(progress):
        assert current_progress() is progress
    assert type(current_progress()) is Progress
