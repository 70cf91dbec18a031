"""On Ray the same bytes come out as on threads, and the cluster is gone with the build."""

import os
import subprocess
import sys

import psutil
import pytest

from tests.flows.tiny_build import as_arguments, final_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xdist_group("prefect")]


def test_a_small_ray_cluster_gives_the_same_bytes_as_threads(prefect_api, tiny_corpus, tmp_path):
    pytest.importorskip("prefect_ray")
    before = {process.pid for process in psutil.process_iter()}
    found = {}
    for kind in ("threads", "ray"):
        tiny_corpus.running.reset()
        settings = tiny_corpus.settings(run__runner__kind=kind, run__runner__workers=1, run__runner__downloads=1)
        places = ["--root", str(tmp_path / kind), "--metadata", tiny_corpus.metadata]
        ran = subprocess.run(
            [sys.executable, "-m", "flows.cli.main", "build", *places, *as_arguments(settings)],
            env={**os.environ, "PREFECT_API_URL": prefect_api},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        found[kind] = final_bytes(tmp_path / kind)
    assert len(found["threads"]) > 40
    assert found["ray"] == found["threads"]
    left = [process for process in psutil.process_iter(["name", "cmdline"]) if process.pid not in before]
    assert [process.info for process in left if "ray" in str(process.info["name"])] == []
