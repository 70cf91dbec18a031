"""The latent diffusion model as one object: pictures to latents and back, prompts to embeddings, noise predictions.

Read from an ordinary diffusers folder (``unet/ vae/ text_encoder/ tokenizer/ scheduler/``), safetensors only. Latents
are fp32 between the networks, whatever precision those run in. Axis names: b = batch, c = latent channels, h w = latent
height and width, H W = the same in pixels, s = prompt tokens, d = their width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iedit_model.configuration import configuration
from iedit_model.editing.samplers import NoiseSchedule, noise_schedule_from_config
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
    schedule: NoiseSchedule

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
        """Where the UNet lies."""
        return self.unet.device

    @torch.inference_mode()
    def encode(self, pixel_values: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Return the scaled latents of images in [-1, 1]: the mean of the posterior, so that nothing is drawn."""
        pixels = pixel_values.to(self.vae.device, self.vae.dtype)
        return self.vae.encode(pixels).latent_dist.mode().float() * self.vae.config.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Return the images of scaled latents, about [-1, 1] and not clamped, fp32."""
        return self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample.float()

    @torch.inference_mode()
    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "b s d"]:
        """Return the text encoder's states of prompts; what is beyond its context is cut off, with a warning."""
        limit = self.tokenizer.model_max_length
        for prompt in prompts:
            if (length := len(self.tokenizer(prompt).input_ids)) > limit:
                logger.warning("a prompt of %d tokens is cut to %d: %.80s", length, limit, prompt)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(tokens.to(self.text_encoder.device))[0]

    def predict_noise(
        self, latents: Float[Tensor, "b c h w"], timestep: int, prompt_embeds: Float[Tensor, "b s d"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the UNet's noise prediction, fp32."""
        dtype = prompt_embeds.dtype
        return self.unet(latents.to(dtype), timestep, encoder_hidden_states=prompt_embeds).sample.float()


@loaded_once
def load_latent_diffusion(spec: LatentDiffusionSpec) -> LatentDiffusion:
    """Return the model of a spec, the same one for the same spec in all threads of a process.

    Raises:
        WeightsError: the model cannot be had, or its parts do not make a latent diffusion model of this kind.
        ScheduleError: its noise schedule is not one that editing covers.
        ConfigError: the device is not there.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder, device = _folder(spec.model), resolve_device(spec.device)
    schedule = noise_schedule_from_config(read_model_json(folder / "scheduler", "scheduler_config.json"))
    readers: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    try:
        with without_progress_bars():
            parts = {name: _part(folder / name, reader) for name, reader in readers.items()}
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except BROKEN_MODEL as error:
        raise WeightsError(f"{spec.model.name} cannot be loaded as a latent diffusion model: {error}") from error
    if (channels := parts["unet"].config.in_channels) != parts["vae"].config.latent_channels:
        raise WeightsError(
            f"the UNet of {spec.model.name} takes {channels} channels and its VAE gives "
            f"{parts['vae'].config.latent_channels}: it is no text-to-image model (in-painting and instruction models "
            "take more)"
        )
    for name, part in parts.items():
        dtype = torch.float32 if (name, spec.vae_dtype) == ("vae", "fp32") else device.torch_dtype
        # diffusers' own method warns of modules to keep in fp32 even where a model has none.
        nn.Module.to(part, device.type, dtype)
    return LatentDiffusion(**parts, tokenizer=tokenizer, schedule=schedule)


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
