"""The dataset of true pairs that the upper bounds are trained on: fresh scenes with the target of an ideal edit."""

from pathlib import Path
from typing import Final

from benchmarks.report import CONSOLE
from benchmarks.true_pair_version import build_version, true_pairs
from storage import ShardStore, VersionStore

TRUE_SEED: Final = 55
"""World of the true pairs: none of those of the family (0), its figures (1), the held-out sets (2), the web site (3)
and the tuning edits (91)."""


def make_true_pairs(root: Path, num_pairs: int) -> None:
    """Write a version of ``num_pairs`` true pairs, all of them train, unless the store has one."""
    store = ShardStore.at(str(root))
    if found := VersionStore(store.files).list():
        CONSOLE.print(f"{root} has a version already, {found[0]}: no true pairs were made")
        return
    made = build_version(store, true_pairs(num_pairs, seed=TRUE_SEED))
    CONSOLE.print(f"version {made.id}: {made.num_samples:,} true pairs of world {TRUE_SEED} in {root}")
