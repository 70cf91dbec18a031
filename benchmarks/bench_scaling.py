"""What a row costs at 1k, 10k and 100k rows, and the peak of memory: ``python -m benchmarks.bench_scaling``.

Swap, index + retrieve, pack and manifest on planted captions, embeddings and images; no model is needed. Every step
runs in a process of its own, after a round on 200 rows that loads libraries and word lists. CPU time decides, so that
what else the machine does shows little; the wall time beside it has the disk in it.

The planted corpus grows by new things: about 100 images per object at every size. Where a corpus only grows denser, the
index must look at more rows for the same recall, and its search costs what its tuning says (``nprobe`` in its report).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.planted_rows import SHARD_ROWS, load, plant, plant_masks, save
from benchmarks.report import print_provenance, print_rows
from storage import ShardReport, ShardStore, StageRun
from tasks.index.stage import IndexConfig, build_index
from tasks.index.vector_index import SearchSettings, open_index
from tasks.pack.stage import PackConfig, PackInputs, pack_shard, plan_pack, tar_names, write_dataset
from tasks.retrieve.stage import retrieval, retrieve_shard
from tasks.swap.stage import SwapConfig, swap_shard
from tasks.swap.words import count_words, read_counts

_WARM_ROWS = 200
_INDEX = IndexConfig(search=SearchSettings(threads=1))
_PACK = PackConfig()
_SWAP = SwapConfig(min_corpus_count=5)
_UNTOLD = "masks"
"""The step that is planted and not measured: it needs the targets."""
_PACKED = ("plan", "download", "caption", "swap", "retrieve", "mask", "embed")

Reports = tuple[ShardReport, ...]


def main() -> None:
    """Run every step at every size, or the one step that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--dim", type=int, default=768, help="numbers of an embedding")
    parser.add_argument("--step", choices=list(_STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        sys.stdout.write(json.dumps(_measured(options.step, options.root)) + "\n")
        return
    print_provenance(f"cost per row, shards of {SHARD_ROWS:,}, embeddings of {options.dim} numbers")
    with tempfile.TemporaryDirectory(prefix="iedit-scaling-") as folder:
        found = {rows: _at(rows, options.dim, Path(folder)) for rows in options.rows}
    _print(found)


def _at(num_rows: int, dim: int, folder: Path) -> dict[str, dict[str, float]]:
    """Return step -> its measurements at one size."""
    root = folder / str(num_rows)
    plant(root / "warm", num_rows=_WARM_ROWS, dim=dim)  # one for each size: what is finished would warm nothing
    plant(root, num_rows=num_rows, dim=dim)
    found = {}
    for step in _STEPS:
        code = [sys.executable, "-m", "benchmarks.bench_scaling", "--step", step, "--root", str(root)]
        run = subprocess.run(code, check=True, capture_output=True, text=True)
        found[step] = json.loads(run.stdout.splitlines()[-1])
    return found


def _measured(step: str, root: Path) -> dict[str, float]:
    """Run a step on 200 rows, then on ``root``; return what the second run took."""
    _run(step, root / "warm")
    before = _peak_mib()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    _run(step, root)
    return {
        "cpu_s": time.process_time() - cpu_s,
        "wall_s": time.perf_counter() - wall_s,
        "before_mib": before,
        "peak_mib": _peak_mib(),
    }


def _run(step: str, root: Path) -> None:
    _STEPS[step](ShardStore.at(root / "store"), root)


def _swap(store: ShardStore, root: Path) -> None:
    captions = load(root, "caption")
    counts = read_counts(store, count_words(captions, _SWAP, store))
    save(root, "swap", [swap_shard(caption, _SWAP, store, counts=counts) for caption in captions])


def _index(store: ShardStore, root: Path) -> None:
    inputs = {f"{stage}s": load(root, stage) for stage in ("embed", "download", "caption")}
    save(root, "index", [build_index(**inputs, config=_INDEX, store=store)])


def _retrieve(store: ShardStore, root: Path) -> None:
    config = retrieval("ours")
    with open_index(load(root, "index")[0], store, _INDEX.search) as index:
        save(root, "retrieve", [retrieve_shard(embed, config, store, index) for embed in load(root, "embed")])


def _plan_pack(store: ShardStore, root: Path) -> None:
    save(root, "pack_plan", [plan_pack(_inputs(root), _PACK, store)])


def _pack(store: ShardStore, root: Path) -> None:
    (plan,), inputs = load(root, "pack_plan"), _inputs(root)
    save(root, "pack", [pack_shard(plan, name, inputs, _PACK, store) for name in tar_names(plan)])


def _manifest(store: ShardStore, root: Path) -> None:
    (plan,) = load(root, "pack_plan")
    runs = [StageRun(stage=stage, code_version=1, config=_PACK, reports=load(root, stage)) for stage in _PACKED]
    write_dataset(plan, load(root, "pack"), _PACK, store, runs=runs, input_digest="planted")


def _inputs(root: Path) -> PackInputs:
    return PackInputs({stage: load(root, stage) for stage in _PACKED})


_STEPS: Mapping[str, Callable[[ShardStore, Path], None]] = {
    "swap": _swap,
    "index": _index,
    "retrieve": _retrieve,
    _UNTOLD: plant_masks,
    "plan_pack": _plan_pack,
    "pack": _pack,
    "manifest": _manifest,
}
_SUMS = {
    "swap": ("swap",),
    "index + retrieve": ("index", "retrieve"),
    "pack": ("plan_pack", "pack"),
    "manifest": ("manifest",),
}
"""Line of the table -> steps that it adds up."""


def _peak_mib() -> float:
    """Return the most memory that this process has had; ``ru_maxrss`` would begin with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _print(found: Mapping[int, Mapping[str, Mapping[str, float]]]) -> None:
    smallest, largest = min(found), max(found)

    def cost(rows: int, steps: tuple[str, ...], clock: str) -> float:
        return sum(found[rows][step][clock] for step in steps) / rows * 1e6

    table: list[tuple[Any, ...]] = []
    for name, steps in {**_SUMS, **{f"  {step}": (step,) for step in _STEPS if step != _UNTOLD}}.items():
        cells = [f"{cost(rows, steps, 'cpu_s'):.0f} ({cost(rows, steps, 'wall_s'):.0f})" for rows in found]
        growth = cost(largest, steps, "cpu_s") / cost(smallest, steps, "cpu_s") - 1
        peaks = [max(found[rows][step]["peak_mib"] for step in steps) for rows in found]
        start = max(found[largest][step]["before_mib"] for step in steps)
        table.append((name, *cells, f"{growth:+.0%}", f"{start:.0f}", *(f"{peak:.0f}" for peak in peaks)))
    sizes = [f"{rows / 1000:g}k" for rows in found]
    header = ("µs CPU (wall) per row", *sizes, "growth", "MiB before", *(f"at {size}" for size in sizes))
    print_rows(header, table)


if __name__ == "__main__":
    main()
