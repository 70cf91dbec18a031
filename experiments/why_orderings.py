"""Why an ordering of the paper holds or breaks in ours: the trainings of a reproduction, taken apart on true masks.

    iedit reproduce --profile mini --root ROOT
    python -m experiments.why_orderings --root ROOT

Edits the 52 held-out real scenes, whose objects and ideal edits are known, with every training of ROOT. Three tables:

- masks: the whole method without a mask, with the mask that it finds, with a wider one, with the object's true mask,
  and with the true mask of the old and the new object together. What changes with the mask alone is the mask's doing.
- trainings: every row of Table 2 against the untrained model.
- prompts: how often the words that a pair was trained with are true of its images, edit prompts and alt texts.

CLIPScore is that of an encoder which no training saw; success is the new word read in the image, exact is noun and
colour. ``kept`` is SSIM outside both the old object and an ideal new one, ``outside`` outside the old one alone.
Intervals: 95 %, a bootstrap over images and training seeds on differences edit by edit.
"""

import argparse
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch

from benchmarks.report import CONSOLE, print_provenance, print_rows
from experiments.edit_cases import EditCase, cases_of
from experiments.edit_scores import WEIGHTS, Sampling, edit_and_score
from experiments.experiment_table import BASELINE, difference_of, mean_of
from experiments.prompt_truth import prompt_truth
from flows.full import SEEDS, trained_rows
from tasks.evaluate.plan import FULL_METHOD

SAMPLING: Final = Sampling(strength=0.5, num_steps=20)
"""What the profile mini evaluates with."""
_SHOWN: Final = ("clip_held_out", "success", "exact", "ssim_kept", "ssim_outside", "ssim_inside")
_HEAD: Final = ("CLIPScore", "success", "exact", "kept", "outside", "inside")

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to edit the set."""

    name: str
    training: str | None = None
    """Row of Table 2 whose weights are taken; None is the untrained model."""
    masked: bool = False
    true_mask: Literal["source", "either"] | None = None
    dilate_cells: int = 1


MASKS: Final = (
    Variant(name="no mask", training=FULL_METHOD),
    Variant(name="mask that is found", training=FULL_METHOD, masked=True),
    Variant(name="the same, two cells wider", training=FULL_METHOD, masked=True, dilate_cells=3),
    Variant(name="true mask of the old object", training=FULL_METHOD, masked=True, true_mask="source"),
    Variant(name="true mask of old and new object", training=FULL_METHOD, masked=True, true_mask="either"),
)


def main() -> int:
    """Edit, score and print the three tables."""
    options = _options()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    print_provenance("Why orderings hold or break")
    checkpoints = _checkpoints(options.root, options.base, options.seeds)
    cases = cases_of("real", WEIGHTS / "ldm")
    trainings = [Variant(name="untrained (SDEdit)"), *(Variant(name=row, training=row) for row in trained_rows())]
    for title, variants in (("masks", MASKS), ("trainings", trainings)):
        found = {variant.name: _rows(variant, checkpoints, cases) for variant in variants}
        _print(title, found)
    print_rows(("words", "pairs", "true of the source", "true of the target"), prompt_truth(options.root))
    return 0


def _checkpoints(root: Path, base: str, seeds: Iterable[int]) -> dict[str, dict[int, Path]]:
    """Return training -> seed -> its newest weights."""
    found: dict[str, dict[int, Path]] = {}
    for row in trained_rows():
        for seed in seeds:
            places = sorted((root / "models").glob(f"{base}-{row}-{seed}-*/checkpoints/latest"))
            if not places:
                raise SystemExit(f"{root} has no training {base}-{row} with seed {seed}: run iedit reproduce first")
            found.setdefault(row, {})[seed] = places[-1].resolve()
    return found


def _rows(variant: Variant, checkpoints: Mapping[str, Mapping[int, Path]], cases: Sequence[EditCase]) -> Rows:
    sampling = replace(SAMPLING, dilate_cells=variant.dilate_cells)
    weights = {0: None} if variant.training is None else checkpoints[variant.training]
    method = ("sdedit" if variant.training is None else "iedit") + ("_m" if variant.masked else "")
    found: Rows = []
    for seed, tuned in weights.items():
        edited = edit_and_score(method, cases, sampling, tuned=tuned, true_mask=variant.true_mask)
        name = BASELINE if variant.training is None else variant.name
        found += [{**row, "name": name, "train_seed": seed} for row in edited.rows]
    CONSOLE.print(f"{variant.name}: {len(found)} edits")
    return found


def _print(title: str, found: Mapping[str, Rows]) -> None:
    reference, *_ = found.values()
    lines = []
    for name, rows in found.items():
        differences = [""] * 3 if rows is reference else [
            difference_of(part, reference, "clip_held_out")
            for part in (rows, _of_kind(rows, "noun"), _of_kind(rows, "colour"))
        ]  # fmt: skip
        lines.append((name, *(f"{mean_of(rows, metric):.1f}" for metric in _SHOWN), *differences))
    against = next(iter(found))
    print_rows((title, *_HEAD, f"CLIPScore - {against}", "of it nouns", "colours"), lines)


def _of_kind(rows: Rows, kind: str) -> Rows:
    return [row for row in rows if row["kind"] == kind]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="store of the reproduction")
    parser.add_argument("--base", default="stable", help="training that its rows change")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
