"""The networks of a run, loaded once: the model that learns, and the frozen ones of its losses."""

import functools
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iedit_model.errors import ConfigError
from iedit_model.models.source import ModelSource, model_folder, read_part, weights_digest
from tasks.train.run_config import TrainRunConfig

if TYPE_CHECKING:
    import torch

    from iedit_model.models.clip_loss import DifferentiableClip
    from iedit_model.models.latent_diffusion import LatentDiffusion
    from iedit_model.models.perceptual import PerceptualFeatures

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

Move = Callable[[Any], Any]
"""Brings a loss network to the run's device and precision, frozen."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Everything on one device, weights in fp32 but for the loss networks."""

    folder: Path
    """Of the model's files."""
    model: "LatentDiffusion"
    """What learns (its UNet) and what encodes images and prompts."""
    decoder: Any
    """For the losses on pixels: the model's VAE, a copy in lower precision or a tiny one; None where there are none."""
    clip: "DifferentiableClip | None"
    perceptual: "PerceptualFeatures | None"
    device: "torch.device"
    weights_digests: dict[str, str]
    """Model -> digest of its weights."""


def load_networks(config: TrainRunConfig, device: "torch.device") -> Networks:
    """Load what a configuration needs.

    Raises:
        WeightsError: a model cannot be had or is of another kind.
        ScheduleError: the model's noise schedule is not one that the losses cover.
        ConfigError: a loss needs a model that is not configured.
    """
    import torch

    from iedit_model.models.latent_diffusion import read_latent_diffusion
    from iedit_model.training.terms import needed_models

    needed = needed_models(config.train.loss)
    sources = {"model": config.model}
    if "clip" in needed:
        sources["clip"] = _needed("clip", config.clip, needed["clip"])
    if "perceptual" in needed:
        sources["perceptual"] = _needed("perceptual", config.perceptual, needed["perceptual"])
    if "decoder" in needed and config.train.loss.decoder == "tiny":
        sources["tiny_decoder"] = _needed("tiny_decoder", config.tiny_decoder, "loss.decoder = tiny")
    dtype: torch.dtype = getattr(torch, _DTYPES[config.compute.loss_precision])
    move = functools.partial(_moved, device=device, dtype=dtype)
    model = read_latent_diffusion(config.model, device=device, differentiable=True)
    return Networks(
        folder=model_folder(config.model),
        model=model,
        decoder=_decoder(config, model.vae, sources.get("tiny_decoder"), move) if "decoder" in needed else None,
        clip=_clip(sources["clip"], move) if "clip" in sources else None,
        perceptual=_perceptual(config, sources["perceptual"], move) if "perceptual" in sources else None,
        device=device,
        weights_digests={name: weights_digest(source) for name, source in sources.items()},
    )


def _needed(name: str, source: ModelSource | None, used_by: str) -> ModelSource:
    if source is None:
        raise ConfigError(f"{used_by} needs the model {name!r}, which is not configured")
    return source


def _clip(source: ModelSource, move: Move) -> "DifferentiableClip":
    from iedit_model.models.clip_loss import load_differentiable_clip

    return move(load_differentiable_clip(source))


def _perceptual(config: TrainRunConfig, source: ModelSource, move: Move) -> "PerceptualFeatures":
    from iedit_model.models.perceptual import PerceptualFeatures
    from iedit_model.models.vgg import load_vgg

    loss = config.train.loss
    features = PerceptualFeatures(
        load_vgg(source),
        layer=loss.perc_layer,
        align=loss.perc_align,
        fill=loss.mask_fill,
        size_px=loss.perc_size_px,
        crop_margin=loss.crop_margin,
    )
    return move(features)


def _decoder(config: TrainRunConfig, vae: Any, tiny: ModelSource | None, move: Move) -> Any:
    """Return the decoder of the losses on pixels; a copy of the VAE where the precision differs."""
    import torch

    if tiny is not None:
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        decoder: Any = read_part(tiny, model_folder(tiny), AutoencoderTiny)
    else:
        # The encoder stays in fp32: the caches must not depend on the precision of the losses.
        decoder = deepcopy(vae) if config.compute.loss_precision != "fp32" else vae
    decoder = move(decoder)
    if config.compute.channels_last:
        decoder.decoder.to(memory_format=torch.channels_last)
    return decoder


def _moved(module: Any, *, device: "torch.device", dtype: "torch.dtype") -> Any:
    from torch import nn

    # diffusers' own method warns of modules to keep in fp32 even where a model has none.
    return nn.Module.to(module, device, dtype).eval().requires_grad_(requires_grad=False)
