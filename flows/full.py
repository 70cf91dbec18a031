"""The flow full: build a dataset, fine-tune on it, evaluate against the baselines; all in a row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from prefect import flow

from flows.build_dataset import build_dataset
from flows.checks import check_all
from flows.config.profiles import BUILD, EVALUATE, TRAIN, TRAININGS, Profile, Recipe, resolve, section
from flows.evaluate import evaluate
from flows.train import train
from iedit_model.training.config import table2_rows
from tasks.evaluate.plan import FULL_METHOD


@flow(name="full", persist_result=False)
def full(
    root: str,
    profile: Profile = "mini",
    recipe: Recipe = "ours",
    metadata: str | None = None,
    training: str | None = None,
    model: str = "iedit",
    config: dict[str, Any] | None = None,
    strengths: list[float] | None = None,
) -> str:
    """Build, fine-tune and evaluate; what is finished under the root is not done again.

    Args:
        root: Folder of the store; the model goes to models/ below it.
        profile: Whose models and values to take.
        recipe: How pairs are made: ours, or as the paper does.
        metadata: LAION-style parquet; by default what the profile names.
        training: The training: stable, paper or a row of Table 2; by default the profile's.
        model: Name of the model: its folder and its key in the history.
        config: Other values of any section, like {"train.train.num_steps": 100}.
        strengths: Also plot the trade-off over these strengths.

    Returns:
        The evaluation's id.
    """
    name = training or TRAININGS[profile]
    check_all(resolve(profile, config, recipe=recipe, training=name, metadata=metadata), root)
    version = build_dataset(root, profile=profile, recipe=recipe, metadata=metadata, config=section(config, BUILD))
    out = str(Path(root) / "models" / f"{model}-{name}-{version}")
    train(root, out, profile=profile, version=version, training=name, config=section(config, TRAIN))
    return evaluate(
        root,
        profile=profile,
        checkpoints=[out],
        model=model,
        strengths=strengths,
        version=version,
        config=section(config, EVALUATE),
    )


SEEDS = (0, 1, 2)


@flow(name="reproduce", persist_result=False)
def reproduce(
    root: str,
    profile: Profile = "mini",
    training: Literal["stable", "paper"] | None = None,
    seeds: list[int] | None = None,
    recipe: Recipe = "ours",
    metadata: str | None = None,
    strengths: list[float] | None = None,
    config: dict[str, Any] | None = None,
) -> str:
    """Train each configuration of Table 2 under each seed and evaluate all methods of Table 1.

    The dataset, the encodings and finished trainings are shared and never made twice.

    Args:
        root: Folder of the store; trainings go to models/ below it.
        profile: Whose models, data and values to take.
        training: The training that each row of Table 2 changes in its losses alone; by default the profile's.
        seeds: Seeds of the trainings; by default 0, 1 and 2.
        recipe: How pairs are made: ours, or as the paper does.
        metadata: LAION-style parquet; by default what the profile names.
        strengths: Also plot the trade-off over these strengths.
        config: Other values of any section, like {"train.train.num_steps": 100}.

    Returns:
        The evaluation's id.
    """
    base = training or TRAININGS[profile]
    check_all(resolve(profile, config, recipe=recipe, training=base, metadata=metadata), root)
    version = build_dataset(root, profile=profile, recipe=recipe, metadata=metadata, config=section(config, BUILD))
    checkpoints = []
    for row in trained_rows():
        for seed in seeds or SEEDS:
            out = str(Path(root) / "models" / f"{base}-{row}-{seed}-{version}")
            seeded = {**section(config, TRAIN), "train.train.seed": seed}
            train(root, out, profile=profile, version=version, training=f"{base}/{row}", config=seeded)
            checkpoints.append(f"{row}@{seed}={out}")
    return evaluate(
        root,
        profile=profile,
        checkpoints=checkpoints,
        model=f"reproduce-{base}",
        strengths=strengths,
        version=version,
        config=section(config, EVALUATE),
    )


def trained_rows() -> Sequence[str]:
    """Return the rows of Table 2 that have weights of their own, the whole method first."""
    rows = [name for name, row in table2_rows().items() if row.weights_of is None]
    return sorted(rows, key=lambda name: name != FULL_METHOD)
