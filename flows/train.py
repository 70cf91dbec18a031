"""The flow train: a dataset version -> a checkpoint. A try that fails goes on from the last checkpoint in the next."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact

from flows.checks import check_train
from flows.config.profiles import TRAIN, Profile, resolve
from flows.config.tree import RunnerConfig
from flows.engine.runner import task_runs
from flows.reporting.artifacts import publish_image
from flows.reporting.progress import current_progress
from flows.reporting.version_text import find_version
from storage import ShardStore, VersionStore, until_whole
from tasks.train.run_config import TrainRunConfig
from tasks.train.stage import TrainReport
from tasks.train.stage import train as train_stage


@flow(name="train", persist_result=False)
def train(
    root: str,
    out: str,
    profile: Profile = "mini",
    version: str = "latest",
    training: str | None = None,
    config: dict[str, Any] | None = None,
    retries: int | None = None,
) -> TrainReport:
    """Fine-tune a model on a version of the dataset.

    Args:
        root: Folder or fsspec address of the store that holds the version; the encodings are kept there too.
        out: Folder of the run; a run that is there goes on where it stood.
        profile: Whose models to train: the embedded miniature's, or the paper's.
        version: Id of the version, the beginning of one, or latest.
        training: The training: stable, paper or a row of Table 2; by default the profile's.
        config: Other values, like {"train.train.learning_rate": 0.0001}.
        retries: Further tries after an error that may pass, each from the last checkpoint; by default the profile's.

    Returns:
        What became of the run; its status is interrupted when Ctrl-C ended it.

    Raises:
        ConfigError: a setting does not exist or cannot have that value.
        DivergedError: the loss is not finite or exploded.
    """
    resolved = resolve(profile, config, training=training, uses=TRAIN)
    info = check_train(resolved.train, root, out, version)
    options = resolved.run.options.train
    if retries is not None:
        options = replace(options, retries=retries)
    given = {"root": root, "version": info.id, "config": resolved.train, "out": out}
    with task_runs(RunnerConfig(workers=1), resolved.run.tag_limits) as runs:
        report = runs.here(train_shard, stage="train", options=options, shard=Path(out).name, **given)
    publish_run(report)
    get_run_logger().info(
        "%s after %s of %s steps: %s", report.status, report.step, report.num_steps, report.checkpoint
    )
    return report


def train_shard(shard: str, *, root: str, version: str, config: TrainRunConfig, out: str) -> TrainReport:  # noqa: ARG001
    """Find the version and train on it."""
    store = ShardStore.at(root)
    info = find_version(VersionStore(store.files), version)
    return until_whole(store.files, lambda: train_stage(info.id, config, store, Path(out), progress=current_progress()))


def publish_run(report: TrainReport) -> None:
    """Create the artifacts of a run: what it came to, and its loss curve."""
    create_table_artifact(key="training", table=[outcome(report)], description=f"Training in {report.folder.name}")
    curve = report.folder / "loss.png"
    if curve.is_file():
        publish_image(
            curve.read_bytes(),
            key="loss-curve",
            title="loss",
            description=f"Loss and its weighted parts, {report.step} steps",
        )


def outcome(report: TrainReport) -> dict[str, Any]:
    """Return what a run came to as one row of plain values."""
    return {
        "status": report.status,
        "step": report.step,
        "num_steps": report.num_steps,
        "version": report.version,
        "num_samples": report.num_samples,
        "left_out": dict(report.left_out),
        "lambda_perc": report.lambda_perc,
        "mean_loss": report.mean_loss,
        "seconds": round(report.seconds, 1),
        "checkpoint": str(report.checkpoint),
    }
