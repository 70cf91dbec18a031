"""Models of the real classes, small enough to run in milliseconds, with fixed random weights.

Latents are 4 x 8 x 8, images 3 x 16 x 16, prompts 5 tokens of 12 numbers, CLIP's embeddings 8.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import open_clip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from open_clip.model import set_model_preprocess_cfg
from torch import Tensor

Built = TypeVar("Built")
LATENT_SHAPE = (4, 8, 8)
IMAGE_PX = 16
PROMPT_SHAPE = (5, 12)
EMBED_DIM = 8
CLIP_MODEL: dict[str, Any] = {
    "embed_dim": EMBED_DIM,
    "vision_cfg": {"image_size": 12, "patch_size": 4, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 300, "width": 16, "heads": 2, "layers": 1},
}
CLIP_PREPROCESSING: dict[str, Any] = {
    "size": 12,
    "mode": "RGB",
    "mean": (0.48, 0.46, 0.41),
    "std": (0.27, 0.26, 0.28),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


def seeded(build: Callable[[], Built], seed: int) -> Built:
    """Build something whose weights depend on the seed alone and leave torch's global generator as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def tiny_unet(seed: int = 0) -> UNet2DConditionModel:
    """A UNet with attention in its first down block, its mid block and its last up block."""
    return seeded(
        lambda: UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=PROMPT_SHAPE[1],
            attention_head_dim=4,
            norm_num_groups=8,
        ),
        seed,
    )


def tiny_vae(seed: int = 1) -> AutoencoderKL:
    """A VAE that halves both sides."""
    config: dict[str, Any] = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": IMAGE_PX,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "scaling_factor": 0.4,
    }
    return seeded(lambda: AutoencoderKL(**config), seed)


def tiny_clip(seed: int = 2) -> open_clip.CLIP:
    """A CLIP model with a two-tower transformer for 12 x 12 images."""
    model = seeded(
        lambda: open_clip.CLIP(CLIP_MODEL["embed_dim"], CLIP_MODEL["vision_cfg"], CLIP_MODEL["text_cfg"]), seed
    )
    set_model_preprocess_cfg(model, CLIP_PREPROCESSING)
    return model


def byte_tokenizer(texts: list[str]) -> Tensor:
    """Tokens of a text are its first bytes, then the highest id, which open_clip takes as the end."""
    rows = [[*text.encode()[:7], 299] for text in texts]
    return torch.tensor([row + [0] * (8 - len(row)) for row in rows])
