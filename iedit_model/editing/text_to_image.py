"""Pictures from words alone: the latent diffusion model from pure noise, as the paper draws its generated set (4.1)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveInt

from iedit_model.configuration import configuration
from iedit_model.editing.settings import SamplerName
from iedit_model.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

    from iedit_model.models.latent_diffusion import LatentDiffusion


@configuration
class DrawConfig:
    """How a picture is drawn."""

    sampler: SamplerName = "ddim"
    num_inference_steps: PositiveInt = 50
    """UNet steps."""
    guidance_scale: Annotated[float, Field(ge=1)] = 7.5
    """How far the prediction is led away from the empty prompt; 1 is no guidance."""


def draw_images(
    model: "LatentDiffusion", prompts: Sequence[str], seeds: Sequence[int], config: DrawConfig | None = None
) -> "list[Image]":
    """Return one picture a prompt, at the model's native size, RGB.

    The noise of a picture depends on its own seed alone, drawn on the CPU.

    Args:
        model: the networks.
        prompts: what the pictures shall show.
        seeds: one a prompt, in [0, 2**63).
        config: the settings.

    Raises:
        ConfigError: prompts and seeds differ in number.
        ScheduleError: more steps than the schedule has.
    """
    import torch
    from torchvision.transforms.functional import to_pil_image

    from iedit_model.editing.partial_noising import PromptEmbeds, SamplingConfig, denoise, edit_steps

    config = config or DrawConfig()
    if len(prompts) != len(seeds) or not prompts:
        raise ConfigError(f"{len(prompts)} prompts with {len(seeds)} seeds: expected one seed a prompt, and some")
    sampling = SamplingConfig(
        strength=1,
        guidance_scale=config.guidance_scale,
        num_inference_steps=config.num_inference_steps,
        sampler=config.sampler,
    )
    side = model.native_px // model.cell_px
    shape = (model.latent_channels, side, side)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    empty, wanted = model.embed([""] * len(prompts) + list(prompts)).chunk(2)
    latents = denoise(
        model,
        noise.to(model.device),
        PromptEmbeds(conditional=wanted, unconditional=empty),
        steps=edit_steps(model, sampling),
        config=sampling,
        latent_mask=None,
        kept=lambda _: noise,
    )
    pixels = ((model.decode(latents).clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    return [to_pil_image(image) for image in pixels]
