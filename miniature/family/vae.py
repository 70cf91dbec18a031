"""The VAE of the small latent diffusion model: ``AutoencoderKL``, 64 x 64 x 3 -> 16 x 16 x 4."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from miniature.family.loop import Recipe, train
from miniature.family.pool import Pool
from miniature.world import SIZE_PX

RECIPE = Recipe(
    num_steps=9000, batch_size=16, learning_rate=2.5e-3, weight_decay=0.0, warmup_steps=200, ema_decay=0.998, bf16=False
)
CROP_PX = 32
KL_WEIGHT = 3e-4


def build_vae() -> AutoencoderKL:
    """Return an untrained VAE of 0.65 M parameters (factor 4, 4 latent channels, no attention)."""
    model_class: Any = AutoencoderKL  # its annotations allow one block only
    return model_class(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=SIZE_PX,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )


def pixels(images: np.ndarray) -> Tensor:
    """Turn uint8 (b, h, w, 3) into float (b, 3, h, w) in [-1, 1], channels last."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def train_vae(pool: Pool, work: Path, recipe: Recipe = RECIPE) -> AutoencoderKL:
    """Train on crops that mostly lie on the objects, with an L1 + gradient + MSE + small KL loss.

    The scaling factor is set so that the latents of the training scenes have a standard deviation of one.
    """
    torch.manual_seed(recipe.seed)
    vae = build_vae().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def step_loss(rng: np.random.Generator) -> Tensor:
        chosen = np.sort(rng.integers(0, len(pool), recipe.batch_size))
        images = pool.images[chosen]
        x = pixels(_crops(images, rng))
        posterior = vae.encode(x).latent_dist
        noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape, np.float32))
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        return _reconstruction(decoded.float(), x) + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()

    train(vae, step_loss, recipe, name="vae", checkpoint=work / "vae.safetensors")
    vae.register_to_config(scaling_factor=1 / _latent_std(vae, pool))
    return vae


def _crops(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut one 32 x 32 window out of each scene, four times in five near the middle, where the objects are."""
    middle = rng.integers(10, 23, (len(images), 2))
    anywhere = rng.integers(0, SIZE_PX - CROP_PX + 1, (len(images), 2))
    corners = np.where(rng.random((len(images), 1)) < 0.6, middle, anywhere)
    return np.stack([image[y : y + CROP_PX, x : x + CROP_PX] for image, (y, x) in zip(images, corners, strict=True)])


def _reconstruction(decoded: Tensor, x: Tensor) -> Tensor:
    difference = decoded - x
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return functional.l1_loss(decoded, x) + 0.5 * edges + 2 * difference.square().mean()


@torch.no_grad()
def _latent_std(vae: AutoencoderKL, pool: Pool) -> float:
    encoded: Any = vae.encode(pixels(pool.images[:512]))
    return float(encoded.latent_dist.mean.std())
