"""How long ``iedit`` takes from its start to its answer: ``python -m benchmarks.bench_startup``.

Each command is a process of its own, once to fill the disk cache and then ``--rounds`` times; the median counts.
The baseline is an interpreter that imports nothing. The edit is one of the miniature's own scenes with an automatic
mask, from the start of the command to the image on disk. Below it stands where its imports go: the time that the
modules of each package take themselves (``-X importtime``, which adds to it), without what they import in turn.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.report import print_provenance, print_rows

BASELINE: Final = "python -c pass"
GOALS_S: Final = {"iedit --help": 0.5, "iedit edit": 4.5}
"""Command -> seconds on an idle machine of two cores."""

_IMPORT_LINE: Final = "import time:"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Medians of what a command took, in seconds."""

    wall_s: float
    cpu_s: float


def main() -> None:
    """Measure every command and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--packages", type=int, default=12, help="lines of the table of imports")
    options = parser.parse_args()
    print_provenance("start-up")
    with tempfile.TemporaryDirectory(prefix="iedit-startup-") as name:
        commands = _commands(Path(name))
        costs = {label: _cost(command, options.rounds) for label, command in commands.items()}
        packages = import_seconds(_run([sys.executable, "-X", "importtime", *commands["iedit edit"][1:]]))
    print_rows(("command", "wall, s", "CPU, s", "to the interpreter", "goal, s", "to the goal"), _rows(costs))
    total = sum(packages.values())
    largest = sorted(packages.items(), key=lambda item: -item[1])[: options.packages]
    print_rows(
        ("imports of iedit edit", "seconds", "share"),
        [("all", f"{total:.2f}", "100%"), *((name, f"{cost:.2f}", f"{cost / total:.0%}") for name, cost in largest)],
    )


def import_seconds(log: str) -> dict[str, float]:
    """Return the seconds that the modules of each top-level package took themselves, from an ``-X importtime`` log."""
    found: dict[str, float] = defaultdict(float)
    for line in log.splitlines():
        if line.startswith(_IMPORT_LINE):
            own, _, module = line.removeprefix(_IMPORT_LINE).split("|")
            if own.strip().isdigit():  # the heading is a line too
                found[module.strip().split(".")[0]] += int(own) / 1e6
    return dict(found)


def _commands(folder: Path) -> dict[str, list[str]]:
    from miniature.world import World

    scene = World(0).scene(0)
    image = folder / "source.png"
    scene.render().save(image)
    iedit = [sys.executable, "-m", "flows.cli.main"]
    target = scene.objects[0]
    words = ["--word", target.noun, "--replacement", "bus" if target.noun != "bus" else "car"]
    return {
        BASELINE: [sys.executable, "-c", "pass"],
        "iedit --help": [*iedit, "--help"],
        "iedit config": [*iedit, "config"],
        "iedit edit": [*iedit, "edit", str(image), f"a {target.colour} bus", "-o", str(folder / "edited"), *words],
    }


def _cost(command: Sequence[str], rounds: int) -> Cost:
    _run(command)
    walls, cpus = [], []
    for _ in range(rounds):
        began, before = time.perf_counter(), os.times()
        _run(command)
        after = os.times()
        walls.append(time.perf_counter() - began)
        cpus.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return Cost(wall_s=statistics.median(walls), cpu_s=statistics.median(cpus))


def _run(command: Sequence[str]) -> str:
    """Run a command and return what it wrote to standard error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-2_000:]}")
    return done.stderr


def _rows(costs: Mapping[str, Cost]) -> list[Sequence[str]]:
    least = costs[BASELINE].wall_s
    rows = []
    for label, cost in costs.items():
        goal = GOALS_S.get(label)
        compared = ("", "") if goal is None else (f"{goal:.1f}", f"{cost.wall_s / goal:.2f}")
        rows.append((label, f"{cost.wall_s:.2f}", f"{cost.cpu_s:.2f}", f"{cost.wall_s / least:.1f}", *compared))
    return rows


if __name__ == "__main__":
    main()
