"""The scheduled re-evaluation of real checkpoints: what it costs, when it fails, how it says so, and who is told."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flows.cli.main import main
from flows.evaluate import REGRESSION_EVENT, re_evaluate
from storage import Files
from tasks.evaluate.history import pin_baseline
from tests.builders.scoring_models import WEIGHTS, few_pairs
from tests.flows.listening_webhook import ListeningWebhook, listening_webhook

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect")]

MODEL = "tiny"
REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
    "evaluate.plan.methods": ["iedit"],
    # Fewer or weaker steps leave the picture as it was, whatever the weights are.
    "evaluate.plan.settings.sampling.num_inference_steps": 4,
    "evaluate.plan.settings.sampling.strength": 0.8,
    "evaluate.plan.summary.bootstrap.num_resamples": 200,
    "run.runner.workers": 1,
    "run.options.evaluate.retries": 0,
}
EVENTS_WITHIN_S = 120.0
"""Events are stored and acted on by services of the server, seconds later."""


@dataclass(frozen=True, kw_only=True)
class Night:
    """One run, and what the store held afterwards."""

    flow_run: UUID
    state: str
    message: str
    history: tuple[str, ...]
    shards: dict[str, int]
    """Every file of edits and scores with the time when it was written."""


class Laboratory:
    """A training run with its checkpoints, a set of a few pairs, and the store of the history."""

    def __init__(self, folder: Path) -> None:
        self.store, self.models, self.pairs = folder / "store", folder / "models", folder / "few"
        few_pairs(self.pairs, num_pairs=6)

    def save_checkpoint(self, step: int, *, is_damaged: bool = False) -> None:
        """Write the newest checkpoint as a training does; a damaged one has the UNet's numbers in another order."""
        run = self.models / "run-1" / "checkpoints"
        folder = run / f"step_{step:08d}"
        shutil.copytree(WEIGHTS / "ldm", folder)
        if is_damaged:
            path = folder / "unet" / "diffusion_pytorch_model.safetensors"
            rng = np.random.default_rng(7)
            weights = {name: rng.permutation(one.ravel()).reshape(one.shape) for name, one in load_file(path).items()}
            path.unlink()
            save_file(weights, path, metadata={"format": "pt"})
        (run / "latest").unlink(missing_ok=True)
        (run / "latest").symlink_to(folder.name)

    def night(self) -> Night:
        """Run the flow as the schedule does and return what the server knows of it."""
        from prefect.client.orchestration import get_client  # noqa: TID251 - the tests of flows/ need what flows/ do

        state = re_evaluate(
            str(self.store),
            str(self.models),
            model=MODEL,
            sets=[str(self.pairs)],
            config=SETTINGS,
            return_state=True,
        )
        flow_run = state.state_details.flow_run_id
        assert flow_run is not None
        with get_client(sync_client=True) as client:
            known = client.read_flow_run(flow_run).state
        assert known is not None
        return Night(
            flow_run=flow_run,
            state=known.type.value,
            message=known.message or "",
            history=tuple(sorted(path.stem for path in (self.store / "history" / MODEL).glob("*.parquet"))),
            shards={str(path): path.stat().st_mtime_ns for path in self.store.glob("evaluate/**/*.*")},
        )


@dataclass(frozen=True, kw_only=True)
class Nights:
    """What happened, night by night."""

    laboratory: Laboratory
    first: Night
    unchanged: Night
    damaged: Night
    not_mended: Night
    mended: Night
    """After the damaged evaluation was made the baseline: every metric rises."""
    told: list[tuple[str, Any]]
    """What the webhook of the automation was sent."""


@pytest.fixture(scope="module")
def nights(prefect_api: str, prefect: None, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    folder = tmp_path_factory.mktemp("re_evaluate")
    laboratory = Laboratory(folder)
    with listening_webhook() as webhook:
        create_automation(webhook, prefect_api, folder)
        laboratory.save_checkpoint(100)
        first, unchanged = laboratory.night(), laboratory.night()
        laboratory.save_checkpoint(200, is_damaged=True)
        damaged, not_mended = laboratory.night(), laboratory.night()
        pin_baseline(Files(str(laboratory.store)), MODEL, damaged.history[-1])
        laboratory.save_checkpoint(300)
        mended = laboratory.night()
        told = webhook.told(2, timeout_s=EVENTS_WITHIN_S)
    return Nights(
        laboratory=laboratory,
        first=first,
        unchanged=unchanged,
        damaged=damaged,
        not_mended=not_mended,
        mended=mended,
        told=told,
    )


def create_automation(webhook: ListeningWebhook, api: str, folder: Path) -> None:
    """Run the commands of docs/evaluation.md as they stand there."""
    page = (REPOSITORY / "docs" / "evaluation.md").read_text()
    (commands,) = (block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "automation create" in block)
    (folder / "docs").symlink_to(REPOSITORY / "docs")
    ran = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": api,
            "WEBHOOK_URL": webhook.url,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Created automation 'iedit-regression'" in ran.stdout


def task_runs(flow_run: UUID) -> Counter[str]:
    """Return the names of the task runs of a flow run and of the flow runs inside, as far as they are recorded."""
    from prefect.client.orchestration import get_client  # noqa: TID251 - the tests of flows/ need what flows/ do
    from prefect.client.schemas.filters import (  # noqa: TID251
        FlowRunFilter,
        FlowRunFilterId,
        FlowRunFilterParentFlowRunId,
    )

    own = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    inside = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run]))
    with get_client(sync_client=True) as client:
        runs = [run for which in (own, inside) for run in client.read_task_runs(flow_run_filter=which)]
    return Counter(run.name.split(" ")[0] for run in runs)


def recorded_task_runs(flow_run: UUID, expected: dict[str, int]) -> bool:
    """Return whether exactly these task runs are recorded, which takes the server a while."""
    end = time.monotonic() + EVENTS_WITHIN_S
    while (found := task_runs(flow_run)) != expected and time.monotonic() < end:
        time.sleep(0.2)
    return found == expected


def numbers(night: Night, laboratory: Laboratory, metric: str) -> dict[str, Any]:
    """Return what the history has of a metric for the newest evaluation of a night."""
    import pyarrow.parquet as pq

    path = laboratory.store / "history" / MODEL / f"{night.history[-1]}.parquet"
    (row,) = (row for row in pq.read_table(path).to_pylist() if row["metric"] == metric)
    return row


def test_before_anybody_trained_the_night_is_completed_with_the_reason(tmp_path):
    night = Laboratory(tmp_path).night()
    assert (night.state, night.history) == ("COMPLETED", ())
    assert night.message.startswith("nothing to judge: there is no checkpoint in ")


def test_a_model_that_was_judged_before_and_is_gone_fails(nights, tmp_path):
    laboratory = nights.laboratory
    laboratory.models.rename(tmp_path / "away")
    night = laboratory.night()
    (tmp_path / "away").rename(laboratory.models)
    assert night.state == "FAILED"
    assert "there is no checkpoint in" in night.message


def test_the_first_night_evaluates_and_becomes_the_baseline(nights):
    assert nights.first.state == "COMPLETED"
    assert len(nights.first.history) == 1
    assert nights.first.shards
    pin = json.loads((nights.laboratory.store / "history" / MODEL / "baseline.json").read_bytes())
    assert pin == {"evaluation": nights.damaged.history[-1]}, "the later pin"


def test_a_night_without_a_change_passes_and_makes_no_task_run_no_shard_and_no_history(nights):
    assert nights.unchanged.state == "COMPLETED"
    assert nights.unchanged.shards == nights.first.shards
    assert nights.unchanged.history == nights.first.history
    # Task runs are recorded in the order in which they were made: after the later ones all earlier are there.
    assert recorded_task_runs(nights.damaged.flow_run, {"evaluate-0": 1, "reference": 1, "edit": 1, "score": 1})
    assert recorded_task_runs(nights.first.flow_run, {"evaluate-0": 1, "reference": 1, "edit": 1, "score": 1})
    assert task_runs(nights.unchanged.flow_run) == {}


def test_a_damaged_checkpoint_fails_the_run_with_metric_set_fall_and_interval(nights):
    assert nights.damaged.state == "FAILED"
    assert len(nights.damaged.history) == 2
    assert "\n" not in nights.damaged.message
    assert f"RegressionError: {MODEL}: " in nights.damaged.message
    assert f"are worse than in the baseline {nights.first.history[-1]}" in nights.damaged.message
    for metric, verb, end, factor, unit in (
        ("clip_score@mini", "fell", "low", 1, " %"),
        ("clip_score@mini-held-out", "fell", "low", 1, " %"),
        ("ssim_zero_fill_outside", "fell", "low", 100, " %"),
        ("ssim_normconv_outside", "fell", "low", 100, " %"),
        ("fid@mini-vgg-rms", "rose", "high", 1, ""),
    ):
        before = numbers(nights.first, nights.laboratory, metric)
        after = numbers(nights.damaged, nights.laboratory, metric)
        old, new, bound = (factor * value for value in (before["value"], after["value"], before[end]))
        assert abs(new - old) > 2 * abs(bound - old), "the damage is no chance"
        assert (
            f"{metric} of iedit on few {verb} from {old:.4g} to {new:.4g}{unit}, "
            f"by {abs(new - old):.3g} where its interval allows {abs(bound - old):.3g}"
        ) in nights.damaged.message


def test_a_fall_that_nobody_mended_fails_the_next_night_too_and_costs_nothing(nights):
    assert nights.not_mended.state == "FAILED"
    assert nights.not_mended.message == nights.damaged.message
    assert nights.not_mended.history == nights.damaged.history
    assert nights.not_mended.shards == nights.damaged.shards
    assert recorded_task_runs(nights.mended.flow_run, {"evaluate-0": 1, "reference": 1, "edit": 1, "score": 1})
    assert task_runs(nights.not_mended.flow_run) == {}


def test_metrics_that_rise_do_not_fail_the_run_and_known_weights_are_not_edited_with_again(nights):
    assert nights.mended.state == "COMPLETED"
    assert len(nights.mended.history) == 3
    for metric in ("clip_score@mini", "ssim_zero_fill_outside"):
        before = numbers(nights.damaged, nights.laboratory, metric)
        assert numbers(nights.mended, nights.laboratory, metric)["value"] > before["high"]
    assert nights.mended.shards == nights.damaged.shards


def test_each_regression_is_an_event_that_names_model_reason_and_run(nights):
    from prefect.client.orchestration import get_client  # noqa: TID251 - the tests of flows/ need what flows/ do

    def events() -> list[dict[str, Any]]:
        wanted = {"event": {"name": [REGRESSION_EVENT]}, "resource": {"id": [f"iedit.model.{MODEL}"]}}
        with get_client(sync_client=True) as client:
            found = client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
        return sorted(found, key=lambda event: event["occurred"])

    end = time.monotonic() + EVENTS_WITHIN_S
    while len(found := events()) < 2 and time.monotonic() < end:
        time.sleep(0.2)
    assert len(found) == 2, "one for each night that failed"
    for event, night in zip(found, (nights.damaged, nights.not_mended), strict=True):
        assert night.message.endswith(event["payload"]["reason"])
        assert f"prefect.flow-run.{night.flow_run}" in {one["prefect.resource.id"] for one in event["related"]}


def test_the_automation_of_the_documentation_tells_the_reason(nights):
    assert [content_type for content_type, _ in nights.told] == ["application/json"] * 2
    for (_, told), night in zip(nights.told, (nights.damaged, nights.not_mended), strict=True):
        assert set(told) == {"text"}
        assert "clip_score@mini of iedit on few fell from" in told["text"]
        assert night.message.endswith(told["text"])


def test_the_history_shows_the_trend_and_the_baseline(nights, capsys):
    assert main(["history", MODEL, "--root", str(nights.laboratory.store)]) == 0
    text = capsys.readouterr().out
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert [block.split(" ")[0] for block in blocks] == list(nights.mended.history)
    assert ["(baseline)" in block for block in blocks] == [False, True, False]
    for block, night in zip(blocks, (nights.first, nights.damaged, nights.mended), strict=True):
        score = numbers(night, nights.laboratory, "clip_score@mini")
        assert f"CLIPScore [mini] {score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]" in block
        outside = numbers(night, nights.laboratory, "ssim_zero_fill_outside")
        assert f"SSIM-notM (zero-fill) {100 * outside['value']:.2f} " in block
    assert main(["history", MODEL, "--root", str(nights.laboratory.store), "--check"]) == 0


def test_the_command_fails_against_the_first_baseline(nights, capsys, tmp_path):
    store = Path(shutil.copytree(nights.laboratory.store / "history", tmp_path / "history")).parent
    (tmp_path / "history" / MODEL / f"{nights.mended.history[-1]}.parquet").unlink()
    assert main(["history", MODEL, "--root", str(store), "--pin", nights.first.history[-1], "--check"]) == 1
    assert "clip_score@mini of iedit on few fell from" in capsys.readouterr().err
