"""The latent diffusion model as one object: images to latents and back, prompts to embeddings, the UNet's predictions.

Read from an ordinary diffusers folder (``unet/ vae/ text_encoder/ tokenizer/ scheduler/``), safetensors only, and used
alike by training, editing and ``IEditPipeline``. Another generation of Stable Diffusion (2.1, v-prediction, zero-SNR
schedules) is another folder: what its UNet predicts and at which noise levels stands in its scheduler's config. Latents
are fp32 between the networks, whatever precision those run in. Axis names: b = batch, c = latent channels, h w = latent
height and width, H W = the same in pixels, s = prompt tokens, d = their width.
"""

import json
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
    ModelSource,
    loaded_once,
    loading,
    model_fingerprint,
    model_folder,
    read_model_json,
    read_part,
)
from iedit_model.schedule import at_least_fp32, check_schedule, prediction_type

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
    parts = read_parts(source, _folder(source))
    check_prediction(parts, source)
    for name in ("unet", "vae", "text_encoder"):
        # diffusers' own method warns of modules to keep in fp32 even where a model has none.
        nn.Module.to(parts[name], device, vae_dtype if name == "vae" else dtype)
    return LatentDiffusion(**parts, differentiable=differentiable)


def read_parts(source: ModelSource, folder: Path, *, num_images: int = 1) -> dict[str, Any]:
    """Return the parts of a Stable Diffusion folder by name, frozen, fp32, with ``scheduler_config``.

    Args:
        source: the model, for messages.
        folder: where it lies.
        num_images: latents that its UNet takes side by side: 2 in InstructPix2Pix.

    Raises:
        WeightsError: a part cannot be had, or they make another kind of model; the message says which.
        ScheduleError: its noise schedule is not one that the equations cover.
    """
    # From their own modules: diffusers' top level would load its pipelines as well.
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    configs = {
        "unet": read_model_json(folder / "unet", "config.json"),
        "vae": read_model_json(folder / "vae", "config.json"),
        "text_encoder": read_model_json(folder / "text_encoder", "config.json"),
        "scheduler": read_model_json(folder / "scheduler", "scheduler_config.json"),
    }
    if kind := _other_kind(configs, num_images=num_images):
        raise WeightsError(f"{source.name} is {kind}; expected {_KINDS[num_images]}")
    check_schedule(configs["scheduler"])
    readers: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    parts = {name: read_part(source, folder / name, reader) for name, reader in readers.items()}
    with loading(source, "a latent diffusion model"):
        tokenizer: Any = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        known, places = parts["text_encoder"].config.vocab_size, parts["text_encoder"].config.max_position_embeddings
        if len(tokenizer) > known or tokenizer.model_max_length > places:
            raise WeightsError(
                f"the tokenizer of {source.name} has {len(tokenizer)} words for prompts of "
                f"{tokenizer.model_max_length} tokens, and its text encoder {known} for {places}: they belong to two "
                "models"
            )
    return {**parts, "tokenizer": tokenizer, "scheduler_config": configs["scheduler"]}


_KINDS = {
    1: "a Stable Diffusion v1 or v2 folder, which draws from text",
    2: "an InstructPix2Pix folder, which edits by instruction",
}
_SCHEDULERS = {"FlowMatch": "a flow matching model", "LCM": "a latent consistency model (LCM)", "TCD": "a TCD model"}
"""Beginning of a scheduler's class name -> whose it is."""
_CONDITIONS = {
    "addition_embed_type": "of the kind of Stable Diffusion XL",
    "time_cond_proj_dim": "a latent consistency model (LCM)",
    "class_embed_type": "an upscaler or a model of classes",
    "num_class_embeds": "an upscaler or a model of classes",
    "encoder_hid_dim_type": "a model that takes embeddings of images",
}
"""What a UNet beside latents, time and prompt is given -> what kind of model asks for it."""


def _other_kind(configs: Mapping[str, Mapping[str, Any]], *, num_images: int) -> str | None:
    """Return what a folder holds by the configs of its parts, None where it is of the wanted kind."""
    unet, vae, scheduler = configs["unet"], configs["vae"], str(configs["scheduler"].get("_class_name"))
    for beginning, kind in _SCHEDULERS.items():
        if scheduler.startswith(beginning):
            return f"{kind}: its scheduler is a {scheduler}"
    for name, kind in _CONDITIONS.items():
        if unet.get(name) is not None:
            return f"{kind}: its UNet has {name} = {unet[name]!r}"
    latent, taken, given = (vae.get("latent_channels", 4), unet.get("in_channels", 4), unet.get("out_channels", 4))
    if vae.get("shift_factor") is not None or vae.get("latents_mean") is not None or latent != given:
        return f"a model of another latent space: its VAE has {latent} channels, its UNet gives {given}"
    if taken != num_images * latent:
        names = {latent: "a text-to-image model", 2 * latent: "InstructPix2Pix", 2 * latent + 1: "an in-painting model"}
        name = names.get(taken, "no text-to-image model")
        return f"{name}: its UNet takes {taken} channels and its VAE gives {latent}"
    width, encoded = unet.get("cross_attention_dim", 1280), configs["text_encoder"].get("hidden_size", 512)
    if any(one != encoded for one in (width if isinstance(width, list) else [width])):
        return f"of parts that do not fit: its UNet takes prompts {width} wide and its text encoder gives {encoded}"
    return None


@torch.inference_mode()
def check_prediction(parts: Mapping[str, Any], source: ModelSource) -> None:
    """Refuse a UNet that predicts noise under a scheduler that says velocities.

    At the noisiest timestep the noise is all there is to see, and a UNet that predicts it gives back what it got; the
    velocity there is the negative of an image.

    Raises:
        WeightsError: it does.
    """
    unet, scheduler = parts["unet"], parts["scheduler_config"]
    if prediction_type(scheduler) != "v_prediction":
        return
    side = min(16, int(unet.config.sample_size))
    noise = torch.randn(1, unet.config.in_channels, side, side, generator=torch.Generator().manual_seed(0))
    tokens = parts["tokenizer"]([UNCONDITIONAL], padding="max_length", return_tensors="pt").input_ids
    states = parts["text_encoder"](tokens)[0]
    given = unet(noise, int(scheduler.get("num_train_timesteps", 1000)) - 1, encoder_hidden_states=states).sample
    if torch.cosine_similarity(noise.flatten(), given.flatten(), dim=0) > _IS_NOISE:
        raise WeightsError(
            f"the UNet of {source.name} predicts noise, and its scheduler says prediction_type='v_prediction': its "
            "images would be noise; set prediction_type to 'epsilon' in scheduler/scheduler_config.json"
        )


_IS_NOISE = 0.9
"""Cosine to pure noise from which on a prediction is taken for it."""


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


def native_size(folder: Path) -> tuple[int, int]:
    """Return the side of the images that a folder's UNet was configured for, and of a latent cell, in pixels.

    Raises:
        WeightsError: the configs do not say it.
    """
    unet, vae = read_model_json(folder / "unet", "config.json"), read_model_json(folder / "vae", "config.json")
    try:
        cell_px = 2 ** (len(vae["block_out_channels"]) - 1)
        return int(unet["sample_size"]) * cell_px, cell_px
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder} does not say for which size it was made: {error!r}") from error


def load_text_in_fp32(folder: Path) -> None:
    """Make a pipeline folder's transformers load in fp32 where nothing is asked for, as its other parts do.

    Without it transformers takes the precision of the stored numbers and diffusers fp32, and plain
    ``StableDiffusionPipeline.from_pretrained(folder)`` ends in two types that cannot be multiplied.
    """
    for part in ("text_encoder", "safety_checker", "image_encoder"):
        path = folder / part / "config.json"
        if path.is_file():
            config = read_model_json(path.parent, path.name)
            config.pop("torch_dtype", None)
            content = json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n"
            path.unlink()  # it may be a link to bytes that others have, too
            path.write_text(content, encoding="utf-8")


def _folder(source: ModelSource) -> Path:
    with loading(source, "a latent diffusion model"):
        local = Path(source.name).expanduser()
        # Asked before anything is hashed: a wrong folder may be large.
        folder = local if local.is_dir() else model_folder(source, files=PART_FILES)
        if lacking := [part for part in PARTS if not (folder / part).is_dir()]:
            others = " but a 'transformer', as Stable Diffusion 3 and Flux" if (folder / "transformer").is_dir() else ""
            raise WeightsError(
                f"{source.name} has no folder {lacking[0]!r}{others}: it is no Stable Diffusion model of diffusers"
            )
        return model_folder(source, files=PART_FILES)
