"""The loss terms of Eq. 12, registered in one place: ``TERMS``.

From a term's entry follow its weight for each sample, the tensors and models that it needs (and so what is encoded,
cached and loaded), whether images are decoded, its columns in the log and its curve. To add a term, write its function,
add one entry to ``TERMS`` and, where users shall set its weight, a field to ``LossConfig``.

Axis names: b = batch, k = samples that are decoded, c h w = latents, H W = images, e = CLIP's embedding.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iedit_model.errors import BatchError, ConfigError
from iedit_model.masks import crop_and_resize, fill_outside, mask_boxes
from iedit_model.schedule import at_least_fp32, min_snr_weight, target_noise
from iedit_model.training import losses
from iedit_model.training.batch import EditBatch
from iedit_model.training.config import LossConfig
from iedit_model.training.losses import MaskedNoiseLoss, TimeWeight
from iedit_model.training.train_models import TrainModels, present


@dataclass(frozen=True, kw_only=True)
class NoiseInputs:
    """What the terms on the predicted noise are computed from."""

    models: TrainModels
    batch: EditBatch
    config: LossConfig
    timesteps: Int[Tensor, " b"]
    noise: Float[Tensor, "b c h w"]
    """eps_1."""
    noise_pred: Float[Tensor, "b c h w"]
    """eps_theta(z_t, t, tau(y_2))."""
    dropped: Bool[Tensor, " b"]
    """Samples with the empty prompt."""
    empty: Bool[Tensor, " b"]
    """Samples with an empty mask."""

    @property
    def kept(self) -> Bool[Tensor, " b"]:
        """Samples that count at all."""
        return ~self.empty if self.config.empty_mask == "drop" else torch.ones_like(self.empty)

    @property
    def falls_back(self) -> Bool[Tensor, " b"]:
        """Samples whose noise loss is Eq. 1, whatever is configured."""
        return self.dropped | self.empty if self.config.empty_mask == "ldm" else self.dropped

    @cached_property
    def target_noise(self) -> Float[Tensor, "b c h w"]:
        """eps_2."""
        batch = self.batch
        return target_noise(
            self.noise, batch.source_latents, batch.target_latents, self.timesteps, self.models.alphas_cumprod
        )

    @cached_property
    def masked(self) -> MaskedNoiseLoss:
        """Both sums of Eq. 8."""
        return losses.masked_noise_loss(
            self.noise_pred,
            self.noise,
            self.target_noise,
            self.batch.require("source_mask", needed_by="noise_loss=mask"),
            self.batch.require("target_mask", needed_by="noise_loss=mask"),
            policy=self.config.mask_policy,
            normalisation=self.config.mask_normalisation,
            soft_mask=self.config.soft_mask,
        )


@dataclass(frozen=True, kw_only=True)
class PixelInputs:
    """What the terms on decoded images are computed from, for the samples that are decoded."""

    models: TrainModels
    batch: EditBatch
    config: LossConfig
    pixels: Float[Tensor, "k 3 H W"]
    """The predicted clean image, around [-1, 1]."""

    @cached_property
    def clip_embeds(self) -> dict[str, Float[Tensor, "k e"]]:
        """CLIP's embedding of each used term's ``clip_view``, all of them in one pass."""
        terms = [term for term in used_terms(self.config) if isinstance(term, PixelTerm)]
        views = {term.name: term.clip_view(self) for term in terms if term.clip_view is not None}
        embeds = present(self.models.clip, "clip").embed_preprocessed(torch.cat(list(views.values())))
        return dict(zip(views, embeds.split(len(self.pixels)), strict=True))


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """What all kinds of terms say of themselves."""

    name: str
    """Of its columns in the log: ``term_NAME`` (unweighted) and ``part_NAME`` (its weighted part of the loss)."""
    description: str
    """For the log's columns."""
    setting: str
    """What switches it on, as an error names it."""
    weight: Callable[[LossConfig], float] | None
    """Its factor in the loss; None: only measured and logged."""
    used: Callable[[LossConfig], bool] | None = None
    """Whether it is computed; None: where its weight is not 0."""
    time_weight: Callable[[LossConfig], TimeWeight] = lambda _: "constant"
    """How the weight goes with a sample's t."""
    min_snr: bool = False
    """Whether ``LossConfig.min_snr_gamma`` applies to it."""
    needs: Callable[[LossConfig], Iterable[str]] = lambda _: ()
    """Fields of ``EditBatch`` beside both latents and the edit prompt."""
    models: tuple[str, ...] = ()
    """Fields of ``TrainModels`` beside the UNet and, for terms on images, the decoder."""
    version: int = 1
    """To be raised when its values change; part of a run's fingerprint."""

    def is_used(self, config: LossConfig) -> bool:
        """Return whether a configuration computes the term."""
        if self.used is not None:
            return self.used(config)
        return self.weight is not None and self.weight(config) != 0


@dataclass(frozen=True, kw_only=True)
class NoiseTerm(LossTerm):
    """A term on the noise that is predicted for the pairs."""

    value: Callable[[NoiseInputs], Float[Tensor, " b"]]
    applies: Callable[[NoiseInputs], Bool[Tensor, " b"]] = lambda inputs: inputs.kept
    """Samples that it counts for."""


@dataclass(frozen=True, kw_only=True)
class PixelTerm(LossTerm):
    """A term on decoded images; a sample with an empty mask is left out where the term needs the mask."""

    value: Callable[[PixelInputs], Float[Tensor, " k"]]
    clip_view: Callable[[PixelInputs], Float[Tensor, "k 3 s s"]] | None = None
    """What CLIP shall see of the images, preprocessed; ``value`` finds its embedding in ``clip_embeds``."""


@dataclass(frozen=True, kw_only=True)
class DenoisingTerm(LossTerm):
    """Denoising regularisation: Eq. 1 on one side of the pairs, at timesteps of its own."""

    latents: str
    prompt_embeds: str


def noise_value(inputs: NoiseInputs) -> Float[Tensor, " b"]:
    """Return the configured noise loss (Eq. 1, 4 or 8); Eq. 1 for dropped prompts and, if so set, for empty masks."""
    plain = losses.ldm_loss(inputs.noise_pred, inputs.noise)
    if inputs.config.noise_loss == "ldm":
        return plain
    if inputs.config.noise_loss == "paired":
        return torch.where(inputs.falls_back, plain, losses.paired_loss(inputs.noise_pred, inputs.target_noise))
    return torch.where(inputs.falls_back, plain, inputs.masked.total)


def global_value(inputs: PixelInputs) -> Float[Tensor, " k"]:
    """Return Eq. 5."""
    text = inputs.batch.require("text_embeds", needed_by="use_global")
    return losses.clip_distance(inputs.clip_embeds["global"], text)


def localised_value(inputs: PixelInputs) -> Float[Tensor, " k"]:
    """Return Eq. 11."""
    text = inputs.batch.require("diff_text_embeds", needed_by="use_loc")
    return losses.localised_loss(inputs.clip_embeds["loc"], text)


def localised_view(inputs: PixelInputs) -> Float[Tensor, "k 3 s s"]:
    """Return what CLIP sees for Eq. 11: the image inside M_1, if so configured cut out around it."""
    clip, config = present(inputs.models.clip, "clip"), inputs.config
    mask = inputs.batch.require("source_pixel_mask", needed_by="use_loc")
    inside = fill_outside(inputs.pixels, mask, fill=config.mask_fill, clip_mean=clip.mean)
    if config.loc_crop:
        inside = crop_and_resize(inside, mask_boxes(mask, margin=config.crop_margin), size_px=clip.size_px)
    return clip.preprocess(inside)


def perceptual_value(inputs: PixelInputs) -> Float[Tensor, " k"]:
    """Return Eq. 10, against the target's features where they are cached.

    Raises:
        BatchError: the cached features are another layer's.
    """
    batch, perceptual = inputs.batch, present(inputs.models.perceptual, "perceptual")
    features = perceptual(inputs.pixels, batch.require("source_pixel_mask", needed_by="use_perc"))
    target_features = batch.target_features
    if target_features is None:
        target_features = perceptual.target(
            batch.require("target_pixels", needed_by="use_perc without target_features"),
            batch.require("target_pixel_mask", needed_by="use_perc without target_features"),
        )
    if features.shape != target_features.shape:
        raise BatchError(
            f"target_features of the batch from {batch.sample_ids[0]} are {tuple(target_features.shape)}, the model's "
            f"are {tuple(features.shape)}; they were cached for another layer, alignment or size"
        )
    return losses.perceptual_loss(features, target_features)


def perceptual_weight(config: LossConfig) -> float:
    """Return lambda_perc.

    Raises:
        ConfigError: it is to be calibrated first.
    """
    if config.lambda_perc is None:
        raise ConfigError(
            "lambda_perc is None: measure with lambda_perc=0.0 first, then set what calibrate_lambda_perc returns"
        )
    return config.lambda_perc


def _uses_masked_noise(config: LossConfig) -> bool:
    return config.noise_loss == "mask" and config.noise_weight > 0


def _clip_time_weight(config: LossConfig) -> TimeWeight:
    return "falling" if config.t_weighting == "paper" else "constant"


TERMS: Final[dict[str, LossTerm]] = {
    term.name: term
    for term in (
        NoiseTerm(
            name="noise",
            description="Noise loss: Eq. 1, 4 or 8.",
            setting="noise_loss=mask",
            weight=lambda config: config.noise_weight,
            time_weight=lambda config: "rising" if config.t_weighting == "paper" else "constant",
            min_snr=True,
            needs=lambda config: ("source_mask", "target_mask") if _uses_masked_noise(config) else (),
            value=noise_value,
        ),
        NoiseTerm(
            name="noise_foreground",
            description="Eq. 9's part inside the target mask.",
            setting="noise_loss=mask",
            weight=None,
            used=_uses_masked_noise,
            value=lambda inputs: inputs.masked.foreground,
            applies=lambda inputs: inputs.kept & ~inputs.falls_back,
        ),
        NoiseTerm(
            name="noise_background",
            description="Eq. 9's part outside the source mask.",
            setting="noise_loss=mask",
            weight=None,
            used=_uses_masked_noise,
            value=lambda inputs: inputs.masked.background,
            applies=lambda inputs: inputs.kept & ~inputs.falls_back,
        ),
        PixelTerm(
            name="global",
            description="Eq. 5: CLIP distance to the edit prompt.",
            setting="use_global",
            used=lambda config: config.use_global,
            weight=lambda config: config.global_weight,
            time_weight=_clip_time_weight,
            needs=lambda _: ("text_embeds",),
            models=("clip",),
            value=global_value,
            clip_view=lambda inputs: present(inputs.models.clip, "clip").preprocess(inputs.pixels),
        ),
        PixelTerm(
            name="loc",
            description="Eq. 11: CLIP distance inside the source mask.",
            setting="use_loc",
            used=lambda config: config.use_loc,
            weight=lambda config: config.loc_weight,
            time_weight=_clip_time_weight,
            needs=lambda _: ("source_pixel_mask", "diff_text_embeds"),
            models=("clip",),
            value=localised_value,
            clip_view=localised_view,
        ),
        PixelTerm(
            name="perc",
            description="Eq. 10: distance of perceptual features.",
            setting="use_perc",
            used=lambda config: config.use_perc,
            weight=perceptual_weight,
            time_weight=lambda config: "falling" if config.perc_t_weight == "one_minus" else "constant",
            needs=lambda _: ("source_pixel_mask", "target_features"),
            models=("perceptual",),
            value=perceptual_value,
        ),
        DenoisingTerm(
            name="target_denoising",
            description="Denoising regularisation: Eq. 1 on the target.",
            setting="target_denoising_weight",
            weight=lambda config: config.target_denoising_weight,
            latents="target_latents",
            prompt_embeds="prompt_embeds",
        ),
        DenoisingTerm(
            name="source_denoising",
            description="Denoising regularisation: Eq. 1 on the source, under its own caption.",
            setting="source_denoising_weight",
            weight=lambda config: config.source_denoising_weight,
            needs=lambda _: ("source_prompt_embeds",),
            latents="source_latents",
            prompt_embeds="source_prompt_embeds",
        ),
    )
}
"""Every term by its name, in the order in which the loss sums them up."""

MASK_SHARES: Final = {
    "mask_overlap": "Share of latent cells in the target mask alone.",
    "mask_gap": "Share of latent cells in the source mask alone.",
}
"""What a step measures beside the terms."""


def used_terms(config: LossConfig) -> list[LossTerm]:
    """Return the terms that a configuration computes."""
    return [term for term in TERMS.values() if term.is_used(config)]


def needed_fields(config: LossConfig) -> dict[str, str]:
    """Return the fields of ``EditBatch`` that the terms need beside latents and edit prompt -> the settings for it."""
    return _by_need((name, term.setting) for term in used_terms(config) for name in term.needs(config))


def needed_models(config: LossConfig) -> dict[str, str]:
    """Return the fields of ``TrainModels`` that the configuration needs beside the UNet -> the settings for it."""
    terms = used_terms(config)
    needs = [(name, term.setting) for term in terms for name in term.models]
    needs += [("decoder", term.setting) for term in terms if isinstance(term, PixelTerm)]
    needs += [("empty_prompt_embeds", "prompt_dropout")] * (config.prompt_dropout > 0)
    return _by_need(needs)


def term_versions(config: LossConfig) -> dict[str, int]:
    """Return the declared versions of the used terms, by name."""
    return {term.name: term.version for term in used_terms(config)}


def check_models(models: TrainModels, config: LossConfig) -> None:
    """Refuse a configuration whose terms lack a model or a weight.

    Raises:
        ConfigError: naming the setting and what it lacks.
    """
    for name, setting in needed_models(config).items():
        if getattr(models, name) is None:
            raise ConfigError(f"{setting} needs the model {name}, which is None; load it or switch the loss off")
    for term in used_terms(config):
        if term.weight is not None:
            term.weight(config)


def term_weights(
    config: LossConfig, timesteps: Int[Tensor, " b"], alphas_cumprod: Float[Tensor, " T"]
) -> dict[str, Float[Tensor, " b"]]:
    """Return each sample's weights of Eq. 12, for the used terms on noise and images."""
    found = {}
    for term in used_terms(config):
        if term.weight is None or isinstance(term, DenoisingTerm):
            continue
        course = losses.time_weight(timesteps, term.time_weight(config), num_train_timesteps=len(alphas_cumprod))
        weight = term.weight(config) * course
        if term.min_snr and config.min_snr_gamma is not None:
            weight = weight * min_snr_weight(timesteps, alphas_cumprod, gamma=config.min_snr_gamma)
        found[term.name] = weight
    return found


def decode_latents(
    decoder: AutoencoderKL | AutoencoderTiny, latents: Float[Tensor, "k c h w"]
) -> Float[Tensor, "k 3 H W"]:
    """Decode scaled latents to images around [-1, 1], not clamped, with gradients to the latents (Eq. 6).

    The decoder computes in its own weights' precision: autocast would run its convolutions in fp16, which overflows in
    the backward pass.
    """
    with torch.autocast(latents.device.type, enabled=False):
        unscaled = (latents / decoder.config["scaling_factor"]).to(decoder.dtype)
        return at_least_fp32(decoder.decode(unscaled, return_dict=False)[0])


def _by_need(needs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name, setting in needs:
        if setting not in found.setdefault(name, []):
            found[name].append(setting)
    return {name: " or ".join(settings) for name, settings in found.items()}
