"""The networks that a training step needs, frozen where they only serve a loss."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from iedit_model.errors import ConfigError
from iedit_model.models.clip_loss import DifferentiableClip
from iedit_model.models.perceptual import PerceptualFeatures

Model = TypeVar("Model")


@dataclass(frozen=True, kw_only=True)
class TrainModels:
    """The networks of a step; only the UNet learns, and what no loss needs may be None."""

    unet: nn.Module
    """eps_theta, called as diffusers' ``UNet2DConditionModel`` is; may be compiled or wrapped for several GPUs."""
    alphas_cumprod: Float[Tensor, " T"]
    """On the UNet's device."""
    decoder: AutoencoderKL | AutoencoderTiny | None = None
    """D of Eq. 6."""
    clip: DifferentiableClip | None = None
    perceptual: PerceptualFeatures | None = None
    empty_prompt_embeds: Float[Tensor, "1 s d"] | None = None
    """tau(""), for dropped prompts."""


def prepare_models(models: TrainModels, *, checkpoint_unet: bool = False, checkpoint_decoder: bool = False) -> None:
    """Freeze all networks but the UNet, in evaluation mode, and switch activation checkpointing on or off.

    Checkpointing costs a second forward pass and saves its memory; results stay the same. Call it before the UNet is
    wrapped or compiled.

    Raises:
        ConfigError: the UNet's weights are in half precision, or checkpointing is asked of something that is not a
            diffusers model.
    """
    for name, parameter in models.unet.named_parameters():
        if torch.finfo(parameter.dtype).bits < torch.finfo(torch.float32).bits:
            raise ConfigError(
                f"the UNet's {name} is {parameter.dtype}, in which small updates are lost; load it with "
                "dtype=torch.float32 and let autocast lower the precision of the computation"
            )
    for module in (models.decoder, models.clip, models.perceptual):
        if module is not None:
            module.eval().requires_grad_(requires_grad=False)
    for module, wanted in ((models.unet, checkpoint_unet), (models.decoder, checkpoint_decoder)):
        if isinstance(module, ModelMixin):
            module.enable_gradient_checkpointing() if wanted else module.disable_gradient_checkpointing()
        elif wanted:
            raise ConfigError(
                f"a {type(module).__name__} cannot be checkpointed; prepare the models before wrapping them"
            )


def present(model: Model | None, name: str) -> Model:
    """Return ``model``.

    Raises:
        ConfigError: it is None.
    """
    if model is None:
        raise ConfigError(f"a loss needs the model {name}, which is None")
    return model
