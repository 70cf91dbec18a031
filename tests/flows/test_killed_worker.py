"""``kill -9`` of a worker and its flow run: the run is found dead, the next one of the deployment finishes the work."""

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from miniature.web import Site, serve, write_metadata
from storage import Files, VersionStore, verify_version
from tests.flows.served_machine import ServedMachine, served_machine
from tests.flows.tiny_build import TinyCorpus, final_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.xdist_group("prefect")]

FOUND_DEAD_WITHIN_S = 120.0
FINISHED_WITHIN_S = 400.0


def state_names(machine: ServedMachine) -> list[str]:
    """Return the names of the states of all flow runs, the oldest first."""
    from prefect.client.orchestration import get_client  # noqa: TID251 - the tests of flows/ need what flows/ do
    from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: TID251

    with temporary_settings({PREFECT_API_URL: machine.api}), get_client(sync_client=True) as client:
        runs: list[Any] = sorted(client.read_flow_runs(), key=lambda run: run.created)
    return [run.state.name for run in runs]


def wait_for(machine: ServedMachine, number: int, state: str, *, within_s: float) -> float:
    """Wait until a flow run is in a state; return how long it took."""
    start = time.monotonic()
    while (names := state_names(machine))[number] != state:
        assert time.monotonic() - start < within_s, names
        time.sleep(0.5)
    return time.monotonic() - start


def running(machine: ServedMachine, words: str) -> list[psutil.Process]:
    return [process for process in machine.processes() if words in " ".join(process.cmdline())]


def test_a_run_whose_process_was_killed_makes_way_and_its_work_is_finished(tmp_path: Path) -> None:
    with serve(Site(num_urls=120)) as site, served_machine(tmp_path) as machine:
        write_metadata(tmp_path / "metadata", site=site.site, base_url=site.base_url)
        corpus = TinyCorpus(running=site, metadata=str(tmp_path / "metadata"))
        # Slow enough to be killed at work.
        settings = corpus.settings(data__plan__shard_size=4, run__runner__workers=1)

        def start(root: str) -> None:
            parameters = {"root": str(tmp_path / root), "metadata": corpus.metadata, "config": settings}
            asked = ("deployment", "run", "build-dataset/mini", "--params", json.dumps(parameters))
            assert machine.prefect(*asked, timeout_s=120).returncode == 0

        start("root")
        wait_for(machine, 0, "Running", within_s=FINISHED_WITHIN_S)
        while not list((tmp_path / "root").glob("download/*/*.done.json")):
            time.sleep(0.2)
        for process in [*running(machine, "worker start"), *running(machine, "prefect.engine")]:
            process.kill()
        assert state_names(machine) == ["Running"]
        start("root")  # the worker is replaced by ``iedit serve``
        assert wait_for(machine, 0, "Crashed", within_s=FOUND_DEAD_WITHIN_S) > 0
        wait_for(machine, 1, "Completed", within_s=FINISHED_WITHIN_S)
        versions = VersionStore(Files(str(tmp_path / "root")))
        (version,) = versions.list()
        assert verify_version(versions, version) == []
        site.reset()
        start("calm")
        wait_for(machine, 2, "Completed", within_s=FINISHED_WITHIN_S)
        assert final_bytes(tmp_path / "root") == final_bytes(tmp_path / "calm")
