"""Fine-tunings that were tried to find the ``stable`` configuration, and what they score; see docs/experiments.md.

    python -m experiments.compare_trainings --root RUNS --store DATASETS --version ID start replay --seeds 0 1
    python -m experiments.compare_trainings --root RUNS ... --final stable --seeds 0 1 2
    python -m experiments.compare_trainings --root RUNS source target baseline --strengths 0.3 0.4 0.5
    python -m experiments.compare_trainings --root RUNS --true TRUE --make-true 1500 start-true
    python -m experiments.compare_trainings --root RUNS --table --against stable:iedit

Each run trains, edits the tuning set with and without masks and appends one line per method and strength to
``results.jsonl``; every edit's scores go to ``scores/``, images to ``sheets/``. ``--final`` edits the two held-out
sets instead. A run whose checkpoint is there already is not trained again. ``baseline`` is the untrained model;
``source`` and ``target`` are no model's images but the untouched source and what an ideal edit gives, which stand
under every strength that is asked for, so that the table has them beside the others.

``--table`` compares each run with SDEdit, or with ``--against NAME`` (the run's method of the same form, with masks or
without) or ``--against NAME:METHOD``, edit by edit under equal settings and training seeds.
"""

import argparse
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.report import CONSOLE, print_provenance
from experiments.edit_cases import UNEDITED, EditCase, SetName, cases_of
from experiments.edit_scores import METRICS, WEIGHTS, Sampling, edit_and_score, mean_scores, score
from experiments.experiment_list import EXPERIMENTS, Experiment
from experiments.experiment_table import UNTRAINED, Against, experiment_table
from iedit_model.imaging.sheet import SheetCell, contact_sheet
from iedit_model.models.source import ModelSource
from storage import ShardStore, VersionStore
from tasks.train.run_config import LoopConfig, RowsConfig
from tasks.train.stage import TrainRunConfig, train


def main() -> int:
    """Run what the command line names."""
    options = _options()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    print_provenance("Experiments")
    sets: tuple[SetName, ...] = ("real", "generated") if options.final else ("tuning",)
    if options.table:
        for line in experiment_table(
            options.root / "scores", against=options.against, names=options.names, kind=options.kind
        ):
            print(" | ".join(line))
        return 0
    if options.make_true is not None:
        from experiments.true_pair_store import make_true_pairs

        make_true_pairs(options.true, options.make_true)
    for name in options.names:
        for seed in options.seeds if name not in UNTRAINED else (0,):
            tuned = None if name in UNTRAINED else _trained(name, seed, options)
            for evalset in sets:
                if name in UNEDITED:
                    _score_unedited(name, evalset, options)
                else:
                    _evaluate(name, seed, tuned, evalset, options)
    return 0


def _trained(name: str, seed: int, options: argparse.Namespace) -> Path:
    """Return the run's last checkpoint, trained now unless it is there."""
    experiment = EXPERIMENTS[name]
    version, store = (
        (options.version, options.store) if experiment.pairs == "retrieved" else (options.true_version, options.true)
    )
    shards = ShardStore.at(str(store))
    found = train(
        version or VersionStore(shards.files).list()[0],
        _run_config(experiment, seed),
        shards,
        options.root / "runs" / f"{name}-{seed}",
    )
    if found.status != "finished":
        raise SystemExit(f"{name} seed {seed} stopped at step {found.step}; the same call goes on")
    CONSOLE.print(f"{name} seed {seed}: {found.step} steps on {found.num_samples} pairs in {found.seconds:.0f} s")
    return found.checkpoint


def _run_config(experiment: Experiment, seed: int) -> TrainRunConfig:
    return TrainRunConfig(
        model=_member("ldm"),
        clip=_member("clip"),
        perceptual=_member("perceptual"),
        train=replace(experiment.train, seed=seed),
        rows=RowsConfig(where=experiment.where),
        loop=LoopConfig(save_every=10_000, keep_last=1, sinks=()),
    )


def _evaluate(name: str, seed: int, tuned: Path | None, evalset: SetName, options: argparse.Namespace) -> None:
    cases = cases_of(evalset, WEIGHTS / "ldm")
    everywhere = "sdedit" if tuned is None else "iedit"
    methods = (everywhere,) if options.unmasked else (everywhere, f"{everywhere}_m")
    for strength in options.strengths:
        sampling = replace(options.sampling, strength=strength)
        for method in methods:
            rows: list[dict[str, Any]] = []
            for noise in options.noise:
                edited = edit_and_score(method, cases, sampling, seed=noise, tuned=tuned)
                rows += edited.rows
                if noise == 0:
                    label = f"{name}-{seed}-{evalset}-{method}-{strength}"
                    shown = list(zip(cases, edited.images, strict=True))[:40]
                    cells = [SheetCell(images=(case.image, image), lines=[case.edit_prompt]) for case, image in shown]
                    (options.root / "sheets").mkdir(parents=True, exist_ok=True)
                    contact_sheet(cells, columns=5).save(options.root / "sheets" / f"{label}.png")
            _record(name, seed, evalset, method, sampling, rows, cases, options.root)


def _score_unedited(name: str, evalset: SetName, options: argparse.Namespace) -> None:
    cases = cases_of(evalset, WEIGHTS / "ldm")
    images = [image for case in cases if (image := case.unedited(name)) is not None]
    if len(images) < len(cases):
        CONSOLE.print(f"{name} {evalset}: nobody knows the ideal edits of this set")
        return
    rows = [row for noise in options.noise for row in score(cases, images, seed=noise)]
    for strength in options.strengths:
        sampling = replace(options.sampling, strength=strength)
        _record(name, 0, evalset, name, sampling, rows, cases, options.root)


def _record(
    name: str,
    seed: int,
    evalset: str,
    method: str,
    sampling: Sampling,
    rows: list[dict[str, Any]],
    cases: list[EditCase],
    root: Path,
) -> None:
    keys = {"name": name, "train_seed": seed, "evalset": evalset, "method": method, **asdict(sampling)}
    scores = root / "scores"
    scores.mkdir(parents=True, exist_ok=True)
    label = "-".join(str(value) for value in keys.values())
    pq.write_table(pa.Table.from_pylist([{**keys, **row} for row in rows]), scores / f"{label}.parquet")
    means = mean_scores(rows)
    rounded = {metric: round(value, 2) for metric, value in means.items()}
    with (root / "results.jsonl").open("a") as log:
        log.write(json.dumps({**keys, "num_edits": len(rows), "num_cases": len(cases), **rounded}) + "\n")
    CONSOLE.print(
        f"{name:22} {seed} {evalset:9} {method:9} s={sampling.strength} "
        + "  ".join(f"{metric} {means[metric]:.1f}" for metric in METRICS)
    )


def _member(name: str) -> ModelSource:
    return ModelSource(name=str(WEIGHTS / name))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(UNTRAINED)} or a name of the list")
    parser.add_argument("--root", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--store", type=Path, default=Path("runs/mini"), help="root of a built dataset")
    parser.add_argument("--version", help="its version; the only one by default")
    parser.add_argument("--true", type=Path, help="root of a dataset of true pairs, for the upper bounds")
    parser.add_argument("--make-true", type=int, metavar="N", help="write N true pairs to --true unless it has some")
    parser.add_argument("--true-version", help="its version; the only one by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training")
    parser.add_argument("--noise", type=int, nargs="+", default=[0], help="seeds of the edits")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5])
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--num-steps", type=int, default=20, help="DDIM steps")
    parser.add_argument("--dilate", type=int, default=1, help="latent cells by which masks grow")
    parser.add_argument("--unmasked", action="store_true", help="leave the masked form of the method out")
    parser.add_argument("--final", action="store_true", help="edit the held-out sets, not the tuning set")
    parser.add_argument("--table", action="store_true", help="print what the runs came to, and do nothing else")
    parser.add_argument("--against", type=Against.of, metavar="NAME[:METHOD]", help="what --table compares with")
    parser.add_argument("--kind", choices=("noun", "colour"), help="only these edits in --table")
    options = parser.parse_args()
    if unknown := set(options.names) - {*UNTRAINED, *EXPERIMENTS}:
        parser.error(f"there is no experiment {sorted(unknown)}; there are {', '.join((*UNTRAINED, *EXPERIMENTS))}")
    on_true = {name for name in options.names if name in EXPERIMENTS and EXPERIMENTS[name].pairs == "true"}
    if options.true is None and not options.table and (on_true or options.make_true is not None):
        parser.error("true pairs need a store: name its root with --true")
    if options.make_true is not None and options.make_true < 2:
        parser.error(f"--make-true is {options.make_true}, expected at least 2 pairs")
    options.sampling = Sampling(guidance=options.guidance, num_steps=options.num_steps, dilate_cells=options.dilate)
    return options


if __name__ == "__main__":
    raise SystemExit(main())
