"""The paper's losses, one function per equation; each returns one value per sample, as weights come before the mean.

||.||^2 is the mean over channels and pixels, not the sum: this fixes the balance of Eq. 12. Symbols: eps_theta is
``noise_pred``, eps_1 ``noise``, eps_2 ``target_noise``, M_1 ``source_mask``, M_2 ``target_mask``. Axis names: b =
batch, c h w = channels, height and width of the latents, e = CLIP's embedding.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from iedit_model.schedule import at_least_fp32
from iedit_model.training.config import MaskNormalisation, MaskPolicy, SoftMask

TimeWeight = Literal["rising", "falling", "constant"]


def ldm_loss(noise_pred: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Return the squared error against the noise that was added (Eq. 1)."""
    return _squared_error(noise_pred, noise).mean(dim=(1, 2, 3))


def paired_loss(noise_pred: Float[Tensor, "b c h w"], target_noise: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Return the squared error against the noise that leads to the target (Eq. 4)."""
    return _squared_error(noise_pred, target_noise).mean(dim=(1, 2, 3))


def clip_distance(image_embeds: Float[Tensor, "b e"], text_embeds: Float[Tensor, "b e"]) -> Float[Tensor, " b"]:
    """Return D_CLIP = 1 - cos of an image and a text, in [0, 2] (Eq. 5 with the edited image and the edit prompt).

    Computed as half the squared distance of the unit vectors, which is the same and does not cancel for small angles.
    """
    image_embeds = functional.normalize(at_least_fp32(image_embeds), dim=-1)
    text_embeds = functional.normalize(at_least_fp32(text_embeds), dim=-1)
    return (image_embeds - text_embeds).square().sum(dim=-1) / 2


def localised_loss(
    masked_image_embeds: Float[Tensor, "b e"], diff_text_embeds: Float[Tensor, "b e"]
) -> Float[Tensor, " b"]:
    """Return D_CLIP of the edited image inside M_1 and the difference prompt y_2^diff, in [0, 2] (Eq. 11).

    The product with M_1 comes before CLIP: ``masks.fill_outside``.
    """
    return clip_distance(masked_image_embeds, diff_text_embeds)


class MaskedNoiseLoss(NamedTuple):
    """Both sums of Eq. 8, one value per sample each."""

    foreground: Float[Tensor, " b"]
    background: Float[Tensor, " b"]

    @property
    def total(self) -> Float[Tensor, " b"]:
        """L_mask, Eq. 8."""
        return self.foreground + self.background


def mask_weights(
    source_mask: Float[Tensor, "b 1 h w"], target_mask: Float[Tensor, "b 1 h w"], policy: MaskPolicy
) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 h w"]]:
    """Return which cells learn the target's noise, and which the source's.

    | policy | foreground | background | M_2, not M_1 | M_1, not M_2 |
    |---|---|---|---|---|
    | paper (Eq. 9) | M_2 | 1 - M_1 | both noises, so their mean | nothing |
    | fg_priority | M_2 | (1 - M_1)(1 - M_2) | target's noise | nothing |
    | union | max(M_1, M_2) | 1 - max(M_1, M_2) | target's noise | target's noise |
    """
    if policy == "paper":
        return target_mask, 1 - source_mask
    if policy == "fg_priority":
        return target_mask, (1 - source_mask) * (1 - target_mask)
    union = torch.maximum(source_mask, target_mask)
    return union, 1 - union


def masked_noise_loss(
    noise_pred: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    target_noise: Float[Tensor, "b c h w"],
    source_mask: Float[Tensor, "b 1 h w"],
    target_mask: Float[Tensor, "b 1 h w"],
    *,
    policy: MaskPolicy = "paper",
    normalisation: MaskNormalisation = "elements",
    soft_mask: SoftMask = "squared",
) -> MaskedNoiseLoss:
    """Return the target's noise asked for inside M_2 and the source's outside M_1 (Eq. 8 and 9).

    Args:
        noise_pred: eps_theta(z_t, t, tau(y_2)).
        noise: eps_1.
        target_noise: eps_2.
        source_mask: M_1 at latent size.
        target_mask: M_2 at latent size.
        policy: see ``mask_weights``.
        normalisation: elements divides by the number of all elements; mask_area by those inside the mask, and gives 0
            for an empty one.
        soft_mask: squared weighs the squared error by the mask's square, as Eq. 9 is written; linear by the mask.
    """
    foreground, background = mask_weights(source_mask, target_mask, policy)
    if soft_mask == "squared":
        foreground, background = foreground.square(), background.square()
    return MaskedNoiseLoss(
        _weighted_mean(_squared_error(noise_pred, target_noise), foreground, normalisation),
        _weighted_mean(_squared_error(noise_pred, noise), background, normalisation),
    )


def perceptual_loss(
    features: Float[Tensor, "b *features"], target_features: Float[Tensor, "b *features"]
) -> Float[Tensor, " b"]:
    """Return the mean squared difference of two feature maps, V(x_1 * M_1) and V(x_2 * M_2) (Eq. 10)."""
    return _squared_error(features, target_features).flatten(1).mean(dim=1)


def time_weight(timesteps: Int[Tensor, " b"], course: TimeWeight, *, num_train_timesteps: int) -> Float[Tensor, " b"]:
    """Return each sample's factor of Eq. 12: t/T (rising, for the noise loss), 1 - t/T (falling, for the CLIP losses).

    t is the integer index, so the factors are 0 and 1 at t = 0, and (T-1)/T and 1/T at the last one.
    """
    share = timesteps.to(torch.float32) / num_train_timesteps
    return {"rising": share, "falling": 1 - share, "constant": torch.ones_like(share)}[course]


def combined_loss(
    terms: Mapping[str, Float[Tensor, " b"]], weights: Mapping[str, Float[Tensor, " b"]]
) -> Float[Tensor, " b"]:
    """Return the weighted sum of the terms at hand, (1 - t/T)(L_loc + L_global) + t/T L_mask + lambda L_perc (Eq. 12).

    Args:
        terms: unweighted values by name; not empty.
        weights: what ``terms.term_weights`` returns, each sample's own.
    """
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum(dim=0)


def _squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    return (at_least_fp32(prediction) - at_least_fp32(target)).square()


def _weighted_mean(
    squared_error: Float[Tensor, "b c h w"], weight: Float[Tensor, "b 1 h w"], normalisation: MaskNormalisation
) -> Float[Tensor, " b"]:
    weight = at_least_fp32(weight)
    weighted = squared_error * weight
    if normalisation == "elements":
        return weighted.mean(dim=(1, 2, 3))
    area = weight.sum(dim=(1, 2, 3)) * squared_error.shape[1]
    return weighted.sum(dim=(1, 2, 3)) / area.clamp(min=torch.finfo(area.dtype).tiny)
