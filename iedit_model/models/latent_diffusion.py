"""The latent diffusion model as one object: images to latents and back, prompts to embeddings, the UNet's predictions.

Read from an ordinary diffusers folder (``unet/ vae/ text_encoder/ tokenizer/ scheduler/``), safetensors only, and used
alike by training, editing and ``IEditPipeline``. Another generation of Stable Diffusion (2.1, v-prediction, zero-SNR
schedules) is another folder: what its UNet predicts and at which noise levels stands in its scheduler's config. Latents
are fp32 between the networks, whatever precision those run in. Axis names: b = batch, c = latent channels, h w = latent
height and width, H W = the same in pixels, s = prompt tokens, d = their width.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iedit_model.configuration import configuration
from iedit_model.errors import WeightsError
from iedit_model.models.devices import DeviceConfig, resolve_device
from iedit_model.models.source import (
    BROKEN_MODEL,
    ModelSource,
    loaded_once,
    model_fingerprint,
    model_folder,
    read_model_json,
    without_progress_bars,
)
from iedit_model.schedule import at_least_fp32, check_schedule

logger = logging.getLogger(__name__)

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
"""Subfolders that make up the model; what else lies in a checkpoint (the state of its training) has no say."""
PART_FILES = tuple(f"{part}/{pattern}" for part in PARTS for pattern in ("*.json", "*.safetensors", "*.txt"))

UNCONDITIONAL = ""
"""The prompt of the branch that guidance leads away from."""


@configuration
class LatentDiffusionSpec:
    """Which model edits, and where it runs."""

    model: ModelSource
    """A folder as ``StableDiffusionPipeline.save_pretrained`` writes it, or a hub id."""
    device: DeviceConfig = field(default_factory=DeviceConfig)
    """Device, and precision of the UNet and the text encoder."""
    vae_dtype: Literal["fp32", "same"] = "fp32"
    """Precision of the VAE; "same" is the UNet's. bf16 shifts colours by about one level of 255."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentDiffusion:
    """The networks of a latent diffusion model, in evaluation mode."""

    unet: Any
    """diffusers' ``UNet2DConditionModel``, or what is called like one (compiled, wrapped)."""
    vae: Any
    """diffusers' ``AutoencoderKL``."""
    text_encoder: Any
    """transformers' ``CLIPTextModel``."""
    tokenizer: Any
    scheduler_config: Mapping[str, Any]
    """What the model's own scheduler says: noise levels, timestep spacing, and what the UNet predicts."""
    differentiable: bool = False
    """Whether results may be part of a graph, as in training; else all methods run in ``torch.inference_mode``."""

    @property
    def latent_channels(self) -> int:
        """Channels c of the latents."""
        return self.vae.config.latent_channels

    @property
    def cell_px(self) -> int:
        """Side of one latent cell in pixels: 8 in Stable Diffusion."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def native_px(self) -> int:
        """Side of the images that the UNet was configured for."""
        return int(self.unet.config.sample_size) * self.cell_px

    @property
    def device(self) -> torch.device:
        """Device of the UNet."""
        return self.unet.device

    def encode_images(self, pixel_values: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Return the scaled latents of images in [-1, 1], fp32: the posterior's mean, so that nothing is sampled."""
        with self._mode():
            posterior = self.vae.encode(pixel_values.to(self.vae.device, self.vae.dtype)).latent_dist
            return posterior.mode().float() * self.vae.config.scaling_factor

    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Return the images of scaled latents, about [-1, 1] and not clamped, fp32."""
        with self._mode():
            return decode_latents(self.vae, latents)

    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "b s d"]:
        """Return the text encoder's states of prompts; each distinct prompt is encoded once.

        What is beyond the encoder's context is cut off, with a warning.
        """
        unique, limit = list(dict.fromkeys(prompts)), self.tokenizer.model_max_length
        for prompt in unique:
            if (length := len(self.tokenizer(prompt).input_ids)) > limit:
                logger.warning("a prompt of %d tokens is cut to %d: %.80s", length, limit, prompt)
        tokens = self.tokenizer(unique, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        with self._mode():
            embeds = self.text_encoder(tokens.input_ids.to(self.text_encoder.device))[0]
            return embeds[[unique.index(prompt) for prompt in prompts]]

    def predict(
        self,
        latents: Float[Tensor, "b c h w"],
        timesteps: int | Int[Tensor, " b"],
        prompt_embeds: Float[Tensor, "b s d"],
    ) -> Float[Tensor, "b c h w"]:
        """Return the UNet's prediction, fp32: the noise, or the velocity where the scheduler's config says so."""
        with self._mode():
            given = latents.to(prompt_embeds.dtype)
            return self.unet(given, timesteps, encoder_hidden_states=prompt_embeds).sample.float()

    def _mode(self) -> AbstractContextManager[object]:
        # Not inference_mode(False): that would switch gradients on, also inside the caller's no_grad.
        return nullcontext() if self.differentiable else torch.inference_mode()


def decode_latents(decoder: Any, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
    """Decode scaled latents to images around [-1, 1], not clamped, with gradients to the latents (Eq. 6).

    The decoder, diffusers' ``AutoencoderKL`` or ``AutoencoderTiny``, computes in its own weights' precision: autocast
    would run its convolutions in fp16, which overflows in the backward pass.
    """
    with torch.autocast(latents.device.type, enabled=False):
        unscaled = (latents / decoder.config.scaling_factor).to(decoder.dtype)
        return at_least_fp32(decoder.decode(unscaled, return_dict=False)[0])


@loaded_once
def load_latent_diffusion(spec: LatentDiffusionSpec) -> LatentDiffusion:
    """Return the model of a spec, the same one for the same spec in all threads of a process.

    Raises:
        WeightsError: the model cannot be had, or its parts do not make a latent diffusion model of this kind.
        ScheduleError: its noise schedule is not one that the equations cover.
        ConfigError: the device is not there.
    """
    device = resolve_device(spec.device)
    vae_dtype = torch.float32 if spec.vae_dtype == "fp32" else device.torch_dtype
    return read_latent_diffusion(
        spec.model, device=torch.device(device.type), dtype=device.torch_dtype, vae_dtype=vae_dtype
    )


def read_latent_diffusion(
    source: ModelSource,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    vae_dtype: torch.dtype = torch.float32,
    differentiable: bool = False,
) -> LatentDiffusion:
    """Return a model read anew, frozen and in evaluation mode: what a training changes is its own.

    Args:
        source: the model.
        device: where its networks go.
        dtype: of the UNet and the text encoder.
        vae_dtype: of the VAE.
        differentiable: see ``LatentDiffusion.differentiable``.

    Raises:
        WeightsError: as ``load_latent_diffusion``.
        ScheduleError: likewise.
    """
    # From their own modules: diffusers' top level would load its pipelines as well.
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = _folder(source)
    scheduler_config = read_model_json(folder / "scheduler", "scheduler_config.json")
    check_schedule(scheduler_config)
    readers: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    try:
        with without_progress_bars():
            parts = {name: _part(folder / name, reader) for name, reader in readers.items()}
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except BROKEN_MODEL as error:
        raise WeightsError(f"{source.name} cannot be loaded as a latent diffusion model: {error}") from error
    if (channels := parts["unet"].config.in_channels) != parts["vae"].config.latent_channels:
        raise WeightsError(
            f"the UNet of {source.name} takes {channels} channels and its VAE gives "
            f"{parts['vae'].config.latent_channels}: it is no text-to-image model (in-painting and instruction models "
            "take more)"
        )
    for name, part in parts.items():
        # diffusers' own method warns of modules to keep in fp32 even where a model has none.
        nn.Module.to(part, device, vae_dtype if name == "vae" else dtype)
    return LatentDiffusion(
        **parts, tokenizer=tokenizer, scheduler_config=scheduler_config, differentiable=differentiable
    )


def latent_diffusion_fingerprint(spec: LatentDiffusionSpec) -> str:
    """Return what decides the numbers of a model: the content of its parts, device and precisions.

    Raises:
        WeightsError: the model cannot be had; the message says what to do.
        ConfigError: the device is not there.
    """
    _folder(spec.model)
    device = resolve_device(spec.device)
    vae_dtype = device.dtype if spec.vae_dtype == "same" else "fp32"
    return f"{model_fingerprint(spec.model, device, files=PART_FILES)}+vae/{vae_dtype}"


def _folder(source: ModelSource) -> Path:
    local = Path(source.name).expanduser()
    # Asked before anything is hashed: a wrong folder may be large.
    if local.is_dir() and (lacking := [part for part in PARTS if not (local / part).is_dir()]):
        raise WeightsError(f"{source.name} has no folder {lacking[0]!r}: it is no Stable Diffusion model of diffusers")
    return model_folder(source, files=PART_FILES)


def _part(folder: Any, reader: Any) -> Any:
    # Like diffusers, transformers would fill a weight that is not there with random numbers and only warn.
    part, report = reader.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, output_loading_info=True, torch_dtype=torch.float32
    )
    if lacking := sorted(report["missing_keys"]):
        raise WeightsError(f"{folder} lacks the weight {lacking[0]} and {len(lacking) - 1} more, which would be random")
    return part.eval().requires_grad_(requires_grad=False)
