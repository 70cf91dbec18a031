"""One machine as a person has it: server, worker, deployments, a run of the smallest one through an outage."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from miniature.web import FaultShares, MetadataShares, Site, serve, write_metadata
from storage import Files, VersionStore, verify_version
from tests.flows.served_machine import REPOSITORY, ServedMachine, served_machine
from tests.flows.tiny_build import SHARD_SIZE, TinyCorpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.xdist_group("prefect")]

DEPLOYMENT = "build-dataset/mini"
NUM_URLS = 2 * SHARD_SIZE
EVERY_ROW = MetadataShares(unsafe=0, watermarked=0, small=0, foreign=0, unscored=0, repeated=0)
"""Nothing for the plan to drop."""
RUN_WITHIN_S = 600.0
RECORDED_WITHIN_S = 60.0
"""Task runs are stored by a service of the server, seconds later."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run of the deployment and what the server knows of it."""

    root: Path
    said: str
    """What ``prefect deployment run --watch`` printed."""
    code: int
    flow_run: Any
    task_runs: list[Any]
    states: dict[UUID, list[Any]]
    """Task run -> its states in order."""
    logs: list[Any]
    """What the page shows as the run's log."""
    requests: dict[int, int]
    """Picture -> how often it was asked for."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedMachine]:
    with served_machine(tmp_path_factory.mktemp("machine")) as served:
        yield served


@pytest.fixture(scope="module")
def finished(machine: ServedMachine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Run the deployment while every picture's first request meets a broken site."""
    folder = tmp_path_factory.mktemp("deployment")
    faults = FaultShares.only(error_once=1.0)
    with serve(Site(num_urls=NUM_URLS, faults=faults, metadata=EVERY_ROW)) as running:
        write_metadata(folder / "metadata", site=running.site, base_url=running.base_url)
        corpus = TinyCorpus(running=running, metadata=str(folder / "metadata"))
        # The stage itself does not ask twice: what saves the run is that its task is tried again.
        settings = corpus.settings(data__download__retry__retries=0, run__options__download__retry_delay_s=0.5)
        parameters = {"root": str(folder / "root"), "metadata": corpus.metadata, "config": settings}
        ran = machine.prefect(
            *("deployment", "run", DEPLOYMENT, "--params", json.dumps(parameters), "--watch", "--watch-interval", "1"),
            timeout_s=RUN_WITHIN_S,
        )
        flow_run, task_runs, states, logs = known_of_the_only_run(machine)
        yield Finished(
            root=folder / "root",
            said=ran.stdout + ran.stderr,
            code=ran.returncode,
            flow_run=flow_run,
            task_runs=task_runs,
            states=states,
            logs=logs,
            requests=running.num_requests(),
        )


def known_of_the_only_run(machine: ServedMachine) -> tuple[Any, list[Any], dict[UUID, list[Any]], list[Any]]:
    """Return the flow run, its task runs, their states and its log, when all task runs are recorded as ended."""
    from prefect.client.orchestration import get_client  # noqa: TID251 - the tests of flows/ need what flows/ do
    from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: TID251

    with temporary_settings({PREFECT_API_URL: machine.api}), get_client(sync_client=True) as client:
        (flow_run,) = client.read_flow_runs()
        end = time.monotonic() + RECORDED_WITHIN_S
        while not all_ended(runs := client.read_task_runs()) and time.monotonic() < end:
            time.sleep(0.5)
        states = {run.id: client.read_task_run_states(run.id) for run in runs}
        return flow_run, runs, states, client.read_logs()


def all_ended(task_runs: list[Any]) -> bool:
    return bool(task_runs) and all(run.state is not None and run.state.is_final() for run in task_runs)


def test_the_deployment_runs_to_its_end_in_the_worker(finished):
    assert finished.code == 0, finished.said
    assert finished.flow_run.state.is_completed(), finished.said
    assert finished.flow_run.work_pool_name == "iedit"
    assert finished.flow_run.infrastructure_pid is not None
    assert "dataset" in finished.flow_run.tags


def test_a_stage_that_met_an_outage_is_tried_again_and_succeeds(finished):
    downloads = [run for run in finished.task_runs if run.name.startswith("download ")]
    assert sorted(run.name for run in downloads) == ["download 00000", "download 00001"]
    for run in downloads:
        assert run.run_count == 2
        assert run.state.is_completed()
        names = [state.name for state in finished.states[run.id]]
        assert names == ["Pending", "Running", "AwaitingRetry", "Retrying", "Completed"]
        (said,) = (log.message for log in finished.logs if log.task_run_id == run.id and "Retry 1/2" in log.message)
        assert "ShardError" in said
        assert f"0 of {SHARD_SIZE} URLs gave an image" in said
        assert f"failed: server_error {SHARD_SIZE}." in said
    assert len(finished.requests) == NUM_URLS
    assert set(finished.requests.values()) == {2}
    assert set(finished.requests.values()) == {2}


def test_the_log_of_the_run_is_in_the_page(finished):
    messages = [log.message for log in finished.logs if log.flow_run_id == finished.flow_run.id]
    assert any(re.search(r"version \S+: \d+ pairs in ", message) for message in messages)


def test_the_other_stages_run_once(finished):
    others = [run for run in finished.task_runs if not run.name.startswith("download ")]
    assert {run.name.split(" ")[0] for run in others} == {
        *("plan", "caption", "words", "swap", "embed", "index", "retrieve", "mask", "pack")
    }
    assert {run.run_count for run in others} == {1}
    assert all(run.state.is_completed() for run in others)


def test_the_version_is_there_and_every_byte_is_what_it_says(finished):
    versions = VersionStore(Files(str(finished.root)))
    (version,) = versions.list()
    assert verify_version(versions, version) == []
    record = versions.load(version)
    assert record.num_samples > 0
    counts = {stage.stage: (stage.num_in, stage.num_out) for stage in record.stages}
    assert counts["download"] == (NUM_URLS, NUM_URLS), "the outage cost no picture"


def test_the_server_has_every_deployment_of_the_file_with_its_schedule_and_limit(machine):
    from prefect.client.orchestration import get_client  # noqa: TID251 - the tests of flows/ need what flows/ do
    from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: TID251

    content = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    with temporary_settings({PREFECT_API_URL: machine.api}), get_client(sync_client=True) as client:
        found = {(one.entrypoint, one.name): one for one in client.read_deployments()}
    assert set(found) == {(asked["entrypoint"], asked["name"]) for asked in content["deployments"]}
    assert len(found) == 12
    for asked in content["deployments"]:
        one: Any = found[asked["entrypoint"], asked["name"]]
        assert one.parameters == asked["parameters"]
        assert one.description == asked["description"]
        assert one.enforce_parameter_schema
        assert one.global_concurrency_limit.limit == 1
        assert one.concurrency_options.collision_strategy == "ENQUEUE"
        assert [(s.schedule.cron, s.active) for s in one.schedules] == [
            (s["cron"], s["active"]) for s in asked.get("schedules", [])
        ]
        for name, parameter in one.parameter_openapi_schema["properties"].items():
            assert len(parameter.get("description", "")) > 10, f"{one.entrypoint}: {name}"


def test_a_parameter_of_the_wrong_type_is_refused_before_anything_runs(machine, tmp_path):
    refused = machine.prefect(
        *("deployment", "run", DEPLOYMENT, "--params", json.dumps({"root": str(tmp_path), "profile": "maxi"})),
        timeout_s=120,
    )
    assert refused.returncode != 0
    assert "maxi" in refused.stdout + refused.stderr


def test_ctrl_c_ends_server_and_worker(machine, finished):
    """The last test: nothing of the machine is left afterwards."""
    assert len(machine.processes()) >= 3
    assert machine.interrupt() == 130
    end = time.monotonic() + 30
    while machine.processes() and time.monotonic() < end:
        time.sleep(0.2)
    assert machine.processes() == []
