"""What decides a fine-tuning: losses, layers and optimiser, and the named configurations of the paper's Table 2.

``paper()`` is the literal reading of Sections 3.3, 3.4 and 4.1; ``deviations`` names what another one changes.
Nothing here imports torch, so that a command line may read it at once.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from iedit_model.configuration import Probability, configuration

NoiseLoss = Literal["ldm", "paired", "mask"]
MaskPolicy = Literal["paper", "fg_priority", "union"]
MaskNormalisation = Literal["elements", "mask_area"]
SoftMask = Literal["squared", "linear"]
EmptyMask = Literal["keep", "ldm", "drop", "raise"]
MaskFill = Literal["grey", "black", "clip_mean", "blur"]
LatentMaskMode = Literal["area", "nearest", "max", "soft"]
PerceptualAlign = Literal["none", "bbox_crop", "gram"]
Decay = Annotated[float, Field(ge=0, lt=1)]
LayerPolicy = Literal["alternate", "input", "middle", "both", "all", "attention", "lora"]

_UNSTATED = {"paper": "unstated"}
_NEUTRAL = {"paper": "neutral"}


@configuration
class LossConfig:
    """Eq. 12 with its switches and with every choice that the paper leaves open."""

    noise_loss: NoiseLoss = "mask"
    """ldm: Eq. 1 with the source's noise; paired: Eq. 4; mask: Eq. 8 and 9."""
    noise_weight: NonNegativeFloat = 1.0
    """Factor of the noise loss; 0 leaves it out (with denoising alone this is the control "more pretraining")."""
    use_global: bool = True
    """Eq. 5: CLIP distance of the decoded prediction to the edit prompt."""
    global_weight: NonNegativeFloat = 1.0
    use_loc: bool = True
    """Eq. 11: CLIP distance of the decoded prediction inside M_1 to the difference prompt."""
    loc_weight: NonNegativeFloat = 1.0
    use_perc: bool = True
    """Eq. 10: VGG distance between the decoded prediction inside M_1 and the target inside M_2."""
    lambda_perc: NonNegativeFloat | None = field(default=None, metadata=_UNSTATED)
    """Factor of Eq. 10. None: to be calibrated first (``train_step.calibrate_lambda_perc``); 0.0: only measured."""

    t_weighting: Literal["paper", "none"] = "paper"
    """paper: t/T on the noise loss and 1 - t/T on both CLIP losses; none: 1 on all."""
    perc_t_weight: Literal["none", "one_minus"] = "none"
    """one_minus puts 1 - t/T on Eq. 10 as well: at high t its image is mostly error."""
    min_snr_gamma: PositiveFloat | None = None
    """min(SNR, gamma) / SNR on the noise loss, beside ``t_weighting``; None is the paper's."""
    t_min: NonNegativeInt = 0
    """First timestep that is sampled for the pair losses."""
    t_max: int | None = None
    """First timestep that is no longer sampled; None: the schedule's end."""

    mask_policy: MaskPolicy = "paper"
    """Who owns a latent cell of both M_2 and not M_1, and one of M_1 but not M_2; see ``losses.mask_weights``."""
    mask_normalisation: MaskNormalisation = "elements"
    """Eq. 9 as a mean over all elements, or over those inside the mask."""
    soft_mask: SoftMask = "squared"
    """Weight of a latent cell whose mask is m: squared is Eq. 9's (m d)^2, linear m d^2. Equal for binary masks."""
    empty_mask: EmptyMask = field(default="keep", metadata=_UNSTATED)
    """A sample with an empty mask: keep (the equations as they stand), ldm (Eq. 1 for it), drop, or raise."""
    latent_mask_mode: LatentMaskMode = field(default="area", metadata=_UNSTATED)
    """How a pixel mask becomes a latent one: mean, first pixel or maximum of each cell, then the threshold; soft: the
    mean itself."""
    latent_mask_threshold: Probability = field(default=0.5, metadata=_UNSTATED)
    """A cell at or above it is inside."""
    latent_mask_dilation: NonNegativeInt = 0
    """Latent cells by which both masks are grown."""

    mask_fill: MaskFill = "grey"
    """What stands outside the mask in Eq. 10 and 11: grey is the literal product in the decoder's range [-1, 1]."""
    loc_crop: bool = False
    """Cut the square around M_1 out before CLIP sees it, so that a small object is more than a few patches."""
    crop_margin: NonNegativeFloat = 0.25
    """Margin of that square and of ``bbox_crop`` on each side, as a share of the mask's longer side."""
    perc_layer: str = field(default="relu3_3", metadata=_UNSTATED)
    """VGG layer of Eq. 10: relu<block>_<convolution> or conv<block>_<convolution>."""
    perc_align: PerceptualAlign = "none"
    """none compares pixel by pixel; bbox_crop the squares around both masks; gram the layer's channel correlations."""
    perc_size_px: PositiveInt | None = field(default=None, metadata=_UNSTATED)
    """Side to which images are resized before VGG; None: as decoded."""

    pixel_loss_t_max: PositiveInt | None = None
    """Losses on decoded pixels (Eq. 5, 10, 11) are skipped for samples with t at or above it; None: never."""
    pixel_loss_every: PositiveInt = 1
    """Losses on decoded pixels are computed in every n-th optimiser step."""
    decoder: Literal["vae", "tiny"] = "vae"
    """The model's own VAE decoder, or a distilled one (AutoencoderTiny) that is some 18 times cheaper."""

    prompt_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of samples that get the empty prompt, with the source's noise as their target and no other loss."""
    target_denoising_weight: NonNegativeFloat = 0.0
    """Weight of ordinary denoising of the target under the edit prompt, at all t."""
    source_denoising_weight: NonNegativeFloat = 0.0
    """Weight of ordinary denoising of the source under its own caption, at all t."""
    denoising_min_snr_gamma: PositiveFloat | None = None
    """min-SNR weighting of both denoising terms."""

    def __post_init__(self) -> None:
        if self.t_max is not None and self.t_max <= self.t_min:
            raise ValueError(f"t_max is {self.t_max}, expected None or more than t_min={self.t_min}")
        denoises = self.target_denoising_weight or self.source_denoising_weight
        if not (self.noise_weight or self.uses_pixels or denoises):
            raise ValueError("every loss is switched off; set at least one weight or switch")
        always = self.pixel_loss_every == 1 and self.pixel_loss_t_max is None and self.prompt_dropout == 0
        if not (always or self.noise_weight or denoises):
            raise ValueError(
                "the losses on pixels stand alone but are skipped for some steps or samples, which would then have no "
                "loss at all; give noise_weight or a denoising weight, or remove pixel_loss_every, pixel_loss_t_max "
                "and prompt_dropout"
            )

    @property
    def uses_pixels(self) -> bool:
        """Whether any loss needs decoded images."""
        return self.use_global or self.use_loc or self.use_perc


@configuration
class TrainConfig:
    """One fine-tuning: the losses, which layers learn, and how fast."""

    loss: LossConfig = field(default_factory=LossConfig)

    layers: LayerPolicy = "alternate"
    """alternate: conv_in and the down blocks, then the mid block, alternating; both: these together; input, middle: one
    of them; all: the whole UNet; attention: the attention layers' own weights; lora: low-rank adapters of these."""
    alternate_every: PositiveInt = field(default=1, metadata=_UNSTATED)
    """Optimiser steps per phase of ``alternate``."""
    lora_rank: PositiveInt = 16
    """Used by ``lora`` alone, as is ``lora_alpha``."""
    lora_alpha: PositiveInt = 16
    """The adapters' scale is ``lora_alpha / lora_rank``."""

    num_steps: PositiveInt = 10_000
    """Optimiser steps."""
    batch_size: PositiveInt = 1
    """Samples per device and micro-step."""
    accumulation: PositiveInt = 1
    """Micro-steps that make one optimiser step."""
    learning_rate: Annotated[float, Field(gt=0, le=1e30)] = 2e-4
    warmup_steps: NonNegativeInt = field(default=0, metadata=_UNSTATED)
    """Optimiser steps in which the rate rises linearly from 0."""
    schedule: Literal["constant", "cosine"] = field(default="constant", metadata=_UNSTATED)
    """After the warm-up: constant, or falling to 0 along half a cosine."""
    betas: tuple[Decay, Decay] = field(default=(0.9, 0.999), metadata=_UNSTATED)
    weight_decay: NonNegativeFloat = field(default=0.01, metadata=_UNSTATED)
    adam_epsilon: PositiveFloat = field(default=1e-8, metadata=_UNSTATED)
    eight_bit_optimizer: bool = field(default=False, metadata=_UNSTATED)
    """AdamW with 8-bit moments, where bitsandbytes is installed."""
    max_grad_norm: PositiveFloat | None = field(default=None, metadata=_UNSTATED)
    """Gradients are scaled down to this L2 norm; None: not clipped."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = field(default=None, metadata=_UNSTATED)
    """Decay per step of the moving average of the trained weights; None: no average."""
    precision: Literal["fp32", "bf16", "fp16"] = field(default="fp32", metadata=_UNSTATED)
    """Of the networks; weights, moments and the equations stay in fp32."""

    blend_noise: Literal["fixed", "fresh"] = field(default="fixed", metadata=_UNSTATED)
    """Noise of the source in Eq. 13 when edits are drawn: the same in all steps, or a new one in each."""
    checkpoint_unet: bool = field(default=False, metadata=_NEUTRAL)
    """Recompute the UNet's activations in the backward pass instead of keeping them."""
    checkpoint_decoder: bool = field(default=False, metadata=_NEUTRAL)
    """The same for the VAE's decoder."""
    seed: NonNegativeInt = field(default=0, metadata=_NEUTRAL)

    def __post_init__(self) -> None:
        period = 2 * self.alternate_every
        if self.layers == "alternate" and self.loss.uses_pixels and self.loss.pixel_loss_every % period == 0:
            raise ValueError(
                f"pixel_loss_every={self.loss.pixel_loss_every} always falls on the input layers' phase of 'alternate' "
                f"(of {self.alternate_every} steps each), so the mid block would never see these losses; "
                f"choose a number that {period} does not divide"
            )

    def learning_rate_at(self, step: int) -> float:
        """Return the rate of optimiser step ``step`` (0 is the first): linear warm-up, then the schedule."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps))
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def paper() -> TrainConfig:
    """Return the paper read literally: full Eq. 12, input and middle layers alternating, 2e-4, batch 1 per GPU."""
    return TrainConfig()


def stable() -> TrainConfig:
    """Return the configuration that was found to work on the miniature, not only to be literal: docs/experiments.md.

    The pair loss where sampling starts (t >= 400) on the union of both masks, ordinary denoising of the target beside
    it, dropped prompts, half the paper's rate with warm-up and decay, clipped gradients and averaged weights. It wants
    pairs that stand in one place: on unfiltered ones it does harm, as it does without the denoising.
    """
    loss = LossConfig(
        use_global=False,
        use_loc=False,
        use_perc=False,
        t_min=400,
        mask_policy="union",
        empty_mask="drop",
        prompt_dropout=0.1,
        target_denoising_weight=1.0,
    )
    return TrainConfig(
        loss=loss,
        layers="all",
        num_steps=300,
        batch_size=16,
        learning_rate=1e-4,
        warmup_steps=30,
        schedule="cosine",
        max_grad_norm=1.0,
        ema_decay=0.99,
    )


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """One row of Table 2: what is trained on which data, and whether edits are drawn with masks."""

    config: TrainConfig
    data: Literal["caption", "edit"] = "edit"
    """caption: pairs whose prompts are the original alt texts (LAION-caption); edit: swapped captions (LAION-edit)."""
    infer_mask: Literal["none", "auto"] = "none"
    """auto: Eq. 13 with the mask that CLIPSeg finds."""
    weights_of: str | None = None
    """The row whose weights are used; None: its own training."""


def table2_rows(base: TrainConfig | None = None) -> dict[str, AblationRow]:
    """Return the rows of Table 2 in its order, each a change of ``base`` (``paper()`` by default) in the loss alone.

    The last one is not in the table: Eq. 4 on the edit data, because the first two rows change data and loss at once.
    The table's L_LDM is read as Eq. 1, with the source's noise, for its background scores lie far above L_paired's.
    """
    base = paper() if base is None else base

    def row(noise_loss: NoiseLoss, *, loc: bool, perc: bool) -> TrainConfig:
        loss = dataclasses.replace(base.loss, noise_loss=noise_loss, use_global=True, use_loc=loc, use_perc=perc)
        return dataclasses.replace(base, loss=loss)

    full = row("mask", loc=True, perc=True)
    return {
        "global_paired_caption": AblationRow(config=row("paired", loc=False, perc=False), data="caption"),
        "global_ldm_loc": AblationRow(config=row("ldm", loc=True, perc=False)),
        "global_ldm_loc_perc": AblationRow(config=row("ldm", loc=True, perc=True)),
        "iedit": AblationRow(config=full),
        "iedit_m": AblationRow(config=full, infer_mask="auto", weights_of="iedit"),
        "global_paired_edit": AblationRow(config=row("paired", loc=False, perc=False)),
    }


def deviations(config: Any, literal: Any, *, at: str = "") -> list[str]:
    """Return one line for each setting in which a configuration differs from the paper's.

    Settings that cannot change results are left out. A line says when the paper does not state the setting, so that
    ours is a choice and not a change.

    Args:
        config: any configuration.
        literal: one of the same class that follows the paper, ``paper()`` for a ``TrainConfig``.
        at: what stands before the names.
    """
    lines = []
    for entry in dataclasses.fields(config):
        value, expected, name = getattr(config, entry.name), getattr(literal, entry.name), f"{at}{entry.name}"
        meaning = entry.metadata.get("paper")
        if dataclasses.is_dataclass(value):
            lines += deviations(value, expected, at=f"{name}.")
        elif value != expected and meaning != "neutral" and entry.metadata.get("fingerprint", True):
            note = " (the paper does not state it)" if meaning == "unstated" else ""
            lines.append(f"{name} = {value!r} instead of {expected!r}{note}")
    return lines
