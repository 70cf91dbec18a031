"""What dividing a dataset costs: ``python -m experiments.measure_splits``, figures of docs/decisions/0006-splits.md.

The corpora are the planted ones of ``split_corpora.py``, one like the miniature, one with heavy tails. The last line of
each assigns a split to every template, image and text by itself: what is left are pairs whose parts all agree.
"""

import argparse
from collections import Counter

import numpy as np

from benchmarks.report import print_provenance, print_rows
from experiments.split_corpora import groups_of, heavy_tailed, ids_of, miniature_like
from tasks.pack.splits import SPLITS, SplitConfig, assign_splits

CORPORA = {"the miniature's words": miniature_like, "heavy tails": heavy_tailed}
CONFIGS = {
    "defaults": SplitConfig(),
    "held_out_weight 1": SplitConfig(held_out_weight=1),
    "max_cluster_share 0": SplitConfig(max_cluster_share=0),
}


def main() -> None:
    """Divide both corpora under each setting and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    pairs = parser.parse_args().pairs
    print_provenance(f"splits of {pairs:,} pairs")
    table = []
    for corpus, plant in CORPORA.items():
        units, claims = plant(pairs)
        largest = f"{np.bincount(groups_of(units, claims)).max() / pairs:.0%}"
        for name, config in CONFIGS.items():
            splits = Counter(assign_splits(ids_of(pairs), units, claims, config).splits.tolist())
            shares = [splits[code] / pairs for code in (*range(len(SPLITS)), -1)]
            table.append((corpus, name, largest, *(f"{share:.1%}" for share in shares)))
        table.append((corpus, "each by itself", largest, *_assigned_alone(units, claims)))
    print_rows(("corpus", "setting", "largest component", *SPLITS, "dropped"), table)


def _assigned_alone(units: np.ndarray, claims: np.ndarray) -> list[str]:
    """Return the shares of the splits, and of what is dropped, where every template, image and text goes by itself."""
    keys = np.unique(np.concatenate([claims, 10**12 + units[:, None]], axis=1), return_inverse=True)[1]
    splits = np.random.default_rng(0).choice(len(SPLITS), p=[0.9, 0.05, 0.05], size=keys.max() + 1)
    assigned = splits[keys.reshape(len(units), -1)]
    agree = (assigned == assigned[:, :1]).all(axis=1)
    kept = [float((agree & (assigned[:, 0] == code)).mean()) for code in range(len(SPLITS))]
    return [f"{share:.1%}" for share in (*kept, 1 - sum(kept))]


if __name__ == "__main__":
    main()
