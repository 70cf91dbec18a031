"""The tables of an evaluation: edits, scores, features; and its results, one row per edit of a method."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from storage import Column, ShardReport, ShardStore, TableSchema, read_parquet
from tasks.evaluate.errors import MissingScoresError
from tasks.evaluate.sets.evalset import EvalSet

if TYPE_CHECKING:
    import pyarrow as pa


KEYS: Final = ("pair_id", "seed")
FEATURES_SUFFIX: Final = "features.parquet"
"""File of a shard that holds ``FEATURES``."""


def _column(name: str, kind: str, description: str, *, unit: str = "", nullable: bool = False) -> Column:
    return Column(name=name, type=kind, description=description, unit=unit, nullable=nullable)


_PAIR = _column("pair_id", "string", "Pair of the evaluation set.")
_IMAGE = _column("image_id", "string", "Its source image.")
_SEED = _column("seed", "int64", "Seed of the edit; the noise follows from it and the pair.")
_EVALUATIONS = _column("num_unet_evaluations", "int32", "Images that went through the UNet.", unit="count")

EDITS = TableSchema(
    name="edits",
    description="One row per edited image.",
    columns=(
        _PAIR,
        _IMAGE,
        _SEED,
        _EVALUATIONS,
        _column("edited_image", "binary", "The edited image.", unit="PNG"),
        _column("used_mask", "binary", "Where the method could edit.", unit="PNG, 255 = edit", nullable=True),
    ),
    sort_by=KEYS,
)

FEATURES = TableSchema(
    name="features",
    description="One row per image and network.",
    columns=(
        _PAIR,
        _IMAGE,
        _SEED,
        _column("network", "string", "Name of the network."),
        _column("features", "list<float32>", "Its features of the image."),
    ),
    sort_by=("pair_id", "seed", "network"),
)


def scores_schema(metrics: Iterable[str]) -> TableSchema:
    """Return the table of scores for these metrics: one row per edited image, null where a metric is undefined."""
    columns = [_column(name, "float64", f"Metric {name}.", nullable=True) for name in sorted(metrics)]
    return TableSchema(
        name="scores",
        description="One row per edited image with its metrics.",
        columns=(
            _PAIR,
            _IMAGE,
            _SEED,
            _EVALUATIONS,
            _column("seconds", "float64", "Wall time of an edit, mean over its shard.", unit="s"),
            _column("mask_known", "bool", "Whether the set has a mask for the pair."),
            *columns,
        ),
        sort_by=KEYS,
    )


def results_schema(metrics: Iterable[str]) -> TableSchema:
    """Return the table of a whole evaluation: one row per set, method, training seed, pair and seed."""
    columns = [_column(name, "float64", f"Metric {name}.", nullable=True) for name in sorted(metrics)]
    return TableSchema(
        name="results",
        description="One row per edit of a method; null where it failed or a metric is undefined.",
        columns=(
            _column("evalset", "string", "Evaluation set."),
            _column("method", "string", "Method."),
            _column("train_seed", "int64", "Seed of the training; -1 for a method that is not trained here."),
            _PAIR,
            _IMAGE,
            _SEED,
            _column("kind", "string", "Kind of edit.", nullable=True),
            _column("failure", "string", "Why there is no edited image.", nullable=True),
            _column("num_unet_evaluations", "int32", _EVALUATIONS.description, unit="count", nullable=True),
            _column("seconds", "float64", "Wall time of an edit, mean over its shard.", unit="s", nullable=True),
            *columns,
        ),
        sort_by=("evalset", "method", "train_seed", "pair_id", "seed"),
    )


Floats = npt.NDArray[np.float64]
ALL_SETS: Final = "all"
"""Name under which all sets together stand: the paper's "full evaluation set" of Table 2."""
NOT_TRAINED = -1
"""``train_seed`` of a method that is not trained here."""

_FIXED = frozenset(results_schema(()).names)


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodScores:
    """What one method (with one training seed) reached on one set."""

    evalset: EvalSet
    method: str
    train_seed: int = NOT_TRAINED
    edits: tuple[ShardReport, ...]
    """Reports of ``edit_shard``, one per shard."""
    scores: tuple[ShardReport, ...]
    """Reports of ``score_shard``, in the same order."""
    seeds: tuple[int, ...]
    """The seeds of the edits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SetFeatures:
    """Features of images through one network."""

    network: str
    source_ids: tuple[str, ...]
    """Source image of each row."""
    seeds: tuple[int, ...]
    """Seed of each row."""
    features: Floats
    """(rows, features)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """The rows of an evaluation, sorted as ``results_schema`` says."""

    table: "pa.Table"
    metrics: tuple[str, ...]
    """Names of the metrics, those of one encoder or network behind "@"."""
    _columns: dict[str, Any] = field(default_factory=dict, repr=False)

    def values(self, name: str) -> list[Any]:
        """Return one column as Python values."""
        if name not in self._columns:
            self._columns[name] = self.table[name].to_pylist()
        return self._columns[name]

    @property
    def evalsets(self) -> list[str]:
        """Names of the sets, sorted."""
        return sorted(set(self.values("evalset")))

    @property
    def methods(self) -> list[str]:
        """Names of the methods, sorted."""
        return sorted(set(self.values("method")))

    def train_seeds(self, method: str) -> list[int]:
        """Return the training seeds of a method; ``NOT_TRAINED`` alone for one that is not trained."""
        return sorted({seed for seed, name in self.rows_of("train_seed", "method") if name == method})

    def find_metric(self, name: str, encoder: str | None = None) -> str:
        """Return the full name of a metric: ``clip_score`` with its encoder, if it has one.

        Args:
            name: name in the catalogue.
            encoder: which encoder; None takes the first by name.

        Raises:
            MissingScoresError: it was not measured.
        """
        wanted = name if encoder is None else f"{name}@{encoder}"
        found = [metric for metric in self.metrics if metric == wanted or metric.partition("@")[0] == wanted]
        if not found:
            raise MissingScoresError(f"{wanted} was not measured; there are {', '.join(self.metrics)}")
        return found[0]

    def rows_of(self, *names: str) -> Any:
        """Return the rows as tuples of the named columns."""
        return zip(*(self.values(name) for name in names), strict=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepPoint:
    """The results of one method at one strength."""

    method: str
    strength: float
    results: Results


@dataclass(frozen=True, kw_only=True, eq=False)
class Aligned:
    """The values of several methods on the same edits: same position, same pair, seed and training seed."""

    source_ids: tuple[str, ...]
    """Source image of each position, unique over sets."""
    replicate_ids: tuple[int, ...]
    """Training seed of each position."""
    pair_ids: tuple[tuple[str, str], ...]
    """Set and pair of each position."""
    by_method: Mapping[str, Floats]
    """Method -> its values, NaN where it has none."""

    @property
    def num_replicates(self) -> int:
        """Distinct training seeds."""
        return len(set(self.replicate_ids))


def collect_results(store: ShardStore, runs: Sequence[MethodScores]) -> Results:
    """Return the rows of all methods: also a row for each edit that a method could not make.

    Raises:
        MissingScoresError: there is no run, or shards of edits and scores do not fit each other.
    """
    if not runs:
        raise MissingScoresError("an evaluation without a method has no results")
    rows = [row for run in runs for row in _rows(store, run)]
    metrics = sorted({name for row in rows for name in row} - _FIXED)
    schema = results_schema(metrics)
    return Results(table=schema.table(rows), metrics=tuple(metrics))


def results_of(table: "pa.Table") -> Results:
    """Return stored rows as results."""
    return Results(table=table, metrics=tuple(name for name in table.column_names if name not in _FIXED))


def align(results: Results, metric: str, methods: Sequence[str], evalsets: Sequence[str]) -> Aligned:
    """Bring the values of a metric side by side.

    A method that is not trained here stands beside every training seed of the others: the comparison is the same,
    whatever seed the other was trained with.

    Raises:
        MissingScoresError: a method or the metric was not scored.
    """
    missing = sorted(set(methods) - set(results.methods))
    if missing or metric not in results.metrics:
        raise MissingScoresError(f"cannot compare {list(methods)} in {metric}: not scored {', '.join(missing)}")
    wanted, chosen = set(methods), set(evalsets)
    cells: dict[tuple[str, int, str, str, int], float] = {}
    sources: dict[tuple[str, str], str] = {}
    edits: set[tuple[str, str, int]] = set()
    columns = results.rows_of("evalset", "method", "train_seed", "pair_id", "seed", "image_id", metric)
    for evalset, method, train_seed, pair_id, seed, image_id, value in columns:
        if evalset in chosen and method in wanted:
            cells[method, train_seed, evalset, pair_id, seed] = np.nan if value is None else value
            sources[evalset, pair_id] = f"{evalset}/{image_id}"
            edits.add((evalset, pair_id, seed))
    trained = {method: set(results.train_seeds(method)) - {NOT_TRAINED} for method in methods}
    replicates = sorted(set().union(*trained.values())) or [NOT_TRAINED]
    keys = [(*edit, replicate) for edit in sorted(edits) for replicate in replicates]

    def value_of(method: str, key: tuple[str, str, int, int]) -> float:
        train_seed = key[3] if trained[method] else NOT_TRAINED
        return cells.get((method, train_seed, *key[:3]), np.nan)

    return Aligned(
        source_ids=tuple(sources[key[0], key[1]] for key in keys),
        replicate_ids=tuple(key[3] for key in keys),
        pair_ids=tuple((key[0], key[1]) for key in keys),
        by_method={method: np.array([value_of(method, key) for key in keys]) for method in methods},
    )


def read_features(store: ShardStore, reports: Sequence[ShardReport], *, evalset: str) -> dict[str, SetFeatures]:
    """Return the features that some shards hold, by network; the source images carry the set's name.

    Raises:
        MissingFileError: a file is gone.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        with store.open_blob(report, FEATURES_SUFFIX) as stream:
            for row in read_parquet(stream, name=report.name).to_pylist():
                rows.setdefault(row["network"], []).append(row)
    return {
        network: SetFeatures(
            network=network,
            source_ids=tuple(f"{evalset}/{row['image_id']}" for row in found),
            seeds=tuple(row["seed"] for row in found),
            features=np.array([row["features"] for row in found], np.float64),
        )
        for network, found in rows.items()
    }


def _rows(store: ShardStore, run: MethodScores) -> list[dict[str, Any]]:
    if len(run.edits) != len(run.scores):
        raise MissingScoresError(f"{run.method} has {len(run.edits)} shards of edits and {len(run.scores)} of scores")
    failures: dict[tuple[str, int], str] = {}
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for edits, scores in zip(run.edits, run.scores, strict=True):
        for entry in store.read_dropped(edits).to_pylist():
            pair_id, _, seed = entry["sample_id"].rpartition("/")
            failures[pair_id, int(seed)] = entry["reason"]
        found |= {(row["pair_id"], row["seed"]): row for row in store.read_table(scores).to_pylist()}
    rows = []
    for pair in run.evalset.pairs:
        for seed in run.seeds:
            key = (pair.pair_id, seed)
            if key not in found and key not in failures:
                raise MissingScoresError(f"{run.method} was not scored on pair {pair.pair_id}, seed {seed}")
            scored = {name: value for name, value in found.get(key, {}).items() if name != "mask_known"}
            rows.append(
                {
                    **scored,
                    **dict(zip(KEYS, key, strict=True)),
                    "evalset": run.evalset.info.name,
                    "method": run.method,
                    "train_seed": run.train_seed,
                    "image_id": pair.image_id,
                    "kind": pair.kind,
                    "failure": failures.get(key),
                }
            )
    return rows
