"""The tables of an evaluation: edited images, their scores, and the features for distances between sets."""

from collections.abc import Iterable
from typing import Final

from storage import Column, TableSchema

KEYS: Final = ("pair_id", "seed")
FEATURES_SUFFIX: Final = "features.parquet"
"""File of a shard that holds ``FEATURES``."""


def _column(name: str, kind: str, description: str, *, unit: str = "", nullable: bool = False) -> Column:
    return Column(name=name, type=kind, description=description, unit=unit, nullable=nullable)


_PAIR = _column("pair_id", "string", "Pair of the evaluation set.")
_IMAGE = _column("image_id", "string", "Its source image.")
_SEED = _column("seed", "int64", "Number of the draw; the noise follows from it and the pair.")
_EVALUATIONS = _column("num_unet_evaluations", "int32", "Images that went through the UNet.", unit="count")

EDITS = TableSchema(
    name="edits",
    description="One row an edited image.",
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
    description="One row an image and network.",
    columns=(
        _PAIR,
        _IMAGE,
        _SEED,
        _column("network", "string", "Name of the network."),
        _column("features", "list<float32>", "What it says about the image."),
    ),
    sort_by=("pair_id", "seed", "network"),
)


def scores_schema(metrics: Iterable[str]) -> TableSchema:
    """Return the table of scores for these metrics: a row an edited image, null where a metric is undefined."""
    columns = [_column(name, "float64", f"Metric {name}.", nullable=True) for name in sorted(metrics)]
    return TableSchema(
        name="scores",
        description="One row an edited image with its metrics.",
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
    """Return the table of a whole evaluation: a row a set, method, training seed, pair and seed."""
    columns = [_column(name, "float64", f"Metric {name}.", nullable=True) for name in sorted(metrics)]
    return TableSchema(
        name="results",
        description="One row an edit of a method; null where it failed or a metric is undefined.",
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
