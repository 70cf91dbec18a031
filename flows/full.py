"""The flow full: build a dataset, fine-tune on it, evaluate against the baselines; all in a row."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.build_dataset import build_dataset
from flows.config.profiles import BUILD, EVALUATE, TRAIN, TRAININGS, Profile, Recipe, section
from flows.evaluate import evaluate
from flows.train import train


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
        strengths: Also draw the trade-off over these strengths.

    Returns:
        The evaluation's id.
    """
    name = training or TRAININGS[profile]
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
