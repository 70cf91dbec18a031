"""A diffusers pipeline with random weights for the miniature's 64 x 64 images, and a run that trains it."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

import miniature
from iedit_model.models.source import ModelSource
from iedit_model.training.config import LossConfig, TrainConfig
from miniature.family.latent_diffusion import ldm_pipeline
from storage import ShardStore, VersionInfo
from tasks.train.learner import build_accelerator
from tasks.train.preparation import PreparedRun, prepare_run
from tasks.train.run_config import ComputeConfig, LoopConfig, TrainRunConfig
from tasks.train.run_folder import RunFolder
from tasks.train.train_log import NullProgress
from tests.builders.tiny_models import seeded

WEIGHTS = Path(miniature.__file__).parent / "weights"
_WIDTH = 16


def write_tiny_pipeline(folder: Path) -> Path:
    """Write a whole pipeline: latents 4 x 8 x 8 of 64 x 64 images, prompts 16 tokens of 16 numbers."""
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "ldm" / "tokenizer")
    text: Any = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    vae: dict[str, Any] = {
        "block_out_channels": (4, 4, 8, 8),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "mid_block_add_attention": False,
        "scaling_factor": 2.0,
        "sample_size": 64,
    }
    unet: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": _WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    pipeline = ldm_pipeline(
        vae=seeded(lambda: AutoencoderKL(**vae), 1),
        text_encoder=seeded(lambda: CLIPTextModel(text), 2),
        tokenizer=tokenizer,
        unet=seeded(lambda: UNet2DConditionModel(**unet), 3),
    )
    pipeline.save_pretrained(folder)
    return folder


PLAIN = LossConfig(use_global=False, use_loc=False, use_perc=False)
"""Eq. 8 alone."""


def tiny_run(
    pipeline: Path, train: TrainConfig | None = None, *, loop: LoopConfig | None = None, **parts: Any
) -> TrainRunConfig:
    """Return a run of the tiny pipeline, judged by the miniature's CLIP and VGG, without TensorBoard."""
    return TrainRunConfig(
        model=ModelSource(str(pipeline)),
        clip=ModelSource(str(WEIGHTS / "clip")),
        perceptual=ModelSource(str(WEIGHTS / "perceptual")),
        train=train or tiny_train(),
        loop=loop or LoopConfig(sinks=(), save_every=1000, calibration_samples=4),
        compute=parts.pop("compute", ComputeConfig(device="cpu")),
        **parts,
    )


def prepared(config: TrainRunConfig, store: ShardStore, info: VersionInfo, out: Path) -> PreparedRun:
    """Return a run before its first step, on one process, telling nothing."""
    return prepare_run(
        info,
        config,
        store,
        RunFolder(out),
        accelerator=build_accelerator(config.train, config.compute),
        stack=ExitStack(),
        progress=NullProgress(),
    )


def tiny_train(loss: LossConfig = PLAIN, **fields: Any) -> TrainConfig:
    """Return a short training."""
    defaults: dict[str, Any] = {"num_steps": 6, "batch_size": 2, "learning_rate": 1e-3}
    return dataclasses.replace(TrainConfig(), loss=loss, **(defaults | fields))
