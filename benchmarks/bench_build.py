"""What orchestration costs: ``python -m benchmarks.bench_build`` (a 2,000-image build, three times from nothing).

``iedit build`` under a Prefect server that is there already, ``iedit build`` that starts its own, and a plain loop over
the very same stage functions with as many threads (``plain_build.py``), each a process of its own into a fresh root,
alternating; then each once more where nothing is left to do. All must give the same version.

CPU time is that of the command with all it started (the site, its own server); of the server that was there
already, what it used meanwhile is added. The orchestration's share is what a build takes longer than the plain loop,
divided by the build's time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.report import CONSOLE, print_provenance, print_rows

PLAIN, SERVED, OWN = "plain loop", "flow, server running", "flow, own server"
_START_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one command took."""

    wall_s: float
    cpu_s: float


def main() -> None:
    """Run all builds and print the table."""
    options = _options()
    print_provenance("orchestration")
    settings = (
        f"data.source.site.num_urls={options.urls}",
        f"data.source.site.port={options.port}",
        f"data.download.fetch.allowed_hosts=['127.0.0.1:{options.port}']",
    )
    built: dict[str, list[Cost]] = defaultdict(list)
    again: dict[str, list[Cost]] = defaultdict(list)
    versions: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="iedit-bench-") as name, _server(Path(name), options.port + 1) as server:
        folder = options.keep or Path(name)
        for number in range(options.rounds):
            ways = (PLAIN, SERVED, OWN)
            for way in ways if number % 2 == 0 else reversed(ways):
                root = folder / f"{number}-{ways.index(way)}"
                for costs in (built, again):
                    cost, version = _run(way, root, settings, server)
                    costs[way].append(cost)
                    versions.add(version)
                    CONSOLE.print(f"{way}: {cost.wall_s:.1f} s, CPU {cost.cpu_s:.1f} s, version {version}")
    for title, costs in ((f"{options.urls:,} images from nothing", built), ("nothing left to do", again)):
        print_rows((title, "time, s", "share", "CPU time, s", "share"), _rows(costs))
    if len(versions) != 1:
        raise SystemExit(f"the builds gave {len(versions)} versions instead of one: {sorted(versions)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--urls", type=int, default=2_000, help="addresses on the site")
    parser.add_argument("--rounds", type=int, default=1, help="builds of each kind")
    parser.add_argument("--port", type=int, default=8795, help="where the site is served; the server takes the next")
    parser.add_argument("--keep", type=Path, help="new folder for the roots, which else are gone at the end")
    return parser.parse_args()


@dataclass(frozen=True, kw_only=True)
class _Server:
    url: str
    environment: Mapping[str, str]
    """Of the server and of all builds: a Prefect home of their own."""
    process: psutil.Process

    def cpu_s(self) -> float:
        """Return the CPU time of the server with its children so far."""
        times = [self.process.cpu_times(), *(child.cpu_times() for child in self.process.children(recursive=True))]
        return sum(one.user + one.system for one in times)


@contextmanager
def _server(folder: Path, port: int) -> Iterator[_Server]:
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--log-level", "CRITICAL"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}/api"
    try:
        _wait_until_healthy(process, url)
        yield _Server(url=url, environment=environment, process=psutil.Process(process.pid))
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def _wait_until_healthy(process: "subprocess.Popen[bytes]", url: str) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 - http of our own making
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.5)
    raise SystemExit(f"no Prefect server came up at {url} within {_START_S:.0f} s")


def _run(way: str, root: Path, settings: Sequence[str], server: _Server) -> tuple[Cost, str]:
    """Run one build and return its cost and its version."""
    environment = dict(server.environment)
    command = [sys.executable, "-m", "benchmarks.plain_build", str(root), *settings]
    if way != PLAIN:
        assignments = [word for setting in settings for word in ("--set", setting)]
        command = [sys.executable, "-m", "flows.cli.main", "build", "--root", str(root), "--json", *assignments]
    if way == SERVED:
        environment["PREFECT_API_URL"] = server.url
    before, began = server.cpu_s(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=said, text=True)
        out = process.stdout.read() if process.stdout else ""
        # Its own CPU time and that of all it started and waited for.
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{way} failed: {said.read()[-2_000:]}")
    cpu_s = usage.ru_utime + usage.ru_stime + (server.cpu_s() - before if way == SERVED else 0.0)
    return Cost(wall_s=wall_s, cpu_s=cpu_s), _version(out)


def _version(out: str) -> str:
    last = out.strip().splitlines()[-1]
    return json.loads(last)["version"] if last.startswith("{") else last


def _rows(costs: Mapping[str, Sequence[Cost]]) -> list[Sequence[str]]:
    rows = []
    plain = costs[PLAIN]
    for way, found in costs.items():
        cells = [way]
        for clock in ("wall_s", "cpu_s"):
            ours, least = (statistics.median(getattr(cost, clock) for cost in of) for of in (found, plain))
            cells += [f"{ours:.1f}", "" if way == PLAIN else f"{(ours - least) / ours:.1%}"]
        rows.append(cells)
    return rows


if __name__ == "__main__":
    main()
