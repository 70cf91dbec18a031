"""One training step: a batch of pairs in, the loss and its parts out. No loop, no optimiser, no logging.

In the paper's order: noise the source (Eq. 2), predict, compare with the noises of source and target (Eq. 1, 4 or 8),
go back to a clean image (Eq. 7), compute the losses on it (``terms``), weigh each sample by its t (Eq. 12), take
the mean. Axis names: b = batch, c h w = channels, height and width of the latents, s d = tokens and their width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iedit_model.errors import ConfigError, MaskError
from iedit_model.masks import any_empty, mask_regions
from iedit_model.schedule import (
    add_noise,
    at_least_fp32,
    min_snr_weight,
    predict_original,
    sample_timesteps,
)
from iedit_model.training import losses
from iedit_model.training.batch import MASK_FIELDS, EditBatch
from iedit_model.training.config import LossConfig
from iedit_model.training.terms import (
    MASK_SHARES,
    DenoisingTerm,
    NoiseInputs,
    NoiseTerm,
    PixelInputs,
    PixelTerm,
    check_models,
    decode_latents,
    needed_fields,
    term_weights,
    used_terms,
)
from iedit_model.training.train_models import TrainModels, present

VERSION = 1
"""To be raised when a step gives other numbers; the terms have versions of their own."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """All that is random in a step, on the generator's device."""

    timesteps: Int[Tensor, " b"]
    noise: Float[Tensor, "b c h w"]
    dropped: Bool[Tensor, " b"]
    """Samples that get the empty prompt."""
    denoising_timesteps: Int[Tensor, " b"]
    """Of the denoising regularisation, as is ``denoising_noise``."""
    denoising_noise: Float[Tensor, "b c h w"]

    def to(self, device: torch.device) -> "Draws":
        """Return the draws on ``device``."""
        return Draws(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What a step hands to the loop; ``loss``, ``contributions`` and ``noise_pred`` carry the graph."""

    loss: Float[Tensor, ""]
    """What to differentiate."""
    contributions: dict[str, Float[Tensor, ""]]
    """The weighted parts that sum to ``loss``, by the names of ``terms.TERMS``."""
    terms: dict[str, Float[Tensor, ""]]
    """The unweighted losses, each the mean over the samples that it applies to, and the masks' overlap and gap."""
    per_sample_loss: Float[Tensor, " b"]
    """Each sample's weighted sum, to name the one that went wrong."""
    timesteps: Int[Tensor, " b"]
    noise_pred: Float[Tensor, "b c h w"] | None
    """eps_theta for the pairs; None where only the denoising regularisation was computed."""


@dataclass(frozen=True, kw_only=True)
class _Values:
    """One unweighted term of each sample, and which samples it applies to."""

    values: Float[Tensor, " b"]
    applies: Bool[Tensor, " b"]

    def mean(self) -> Float[Tensor, ""]:
        return (self.values.detach() * self.applies).sum() / self.applies.sum().clamp(min=1)


def draw_step(batch: EditBatch, config: LossConfig, *, num_train_timesteps: int, generator: torch.Generator) -> Draws:
    """Draw timesteps, noise and dropped prompts of a step.

    Everything is drawn in one order whether a configuration uses it or not, so that two configurations that start from
    the same generator see the same noise. With a CPU generator the draws do not depend on the training device, and the
    step need not wait for a GPU to know which samples to decode.

    Raises:
        TimestepError: the schedule ends at or before ``config.t_min``.
    """
    size, device = len(batch.sample_ids), generator.device
    t_max = num_train_timesteps if config.t_max is None else min(config.t_max, num_train_timesteps)

    def gaussian() -> Tensor:
        return torch.randn(batch.source_latents.shape, generator=generator, device=device)

    return Draws(
        timesteps=sample_timesteps(size, t_min=config.t_min, t_max=t_max, generator=generator),
        noise=gaussian(),
        dropped=torch.rand(size, generator=generator, device=device) < config.prompt_dropout,
        denoising_timesteps=sample_timesteps(size, t_max=num_train_timesteps, generator=generator),
        denoising_noise=gaussian(),
    )


def train_step(
    models: TrainModels, batch: EditBatch, config: LossConfig, *, generator: torch.Generator, step: int
) -> StepOutput:
    """Return the loss of one batch at one optimiser step, and what it consists of.

    Args:
        models: the networks, after ``prepare_models``.
        batch: pairs on the UNet's device.
        config: losses and their options; ``lambda_perc`` must be a number where Eq. 10 is used.
        generator: advanced by the same amount whatever the configuration; best on the CPU (see ``draw_step``).
        step: optimiser step, 0 the first; decides whether losses on pixels are computed.

    Raises:
        ConfigError: a loss has no model, or ``lambda_perc`` is not calibrated.
        BatchError: the batch lacks a tensor that a loss needs.
        MaskError: a mask is empty and ``empty_mask`` is raise.
    """
    draws = draw_step(batch, config, num_train_timesteps=len(models.alphas_cumprod), generator=generator)
    return step_with_draws(models, batch, config, draws=draws, step=step)


def step_with_draws(
    models: TrainModels, batch: EditBatch, config: LossConfig, *, draws: Draws, step: int
) -> StepOutput:
    """Do what ``train_step`` does with randomness that was drawn before; raises the same errors."""
    check_models(models, config)
    decoded = _samples_to_decode(config, draws, step)
    draws = draws.to(batch.source_latents.device)
    empty = _empty_masks(batch, config)
    noisy_latents = add_noise(batch.source_latents, draws.noise, draws.timesteps, models.alphas_cumprod)
    noise_pred, denoising = _predict(models, batch, config, draws, noisy_latents, pairs=bool(decoded))
    values: dict[str, _Values] = {}
    if noise_pred is not None:
        inputs = NoiseInputs(
            models=models,
            batch=batch,
            config=config,
            timesteps=draws.timesteps,
            noise=draws.noise,
            noise_pred=noise_pred,
            dropped=draws.dropped,
            empty=empty,
        )
        values |= _noise_values(inputs)
        if decoded:
            original = predict_original(noisy_latents, noise_pred, draws.timesteps, models.alphas_cumprod)
            values |= _pixel_values(inputs, original, decoded)
    weights = term_weights(config, draws.timesteps, models.alphas_cumprod)
    applying = {name: term.values * term.applies for name, term in values.items() if name in weights}
    num_kept = (~empty).sum().clamp(min=1) if config.empty_mask == "drop" else len(empty)
    per_sample = losses.combined_loss(applying, weights) if applying else draws.noise.new_zeros(len(empty))
    loss = per_sample.sum() / num_kept
    contributions = {name: (weights[name] * value).sum() / num_kept for name, value in applying.items()}
    means = {name: term.mean() for name, term in values.items()}
    for name, (weight, value) in denoising.items():
        weighted = weight * value
        per_sample = per_sample + weighted
        contributions[name] = weighted.mean()
        loss = loss + contributions[name]
        means[name] = value.detach().mean()
    return StepOutput(
        loss=loss,
        contributions=contributions,
        terms=means | _mask_shares(batch),
        per_sample_loss=per_sample.detach(),
        timesteps=draws.timesteps,
        noise_pred=noise_pred,
    )


def calibrate_lambda_perc(
    noise_contributions: Sequence[float], perc_terms: Sequence[float], *, share: float = 0.1
) -> float:
    """Return the lambda_perc that makes Eq. 10 weigh ``share`` of the noise loss; the paper does not give its value.

    Args:
        noise_contributions: ``StepOutput.contributions["noise"]`` of some hundred steps.
        perc_terms: ``StepOutput.terms["perc"]`` of steps, taken with ``lambda_perc=0.0``.
        share: of the mean noise contribution.

    Raises:
        ConfigError: a list is empty, or a mean is not a finite positive number.
    """
    if not noise_contributions or not perc_terms:
        raise ConfigError(
            f"{len(noise_contributions)} noise and {len(perc_terms)} perceptual losses: nothing to measure"
        )
    noise = math.fsum(noise_contributions) / len(noise_contributions)
    perc = math.fsum(perc_terms) / len(perc_terms)
    if not (0 < noise < math.inf and 0 < perc < math.inf):
        raise ConfigError(f"lambda_perc cannot be set from a mean noise loss of {noise} and perceptual loss of {perc}")
    return share * noise / perc


def contribution_gradient_norms(output: StepOutput) -> dict[str, Float[Tensor, ""]]:
    """Return the L2 norm of each contribution's gradient at the UNet's output; call it before the backward pass.

    Losses of one size may pull with very different force: sqrt(1 / SNR) lies between Eq. 7 and the pixels.
    """
    if output.noise_pred is None:
        return {}
    norms = {}
    for name, value in output.contributions.items():
        (gradient,) = torch.autograd.grad(value, output.noise_pred, retain_graph=True, allow_unused=True)
        if gradient is not None:
            norms[name] = gradient.norm()
    return norms


def _samples_to_decode(config: LossConfig, draws: Draws, step: int) -> list[int]:
    """Return the samples whose images are decoded: not the noisiest ones, if so configured, nor dropped prompts."""
    if step % config.pixel_loss_every or not any(isinstance(term, PixelTerm) for term in used_terms(config)):
        return []
    chosen = ~draws.dropped
    if config.pixel_loss_t_max is not None:
        chosen = chosen & (draws.timesteps < config.pixel_loss_t_max)
    return chosen.nonzero()[:, 0].tolist()


def _empty_masks(batch: EditBatch, config: LossConfig) -> Bool[Tensor, " b"]:
    """Tell which samples have an empty mask among those that the configuration uses."""
    needed = needed_fields(config)
    masks = [batch.require(name, needed_by=needed[name]) for name in MASK_FIELDS if name in needed]
    if not masks:
        return torch.zeros(len(batch.sample_ids), dtype=torch.bool, device=batch.source_latents.device)
    empty = any_empty(masks)
    if config.empty_mask == "raise" and bool(empty.any()):
        names = ", ".join(name for name, is_empty in zip(batch.sample_ids, empty.tolist(), strict=True) if is_empty)
        raise MaskError(f"a mask of {names} is empty; drop these samples or set empty_mask to keep, ldm or drop")
    return empty


def _predict(
    models: TrainModels,
    batch: EditBatch,
    config: LossConfig,
    draws: Draws,
    noisy_latents: Float[Tensor, "b c h w"],
    *,
    pairs: bool,
) -> tuple[Float[Tensor, "b c h w"] | None, dict[str, tuple[float, Float[Tensor, " b"]]]]:
    """Run the UNet once on the pairs and on what regularises it.

    Returns:
        The pairs' prediction, None where no term needs it, and the weight and values of each denoising term.
    """
    terms = used_terms(config)
    pairs = pairs or any(isinstance(term, NoiseTerm) for term in terms)
    inputs = [("pairs", noisy_latents, draws.timesteps, batch.prompt_embeds)] if pairs else []
    weights = {}
    for term in terms:
        if isinstance(term, DenoisingTerm) and term.weight is not None:
            weights[term.name] = term.weight(config)
            latents = batch.require(term.latents, needed_by=term.setting)
            noisy = add_noise(latents, draws.denoising_noise, draws.denoising_timesteps, models.alphas_cumprod)
            prompt_embeds = batch.require(term.prompt_embeds, needed_by=term.setting)
            inputs.append((term.name, noisy, draws.denoising_timesteps, prompt_embeds))
    names, noisy, timesteps, prompts = zip(*inputs, strict=True)
    prompt_embeds = torch.cat([_with_dropped(models, prompt, draws.dropped) for prompt in prompts])
    sample = models.unet(torch.cat(noisy), torch.cat(timesteps), encoder_hidden_states=prompt_embeds).sample
    predictions = dict(zip(names, at_least_fp32(sample).split(len(batch.sample_ids)), strict=True))
    noise_pred = predictions.pop("pairs", None)
    gamma = config.denoising_min_snr_gamma
    snr = 1.0 if gamma is None else min_snr_weight(draws.denoising_timesteps, models.alphas_cumprod, gamma=gamma)
    return noise_pred, {
        name: (weights[name], snr * losses.ldm_loss(value, draws.denoising_noise))
        for name, value in predictions.items()
    }


def _with_dropped(
    models: TrainModels, prompt_embeds: Float[Tensor, "b s d"], dropped: Bool[Tensor, " b"]
) -> Float[Tensor, "b s d"]:
    if models.empty_prompt_embeds is None:
        return prompt_embeds
    return torch.where(dropped.view(-1, 1, 1), models.empty_prompt_embeds.to(prompt_embeds), prompt_embeds)


def _noise_values(inputs: NoiseInputs) -> dict[str, _Values]:
    terms = [term for term in used_terms(inputs.config) if isinstance(term, NoiseTerm)]
    return {term.name: _Values(values=term.value(inputs), applies=term.applies(inputs)) for term in terms}


def _pixel_values(
    noise_inputs: NoiseInputs, original: Float[Tensor, "b c h w"], decoded: list[int]
) -> dict[str, _Values]:
    """Decode the chosen samples and return the used terms on images."""
    models, batch, config, empty = noise_inputs.models, noise_inputs.batch, noise_inputs.config, noise_inputs.empty
    part = batch.select(decoded)
    pixels = decode_latents(present(models.decoder, "decoder"), original if part is batch else original[decoded])
    inputs = PixelInputs(models=models, batch=part, config=config, pixels=pixels)
    indices = torch.tensor(decoded, device=original.device)
    chosen = torch.zeros_like(empty).index_fill(0, indices, value=True)
    found = {}
    for term in used_terms(config):
        if isinstance(term, PixelTerm):
            value = term.value(inputs)
            needs_mask = any(name in MASK_FIELDS for name in term.needs(config))
            skips_empty = config.empty_mask == "drop" or (config.empty_mask == "ldm" and needs_mask)
            found[term.name] = _Values(
                values=value.new_zeros(len(empty)).index_copy(0, indices, value),
                applies=chosen & ~empty if skips_empty else chosen,
            )
    return found


def _mask_shares(batch: EditBatch) -> dict[str, Float[Tensor, ""]]:
    if batch.source_mask is None or batch.target_mask is None:
        return {}
    regions = mask_regions(batch.source_mask, batch.target_mask)
    return dict(zip(MASK_SHARES, (regions.overlap.mean(), regions.gap.mean()), strict=True))
