"""All metrics of one edit: pixels of the source against pixels of the result, and embeddings against embeddings."""

from torch import Tensor

from iedit_model.metrics.checks import require_masks
from iedit_model.metrics.clip_score import clip_cosine, clip_directional, clip_image_similarity, clip_score, encoded
from iedit_model.metrics.psnr import decibels, masked_mse, mse
from iedit_model.metrics.ssim import ssim, ssim_map_mean, ssim_normconv, ssim_zero_fill


def pixel_metrics(source_images: Tensor, edited_images: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Return every metric that needs no network, by its name in ``catalogue``.

    Args:
        source_images: (b, 3, h, w) in [0, 1].
        edited_images: the same.
        masks: (b, h, w) or (b, 1, h, w), bool or in [0, 1], 1 = edit here.

    Returns:
        Each (b,) float64; NaN where the mask, or what it leaves over, is empty.

    Raises:
        MetricInputError: shapes, types or ranges do not fit.
    """
    errors = {"mse": mse(source_images, edited_images), **masked_mse(source_images, edited_images, masks)}
    return {
        "mask_area": require_masks(masks, source_images).mean(dim=(1, 2, 3)),
        "ssim": ssim(source_images, edited_images),
        **ssim_zero_fill(source_images, edited_images, masks),
        **ssim_map_mean(source_images, edited_images, masks),
        **ssim_normconv(source_images, edited_images, masks),
        **errors,
        **{name.replace("mse", "psnr"): decibels(values) for name, values in errors.items()},
    }


def clip_metrics(
    *,
    source_image_embeds: Tensor,
    edited_image_embeds: Tensor,
    source_text_embeds: Tensor,
    edit_text_embeds: Tensor,
    encoder: str,
) -> dict[str, Tensor]:
    """Return every CLIP metric of one encoder, by its name in ``catalogue`` and the encoder's.

    Args:
        source_image_embeds: (b, d) of the source images.
        edited_image_embeds: (b, d) of the results.
        source_text_embeds: (b, d) of the source prompts.
        edit_text_embeds: (b, d) of the edit prompts.
        encoder: the CLIP model's name.

    Returns:
        Each (b,) float64; NaN where a direction is undefined.

    Raises:
        MetricInputError: shapes differ, or a value is not finite.
    """
    values = {
        "clip_score": clip_score(edited_image_embeds, edit_text_embeds),
        "clip_cosine": clip_cosine(edited_image_embeds, edit_text_embeds),
        "clip_directional": clip_directional(
            source_image_embeds, edited_image_embeds, source_text_embeds, edit_text_embeds
        ),
        "clip_image_similarity": clip_image_similarity(source_image_embeds, edited_image_embeds),
    }
    return {encoded(name, encoder): value for name, value in values.items()}
