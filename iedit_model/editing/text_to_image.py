"""Images from words alone: the latent diffusion model from pure noise, as the paper makes its generated set (4.1)."""

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
    """How an image is sampled."""

    sampler: SamplerName = "ddim"
    num_inference_steps: PositiveInt = 50
    """UNet steps."""
    guidance_scale: Annotated[float, Field(ge=1)] = 7.5
    """How far the prediction is led away from the empty prompt; 1 is no guidance."""


def draw_images(
    model: "LatentDiffusion", prompts: Sequence[str], seeds: Sequence[int], config: DrawConfig | None = None
) -> "list[Image]":
    """Return one image per prompt, at the model's native size, RGB.

    The noise of an image depends on its own seed alone, whatever the device.

    Args:
        model: the networks.
        prompts: what the images shall show.
        seeds: one per prompt, in [0, 2**63).
        config: the settings.

    Raises:
        ConfigError: prompts and seeds differ in number.
        ScheduleError: more steps than the schedule has.
    """
    from iedit_model.editing.batches import to_images
    from iedit_model.editing.sampling import SeededNoise, edit_latents, embed_prompts
    from iedit_model.editing.settings import SamplingConfig

    config = config or DrawConfig()
    if len(prompts) != len(seeds) or not prompts:
        raise ConfigError(f"{len(prompts)} prompts with {len(seeds)} seeds: expected one seed per prompt, and some")
    sampling = SamplingConfig(
        strength=1,
        guidance_scale=config.guidance_scale,
        num_inference_steps=config.num_inference_steps,
        sampler=config.sampler,
    )
    side = model.native_px // model.cell_px
    noise = SeededNoise(seeds, shape=(model.latent_channels, side, side), device=model.device)()
    latents = edit_latents(model, noise, embed_prompts(model, prompts), noise=noise, config=sampling, start="noise")
    return to_images(model.decode_latents(latents))
