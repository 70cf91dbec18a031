"""Decoding and the cached side of the losses on pixels; their values are tested with the whole step."""

import dataclasses

import pytest
import torch
from diffusers import AutoencoderTiny

from iedit_model.errors import BatchError
from iedit_model.training.terms import decode_latents
from iedit_model.training.train_models import TrainModels
from tests.builders.tiny_models import (
    LATENT_SHAPE,
    seeded,
)
from tests.iedit_model.train_step_cases import (
    FULL,
    build_batch,
    build_models,
    number,
    run,
)


@pytest.fixture(scope="module")
def models() -> TrainModels:
    return build_models()


@pytest.mark.parametrize("align", ["none", "bbox_crop", "gram"])
def test_cached_target_features_give_the_same_loss_as_the_target_image(align):
    models, batch = build_models(align=align), build_batch()
    assert models.perceptual is not None
    assert batch.target_pixels is not None
    assert batch.target_pixel_mask is not None
    features = models.perceptual.target(batch.target_pixels, batch.target_pixel_mask)
    cached = dataclasses.replace(batch, target_features=features, target_pixels=None, target_pixel_mask=None)
    assert number(run(models, FULL, batch=cached).loss) == pytest.approx(number(run(models, FULL, batch=batch).loss))


def test_features_cached_for_another_layer_are_refused(models):
    batch = dataclasses.replace(build_batch(), target_features=torch.zeros(4, 4, 16, 16))
    with pytest.raises(BatchError, match="another layer"):
        run(models, FULL, batch=batch)


def test_a_tiny_decoder_takes_the_place_of_the_vae():
    tiny = seeded(
        lambda: AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=4,
        ),
        6,
    )
    latents = torch.randn(2, *LATENT_SHAPE, generator=torch.Generator().manual_seed(7)).requires_grad_()
    images = decode_latents(tiny, latents)
    assert torch.allclose(images, tiny.decoder(latents), atol=1e-6)  # its latents carry the scaling factor already
    assert images.shape == (2, 3, 16, 16)
    images.sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().max() > 0
