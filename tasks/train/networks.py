"""The networks of a run, loaded once: the pipeline that learns, and the frozen ones that encode and judge."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iedit_model.errors import ConfigError, WeightsError
from iedit_model.models.source import BROKEN_MODEL, ModelSource, model_folder, weights_digest
from tasks.train.run_config import TrainRunConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from iedit_model.models.clip_loss import DifferentiableClip
    from iedit_model.models.perceptual import PerceptualFeatures

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Everything on one device, weights in fp32 but for the judges."""

    folder: Path
    """Of the pipeline."""
    unet: Any
    vae: Any
    """Encodes and, unless a tiny decoder is configured, decodes."""
    decoder: Any
    """For the losses on pixels; None where there are none."""
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    clip: "DifferentiableClip | None"
    perceptual: "PerceptualFeatures | None"
    device: "torch.device"
    identities: dict[str, str]
    """Model -> hash of its content."""

    def encode_images(self, pixels: "Tensor") -> "Tensor":
        """Return scaled latents, the posterior's mean, of images in [-1, 1]; fp32."""
        posterior = self.vae.encode(pixels.to(self.device)).latent_dist
        return posterior.mode() * self.vae.config.scaling_factor

    def encode_prompts(self, prompts: Sequence[str]) -> "Tensor":
        """Return tau(y) of prompts, (n, tokens, width); what exceeds the encoder's context is cut off."""
        unique = list(dict.fromkeys(prompts))
        tokens = self.tokenizer(
            unique,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        embeds = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return embeds[[unique.index(prompt) for prompt in prompts]]


def load_networks(config: TrainRunConfig, device: "torch.device") -> Networks:
    """Load what a configuration needs.

    Raises:
        WeightsError: a model cannot be had or is of another kind.
        ConfigError: a loss needs a model that is not configured.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    folder = model_folder(config.model)
    try:
        with _without_progress_bars():
            pipeline: Any = StableDiffusionPipeline.from_pretrained(
                folder, dtype=torch.float32, safety_checker=None, use_safetensors=True, local_files_only=True
            )
    except BROKEN_MODEL as error:
        raise WeightsError(f"{config.model.name} cannot be loaded as a Stable Diffusion pipeline: {error}") from error
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.to(device).eval().requires_grad_(requires_grad=False)
    found = _Judges(config, device)
    return Networks(
        folder=folder,
        unet=pipeline.unet,
        vae=pipeline.vae,
        decoder=found.decoder(pipeline.vae),
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        scheduler=pipeline.scheduler,
        clip=found.clip,
        perceptual=found.perceptual,
        device=device,
        identities={"model": weights_digest(config.model)} | found.identities,
    )


class _Judges:
    """The frozen networks of the losses on pixels, as far as they are used."""

    def __init__(self, config: TrainRunConfig, device: "torch.device") -> None:
        import torch

        from iedit_model.training.terms import needed_models

        self._config, self._loss = config, config.train.loss
        self._needed = needed_models(config.train.loss)
        self._to = functools.partial(_moved, device=device)
        self._dtype: torch.dtype = getattr(torch, _DTYPES[config.compute.loss_precision])
        self.identities: dict[str, str] = {}
        self.clip, self.perceptual = self._clip(), self._perceptual()

    def _source(self, name: str, source: ModelSource | None, used_by: str) -> ModelSource:
        if source is None:
            raise ConfigError(f"{used_by} needs the model {name!r}, which is not configured")
        self.identities[name] = weights_digest(source)
        return source

    def _clip(self) -> "DifferentiableClip | None":
        if "clip" not in self._needed:
            return None
        from iedit_model.models.clip_loss import load_differentiable_clip

        clip = load_differentiable_clip(model_folder(self._source("clip", self._config.clip, self._needed["clip"])))
        return self._to(clip, dtype=self._dtype)

    def _perceptual(self) -> "PerceptualFeatures | None":
        loss = self._loss
        if "perceptual" not in self._needed:
            return None
        from iedit_model.models.perceptual import PerceptualFeatures
        from iedit_model.models.vgg import load_vgg

        source = self._source("perceptual", self._config.perceptual, self._needed["perceptual"])
        try:
            vgg = load_vgg(model_folder(source))
        except BROKEN_MODEL as error:
            raise WeightsError(f"{source.name} cannot be loaded as a VGG: {error}") from error
        features = PerceptualFeatures(
            vgg,
            layer=loss.perc_layer,
            align=loss.perc_align,
            fill=loss.mask_fill,
            size_px=loss.perc_size_px,
            crop_margin=loss.crop_margin,
        )
        return self._to(features, dtype=self._dtype)

    def decoder(self, vae: Any) -> Any:
        """Return the decoder of the losses on pixels; a copy of the VAE where precision or layout differ."""
        import torch

        if "decoder" not in self._needed:
            return None
        if self._loss.decoder == "vae":
            from copy import deepcopy

            # The encoder stays in fp32: the caches must not depend on how the judges compute.
            decoder = deepcopy(vae) if self._dtype != torch.float32 else vae
        else:
            from diffusers import AutoencoderTiny

            source = self._source("tiny_decoder", self._config.tiny_decoder, "loss.decoder = tiny")
            try:
                decoder = AutoencoderTiny.from_pretrained(model_folder(source), local_files_only=True)
            except BROKEN_MODEL as error:
                raise WeightsError(f"{source.name} cannot be loaded as an AutoencoderTiny: {error}") from error
        decoder = self._to(decoder, dtype=self._dtype)
        if self._config.compute.channels_last:
            decoder.decoder.to(memory_format=torch.channels_last)
        return decoder


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    import diffusers
    import transformers

    shown = [library for library in (diffusers, transformers) if library.utils.logging.is_progress_bar_enabled()]
    for library in shown:
        library.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.utils.logging.enable_progress_bar()


def _moved(module: Any, *, device: "torch.device", dtype: "torch.dtype") -> Any:
    from torch import nn

    # diffusers' own method warns of modules to keep in fp32 even where a model has none.
    return nn.Module.to(module, device, dtype).eval().requires_grad_(requires_grad=False)
