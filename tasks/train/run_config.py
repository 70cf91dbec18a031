"""What decides one run of the train stage: model, rows, training, caches, checkpoint and logging intervals."""

from dataclasses import field
from typing import Annotated, Any, Final, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from iedit_model.configuration import configuration
from iedit_model.models.devices import Precision
from iedit_model.models.source import ModelSource
from iedit_model.training.config import TrainConfig

PromptSource = Literal["edit", "caption", "source"]
LogSink = Literal["tensorboard", "wandb"]

_SPEED: Final = {"fingerprint": False}
"""Marks fields that change how fast a run is and what it reports, never a bit of its weights."""
_UNSTATED: Final = {"paper": "unstated"}


@configuration
class RowsConfig:
    """Which samples of a dataset version are trained on, and with which words."""

    split: Literal["train", "val", "test"] = "train"
    """train, val or test."""
    where: str | None = None
    """A filter over the manifest's columns (``storage.filters``), ``outside_similarity > 0.9`` for instance."""
    prompts: PromptSource = "edit"
    """edit: caption and edit prompt, as packed. caption: the alt texts of source and target, without any swap
    (LAION-caption, Table 2's first row). source: the source image alone, its caption as prompt, no other image (the
    control "more of the same training")."""
    max_samples: PositiveInt | None = None
    """At most so many samples, the first in an order that the ids alone decide; None: all."""


@configuration
class CacheConfig:
    """How latents, text embeddings, masks and features are kept between runs."""

    enabled: bool = field(default=True, metadata=_UNSTATED)
    """Off: every batch is decoded and encoded anew; then ``train.batch_size`` decides the last bits."""
    dtype: Literal["fp32", "fp16"] = field(default="fp32", metadata=_UNSTATED)
    """In which the cache keeps latents, embeddings and features; fp16 halves it and rounds."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = field(default=16, metadata=_UNSTATED)
    """Samples that are encoded at once; decides the last bits."""
    decode_threads: Annotated[int, Field(ge=0, le=256)] = field(default=2, metadata=_SPEED)
    """Threads that read and decode images meanwhile."""
    max_feature_gb: NonNegativeFloat = field(default=64.0, metadata=_UNSTATED)
    """Target features of Eq. 10 are kept only where all of them fit into this many gigabytes; else the target's pixels
    are, and the features are computed in each step."""


@configuration
class LoopConfig:
    """Checkpoint and logging intervals of a run, and its guards."""

    save_every: PositiveInt = field(default=500, metadata=_SPEED)
    """Optimiser steps between two checkpoints; the last step always has one."""
    keep_last: PositiveInt = field(default=2, metadata=_SPEED)
    """Checkpoints that stay."""
    validate_every: NonNegativeInt = field(default=0, metadata=_SPEED)
    """Optimiser steps between two sheets of validation images; 0: none."""
    num_validation: PositiveInt = field(default=4, metadata=_SPEED)
    """Samples of the split val on a sheet; of the trained split where there is no val."""
    validation_steps: PositiveInt = field(default=20, metadata=_SPEED)
    """DDIM steps of a validation image, of which 70 % are taken."""
    explosion_factor: Annotated[float, Field(gt=1)] = field(default=1000.0, metadata=_SPEED)
    """A loss that is so many times the mean of the last 100 stops the run."""
    calibration_samples: PositiveInt = field(default=256, metadata=_UNSTATED)
    """Samples by which lambda_perc is set before the first step, where the configuration leaves it open."""
    calibration_share: Annotated[float, Field(gt=0, lt=100)] = field(default=0.1, metadata=_UNSTATED)
    """Eq. 10's share of the noise loss after it."""
    sinks: tuple[LogSink, ...] = field(default=("tensorboard",), metadata=_SPEED)
    """Where metrics go beside the parquet log: tensorboard, wandb."""
    wandb_project: str = field(default="iedit", metadata=_SPEED)
    batches_ahead: NonNegativeInt = field(default=2, metadata=_SPEED)
    """Batches that a thread gathers while the model works; 0 gathers in between."""


@configuration
class ComputeConfig:
    """Where and how the networks compute; ``TrainConfig.precision`` says in which precision the UNet does."""

    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=_SPEED)
    loss_precision: Precision = field(default="fp32", metadata=_UNSTATED)
    """Of the frozen decoder, CLIP and VGG that the losses on pixels go through."""
    channels_last: bool = field(default=True, metadata=_UNSTATED)
    """Memory format of the UNet and the decoder."""
    attention: Literal["auto", "eager", "sdpa"] = field(default="auto", metadata=_UNSTATED)
    """auto takes torch's fused attention on a GPU and plain matrix products on the CPU, where the fused one's
    backward pass is slow."""
    compile_unet: bool = field(default=False, metadata=_UNSTATED)


@configuration
class TrainRunConfig:
    """Everything that decides a run beside the dataset version."""

    model: ModelSource
    """The diffusers pipeline that is fine-tuned: unet, vae, text_encoder, tokenizer, scheduler."""
    clip: ModelSource | None = None
    """open_clip folder for the losses on decoded images (Eq. 5 and 11)."""
    perceptual: ModelSource | None = None
    """VGG folder of Eq. 10."""
    tiny_decoder: ModelSource | None = None
    """AutoencoderTiny folder for ``loss.decoder = tiny``."""
    train: TrainConfig = field(default_factory=TrainConfig)
    rows: RowsConfig = field(default_factory=RowsConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)


def as_json(config: Any) -> Any:
    """Return a configuration as JSON values, every field included, for the run's manifest."""
    import dataclasses

    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {entry.name: as_json(getattr(config, entry.name)) for entry in dataclasses.fields(config)}
    return [as_json(item) for item in config] if isinstance(config, tuple) else config
