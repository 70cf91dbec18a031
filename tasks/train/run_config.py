"""What decides one run of the train stage: model, rows, training, caches and the rhythm of the loop."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from iedit_model.models.devices import Precision
from iedit_model.models.source import ModelSource
from iedit_model.training.config import TrainConfig
from tasks.errors import TaskConfigError

PromptSource = Literal["edit", "caption", "source"]
LogSink = Literal["tensorboard", "wandb"]

_SPEED: Final = {"fingerprint": False}
"""Marks fields that change how fast a run is and what it tells, never its weights beyond the last bits."""


@dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """Which samples of a dataset version are trained on, and with which words.

    Raises:
        TaskConfigError: an unknown split or prompt source, or fewer than one sample.
    """

    split: str = "train"
    """train, val or test."""
    where: str | None = None
    """A filter over the manifest's columns (``storage.filters``), ``outside_similarity > 0.9`` for instance."""
    prompts: PromptSource = "edit"
    """edit: caption and edit prompt, as packed. caption: the alt texts of source and target, without any swap
    (LAION-caption, Table 2's first row). source: the source image alone, its caption as prompt, no other image (the
    control "more of the same training")."""
    max_samples: int | None = None
    """At most so many samples, the first in an order that the ids alone decide; None: all."""

    def __post_init__(self) -> None:
        if self.split not in ("train", "val", "test"):
            raise TaskConfigError(f"rows.split is {self.split!r}, expected train, val or test")
        if self.prompts not in get_args(PromptSource):
            raise TaskConfigError(f"rows.prompts is {self.prompts!r}, expected one of {get_args(PromptSource)}")
        if self.max_samples is not None and self.max_samples < 1:
            raise TaskConfigError(f"rows.max_samples is {self.max_samples}, expected None or at least 1")


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """How latents, text embeddings, masks and features are kept between runs.

    Raises:
        TaskConfigError: a value is out of range.
    """

    enabled: bool = field(default=True, metadata=_SPEED)
    """Off: every batch is decoded and encoded anew."""
    dtype: Literal["fp32", "fp16"] = "fp32"
    """In which the cache keeps latents, embeddings and features; fp16 halves it and rounds."""
    batch_size: int = 16
    """Samples that are encoded at once."""
    decode_threads: int = field(default=2, metadata=_SPEED)
    """Threads that read and decode pictures meanwhile."""
    max_feature_gb: float = field(default=64.0, metadata=_SPEED)
    """Target features of Eq. 10 are kept only where all of them fit into this many gigabytes; else the target's pixels
    are, and the features are computed in each step."""

    def __post_init__(self) -> None:
        if self.dtype not in ("fp32", "fp16"):
            raise TaskConfigError(f"cache.dtype is {self.dtype!r}, expected fp32 or fp16")
        if not 1 <= self.batch_size <= 4096:
            raise TaskConfigError(f"cache.batch_size is {self.batch_size}, expected a number in [1, 4096]")
        if not 0 <= self.decode_threads <= 256:
            raise TaskConfigError(f"cache.decode_threads is {self.decode_threads}, expected a number in [0, 256]")
        if not self.max_feature_gb >= 0:
            raise TaskConfigError(f"cache.max_feature_gb is {self.max_feature_gb}, expected a number >= 0")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The rhythm of a run: checkpoints, log, guards.

    Raises:
        TaskConfigError: a value is out of range.
    """

    save_every: int = field(default=500, metadata=_SPEED)
    """Optimiser steps between two checkpoints; the last step always has one."""
    keep_last: int = field(default=2, metadata=_SPEED)
    """Checkpoints that stay."""
    validate_every: int = field(default=0, metadata=_SPEED)
    """Optimiser steps between two sheets of validation images; 0: none."""
    num_validation: int = field(default=4, metadata=_SPEED)
    """Samples of the split val on a sheet; of the trained split where there is no val."""
    validation_steps: int = field(default=20, metadata=_SPEED)
    """DDIM steps of a validation image, of which 70 % are taken."""
    explosion_factor: float = field(default=1000.0, metadata=_SPEED)
    """A loss that is so many times the mean of the last 100 stops the run."""
    calibration_samples: int = 256
    """Samples by which lambda_perc is set before the first step, where the configuration leaves it open."""
    calibration_share: float = 0.1
    """Eq. 10's share of the noise loss after it."""
    sinks: tuple[LogSink, ...] = field(default=("tensorboard",), metadata=_SPEED)
    """Where metrics go beside the parquet log: tensorboard, wandb."""
    wandb_project: str = field(default="iedit", metadata=_SPEED)
    batches_ahead: int = field(default=2, metadata=_SPEED)
    """Batches that a thread gathers while the model works; 0 gathers in between."""

    def __post_init__(self) -> None:
        for name, least in (
            *(("save_every", 1), ("keep_last", 1), ("validate_every", 0), ("num_validation", 1)),
            ("validation_steps", 1),
            *(("calibration_samples", 1), ("batches_ahead", 0)),
        ):
            if getattr(self, name) < least:
                raise TaskConfigError(f"loop.{name} is {getattr(self, name)}, expected at least {least}")
        if not self.explosion_factor > 1:
            raise TaskConfigError(f"loop.explosion_factor is {self.explosion_factor}, expected a number > 1")
        if not 0 < self.calibration_share < 100:
            raise TaskConfigError(f"loop.calibration_share is {self.calibration_share}, expected a number in (0, 100)")
        if strange := set(self.sinks) - set(get_args(LogSink)):
            raise TaskConfigError(f"loop.sinks names {sorted(strange)}, expected some of {get_args(LogSink)}")


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Where and how the networks compute; ``TrainConfig.precision`` says in which precision the UNet does.

    Raises:
        TaskConfigError: an unknown word.
    """

    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=_SPEED)
    loss_precision: Precision = "fp32"
    """Of the frozen decoder, CLIP and VGG that the losses on pixels go through."""
    channels_last: bool = field(default=True, metadata=_SPEED)
    """Memory format of the UNet and the decoder."""
    attention: Literal["auto", "eager", "sdpa"] = field(default="auto", metadata=_SPEED)
    """auto takes torch's fused attention on a GPU and plain matrix products on the processor, where the fused one's
    backward pass is slow."""
    compile_unet: bool = field(default=False, metadata=_SPEED)

    def __post_init__(self) -> None:
        for name, known in (
            ("device", ("auto", "cpu", "cuda")),
            ("loss_precision", get_args(Precision)),
            ("attention", ("auto", "eager", "sdpa")),
        ):
            if (value := getattr(self, name)) not in known:
                raise TaskConfigError(f"compute.{name} is {value!r}, expected one of {known}")


@dataclass(frozen=True, kw_only=True)
class TrainRunConfig:
    """Everything that decides a run beside the dataset version."""

    model: ModelSource
    """The diffusers pipeline that is fine-tuned: unet, vae, text_encoder, tokenizer, scheduler."""
    clip: ModelSource | None = None
    """open_clip folder that judges decoded images (Eq. 5 and 11)."""
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
