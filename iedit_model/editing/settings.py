"""The settings of sampling, guidance and masks that editing methods share. Imports no torch: commands read it first."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from iedit_model.configuration import Probability, Share, configuration
from iedit_model.training.config import LatentMaskMode

SamplerName = Literal["ddim", "dpmsolver++"]
"""``ddim`` is the paper's; ``dpmsolver++`` needs about 20 steps where DDIM needs 50."""
MaskSource = Literal["none", "request", "word", "request_or_word"]
"""``none`` edits everywhere; ``request`` takes the request's mask; ``word`` always looks for the word, whatever mask
the request brings; ``request_or_word`` looks for it where the request brings none."""


@configuration
class SamplingConfig:
    """How an edit is sampled; the defaults are the paper's values, and diffusers' where it gives none."""

    strength: Share = 0.7
    """Share of the steps that are taken, in [0, 1]: 0 returns the VAE's round trip of the source."""
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 7.5
    """Classifier-free guidance; 1 or less asks for the conditional prediction alone, at half the cost."""
    num_inference_steps: Annotated[int, Field(ge=1, le=999)] = 50
    """Steps N of the whole trajectory, of which round(N * strength) are taken."""
    sampler: SamplerName = "ddim"
    blend_noise: Literal["fixed", "fresh"] = "fixed"
    """Noise of the source outside the mask: the starting noise at every step, or a new draw each step as in Blended
    Latent Diffusion (arXiv:2206.02779)."""

    @property
    def num_edit_steps(self) -> int:
        """Steps that are really taken, round(N * strength); halves go to the even neighbour."""
        return round(self.num_inference_steps * self.strength)

    @property
    def uses_guidance(self) -> bool:
        """Whether the unconditional branch is computed."""
        return self.guidance_scale > 1

    @property
    def num_unet_evaluations(self) -> int:
        """Images that go through the UNet for one result."""
        return self.num_edit_steps * (2 if self.uses_guidance else 1)


@configuration
class InstructSampling:
    """How InstructPix2Pix samples; the defaults are its authors'."""

    num_inference_steps: Annotated[int, Field(ge=1, le=999)] = 100
    guidance_scale: Annotated[float, Field(gt=1, le=100)] = 7.5
    """Towards the instruction."""
    image_guidance_scale: Annotated[float, Field(ge=1, le=100)] = 1.5
    """Towards the source; 1 or more."""


@configuration
class ContrastConfig:
    """How DiffEdit finds its mask; the paper's values, and diffusers' for what the paper leaves open."""

    num_maps: PositiveInt = 10
    """Noise draws that the differences are averaged over."""
    mask_strength: Probability = 0.5
    """Noise level of the comparison, as a share of the steps."""
    clamp_ratio: PositiveFloat = 3.0
    """Differences beyond this many times their mean count as that much; then they are scaled to [0, 1]."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Cells above it are edited."""


@configuration
class MaskConfig:
    """Where a mask comes from and how it becomes latent cells."""

    source: MaskSource = "request_or_word"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which on a pixel belongs to the word."""
    latent_mode: LatentMaskMode = "max"
    """How pixels become cells; max counts a cell in as soon as one of its pixels is, so that no rim of the old object
    is kept; soft gives shares, which blend by parts."""
    dilate_cells: NonNegativeInt = 1
    """Latent cells that the mask grows by in every direction: room for an object of another shape."""
    on_empty: Literal["error", "everywhere"] = "error"
    """What to do when the word is nowhere: refuse, or edit everywhere as without a mask."""
    batch_size: PositiveInt = 8
    """Images that the segmenter sees at once."""

    @property
    def needs_segmenter(self) -> bool:
        """Whether requests may need a mask from a word."""
        return self.source in ("word", "request_or_word")
