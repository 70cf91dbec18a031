"""The losses on decoded images: Eq. 6 to pixels, then CLIP (Eq. 5 and 11) and VGG (Eq. 10).

Axis names: k = samples that are decoded, c h w = latents, H W = images.
"""

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float
from torch import Tensor

from iedit_model.errors import BatchError
from iedit_model.masks import crop_and_resize, fill_outside, mask_boxes
from iedit_model.schedule import at_least_fp32
from iedit_model.training.batch import EditBatch
from iedit_model.training.config import LossConfig
from iedit_model.training.losses import clip_distance, localised_loss, perceptual_loss
from iedit_model.training.train_models import TrainModels, present


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


def pixel_terms(
    models: TrainModels, batch: EditBatch, config: LossConfig, original: Float[Tensor, "k c h w"]
) -> dict[str, Float[Tensor, " k"]]:
    """Decode predicted clean latents and return the configured ones of global, loc and perc, unweighted.

    Raises:
        ConfigError: a loss has no model.
        BatchError: the batch lacks a tensor that a loss needs, or its cached features are another layer's.
    """
    pixels = decode_latents(present(models.decoder, "decoder"), original)
    values = _clip_values(models, batch, config, pixels)
    if config.use_perc:
        values["perc"] = _perceptual_values(models, batch, pixels)
    return values


def _clip_values(
    models: TrainModels, batch: EditBatch, config: LossConfig, pixels: Float[Tensor, "k 3 H W"]
) -> dict[str, Float[Tensor, " k"]]:
    """Return Eq. 5 and Eq. 11 of decoded images, with one pass through CLIP for both."""
    views, texts = {}, {}
    if config.use_global:
        texts["global"] = batch.require("text_embeds", needed_by="use_global")
        views["global"] = present(models.clip, "clip").preprocess(pixels)
    if config.use_loc:
        clip = present(models.clip, "clip")
        texts["loc"] = batch.require("diff_text_embeds", needed_by="use_loc")
        mask = batch.require("source_pixel_mask", needed_by="use_loc")
        inside = fill_outside(pixels, mask, fill=config.mask_fill, clip_mean=clip.mean)
        if config.loc_crop:
            inside = crop_and_resize(inside, mask_boxes(mask, margin=config.crop_margin), size_px=clip.size_px)
        views["loc"] = clip.preprocess(inside)
    if not views:
        return {}
    embeds = present(models.clip, "clip").embed_preprocessed(torch.cat(list(views.values()))).split(len(pixels))
    distances = {"global": clip_distance, "loc": localised_loss}
    return {name: distances[name](embed, texts[name]) for name, embed in zip(views, embeds, strict=True)}


def _perceptual_values(models: TrainModels, batch: EditBatch, pixels: Float[Tensor, "k 3 H W"]) -> Float[Tensor, " k"]:
    """Return Eq. 10 of decoded images, against the target's features where they are cached."""
    perceptual = present(models.perceptual, "perceptual")
    features = perceptual(pixels, batch.require("source_pixel_mask", needed_by="use_perc"))
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
    return perceptual_loss(features, target_features)
