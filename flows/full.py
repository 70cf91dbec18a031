"""The flow full: build a dataset, fine-tune on it, evaluate against the baselines; all in a row."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.build_dataset import build_dataset
from flows.config.profiles import Profile, Recipe
from flows.evaluate import evaluate
from flows.train import train


@flow(name="full", persist_result=False)
def full(
    root: str,
    profile: Profile = "mini",
    recipe: Recipe = "ours",
    metadata: str | None = None,
    training: str = "stable",
    model: str = "iedit",
    data_settings: dict[str, Any] | None = None,
    train_settings: dict[str, Any] | None = None,
    evaluate_settings: dict[str, Any] | None = None,
    strengths: list[float] | None = None,
) -> str:
    """Build, fine-tune and evaluate; what is finished under the root is not done again.

    Args:
        root: Folder of the store; the model goes to models/ below it.
        profile: Whose models and values to take.
        recipe: How pairs are made: ours, or as the paper does.
        metadata: LAION-style parquet; by default what the profile names.
        training: The training: stable, paper or a row of Table 2.
        model: Name of the model: its folder and its key in the history.
        data_settings: Other values for the data stages.
        train_settings: Other values for the training.
        evaluate_settings: Other values for the evaluation.
        strengths: Also draw the trade-off over these strengths.

    Returns:
        The evaluation's id.
    """
    version = build_dataset(root, profile=profile, recipe=recipe, metadata=metadata, settings=data_settings)
    out = str(Path(root) / "models" / f"{model}-{training}-{version}")
    train(root, out, profile=profile, version=version, config=training, settings=train_settings)
    return evaluate(
        root,
        profile=profile,
        checkpoints=[out],
        model=model,
        strengths=strengths,
        version=version,
        settings=evaluate_settings,
    )
