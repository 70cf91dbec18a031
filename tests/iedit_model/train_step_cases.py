"""Models, batches and draws that the tests of the training step share, and its terms put together by hand."""

import dataclasses
from typing import Any, Self, cast

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode, resize

from iedit_model.models.clip_loss import DifferentiableClip
from iedit_model.models.perceptual import PerceptualFeatures
from iedit_model.models.vgg import VGG
from iedit_model.schedule import scaled_linear_alphas_cumprod
from iedit_model.training.batch import EditBatch
from iedit_model.training.config import LossConfig
from iedit_model.training.train_models import TrainModels, prepare_models
from iedit_model.training.train_step import (
    Draws,
    StepOutput,
    step_with_draws,
)
from tests.builders.tiny_models import (
    CLIP_PREPROCESSING,
    EMBED_DIM,
    IMAGE_PX,
    LATENT_SHAPE,
    PROMPT_SHAPE,
    byte_tokenizer,
    seeded,
    tiny_clip,
    tiny_unet,
    tiny_vae,
)
from tests.references import iedit_equations as reference

ALPHAS = scaled_linear_alphas_cumprod()
SCHEDULER = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
PLAIN = LossConfig(use_global=False, use_loc=False, use_perc=False)
FULL = LossConfig(lambda_perc=0.7, perc_layer="relu2_1")
PIXELS_ONLY = dataclasses.replace(FULL, noise_weight=0.0)
VGG_MEAN, VGG_STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
TIMESTEPS = [0, 130, 640, 999]


def build_models(**perceptual: Any) -> TrainModels:
    vgg = seeded(lambda: VGG([4, 4, "M", 6, 6], 3, VGG_MEAN, VGG_STD), 3)
    models = TrainModels(
        unet=tiny_unet(),
        alphas_cumprod=ALPHAS,
        decoder=tiny_vae(),
        clip=DifferentiableClip(tiny_clip(), byte_tokenizer),
        perceptual=PerceptualFeatures(vgg, layer="relu2_1", **perceptual),
        empty_prompt_embeds=torch.randn(1, *PROMPT_SHAPE, generator=torch.Generator().manual_seed(9)),
    )
    prepare_models(models)
    return models


def build_batch(*, seed: int = 0, size: int = 4) -> EditBatch:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(size, *shape, generator=generator)

    def mask(side: int) -> Tensor:
        return (torch.rand(size, 1, side, side, generator=generator) > 0.5).float()

    return EditBatch(
        sample_ids=tuple(f"{index:09d}" for index in range(size)),
        source_latents=randn(*LATENT_SHAPE),
        target_latents=randn(*LATENT_SHAPE),
        prompt_embeds=randn(*PROMPT_SHAPE),
        source_prompt_embeds=randn(*PROMPT_SHAPE),
        source_mask=mask(LATENT_SHAPE[1]),
        target_mask=mask(LATENT_SHAPE[1]),
        source_pixel_mask=mask(IMAGE_PX),
        target_pixel_mask=mask(IMAGE_PX),
        target_pixels=randn(3, IMAGE_PX, IMAGE_PX).tanh(),
        text_embeds=randn(EMBED_DIM),
        diff_text_embeds=randn(EMBED_DIM),
    )


def fixed_draws(batch: EditBatch, *, timesteps: list[int] | None = None, dropped: list[bool] | None = None) -> Draws:
    generator = torch.Generator().manual_seed(4)
    size = len(batch.sample_ids)
    return Draws(
        timesteps=torch.tensor(TIMESTEPS[:size] if timesteps is None else timesteps),
        noise=torch.randn(batch.source_latents.shape, generator=generator),
        dropped=torch.tensor([False] * size if dropped is None else dropped),
        denoising_timesteps=torch.tensor([5, 300, 700, 950][:size]),
        denoising_noise=torch.randn(batch.source_latents.shape, generator=generator),
    )


def run(
    models: TrainModels, config: LossConfig, *, step: int = 0, batch: EditBatch | None = None, **draws: Any
) -> StepOutput:
    batch = build_batch() if batch is None else batch
    return step_with_draws(models, batch, config, draws=fixed_draws(batch, **draws), step=step)


def number(tensor: Tensor) -> float:
    """The value of a scalar, without its graph."""
    return tensor.detach().item()


def as_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def predicted_by_hand(models: TrainModels, latents: Tensor, noise: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
    noisy = SCHEDULER.add_noise(latents, noise, cast("torch.IntTensor", t))
    return models.unet(noisy, t, encoder_hidden_states=prompt).sample.detach()


def noise_terms_by_hand(models: TrainModels, batch: EditBatch, draws: Draws) -> dict[str, list[float]]:
    """Eq. 1, 4 and 8 of each sample in float64, from the UNet's prediction on."""
    eps = predicted_by_hand(models, batch.source_latents, draws.noise, draws.timesteps, batch.prompt_embeds)
    assert batch.source_mask is not None
    assert batch.target_mask is not None
    found: dict[str, list[float]] = {"ldm": [], "paired": [], "mask": []}
    for i, t in enumerate(draws.timesteps.tolist()):
        alpha = float(ALPHAS[t])
        noise = as_numpy(draws.noise[i])
        noisy = reference.noised(as_numpy(batch.source_latents[i]), noise, alpha)
        target = reference.target_noise(noisy, as_numpy(batch.target_latents[i]), alpha)
        found["ldm"].append(reference.mean_square(as_numpy(eps[i]), noise))
        found["paired"].append(reference.mean_square(as_numpy(eps[i]), target))
        both = (as_numpy(batch.source_mask[i, 0]), as_numpy(batch.target_mask[i, 0]))
        found["mask"].append(sum(reference.masked_terms(as_numpy(eps[i]), noise, target, *both)))
    return found


def clip_by_hand(models: TrainModels, image: Tensor) -> np.ndarray:
    """CLIP's embedding of one image in [-1, 1] through torchvision's resize."""
    assert models.clip is not None
    small = resize(((image + 1) / 2)[None], [12, 12], InterpolationMode.BICUBIC, antialias=True)
    mean, std = (torch.tensor(CLIP_PREPROCESSING[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return as_numpy(models.clip.model.encode_image((small - mean) / std)[0])


def vgg_by_hand(models: TrainModels, image: Tensor) -> np.ndarray:
    """Relu2_1 of one image in [-1, 1]."""
    assert models.perceptual is not None
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (VGG_MEAN, VGG_STD))
    features = (((image + 1) / 2)[None] - mean) / std
    for module in list(models.perceptual.vgg.features)[:7]:
        features = module(features)
    return as_numpy(features[0])


def pixel_terms_by_hand(models: TrainModels, batch: EditBatch, draws: Draws) -> dict[str, list[float]]:
    """Eq. 5, 10 and 11 of each sample, one at a time."""
    eps = predicted_by_hand(models, batch.source_latents, draws.noise, draws.timesteps, batch.prompt_embeds)
    decoder = cast("AutoencoderKL", models.decoder)
    tensors = dict(batch.tensors())
    found: dict[str, list[float]] = {"global": [], "loc": [], "perc": []}
    for i, t in enumerate(draws.timesteps.tolist()):
        alpha = float(ALPHAS[t])
        noisy = reference.noised(as_numpy(batch.source_latents[i]), as_numpy(draws.noise[i]), alpha)
        original = torch.from_numpy(reference.original(noisy, as_numpy(eps[i]), alpha)).float()
        with torch.no_grad():
            image = decoder.decode(cast("torch.FloatTensor", original[None] / 0.4), return_dict=False)[0][0]
            inside = image * tensors["source_pixel_mask"][i]
            target = tensors["target_pixels"][i] * tensors["target_pixel_mask"][i]
            found["global"].append(
                reference.clip_distance(clip_by_hand(models, image), as_numpy(tensors["text_embeds"][i]))
            )
            found["loc"].append(
                reference.clip_distance(clip_by_hand(models, inside), as_numpy(tensors["diff_text_embeds"][i]))
            )
            found["perc"].append(reference.mean_square(vgg_by_hand(models, inside), vgg_by_hand(models, target)))
    return found


def expected_loss(terms: dict[str, list[float]], noise: list[float], *, lambda_perc: float) -> list[float]:
    return [
        reference.combined(
            t=t,
            num_steps=1000,
            noise=noise[i],
            global_clip=terms["global"][i],
            loc=terms["loc"][i],
            perc=terms["perc"][i],
            lambda_perc=lambda_perc,
        )
        for i, t in enumerate(TIMESTEPS)
    ]


class DecodedSamples:
    """Counts the samples that pass through the decoder."""

    def __init__(self, models: TrainModels) -> None:
        assert models.decoder is not None
        self.count = 0
        self.handle = models.decoder.decoder.register_forward_hook(self._add)

    def _add(self, module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.count += len(output)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()
