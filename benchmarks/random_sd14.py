"""Stable Diffusion v1.4, CLIP ViT-B/32 and VGG16 as model folders with random weights: the real sizes, no downloads."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import miniature
from miniature.family.latent_diffusion import ldm_pipeline

WEIGHTS = Path(miniature.__file__).parent / "weights"
_CLIP_B32: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def write_random_sd14(folder: Path) -> dict[str, Path]:
    """Write the three folders, some 5 GB, and return them by the names of ``TrainRunConfig``'s models."""
    folders = {name: folder / name for name in ("model", "clip", "perceptual")}
    ldm_pipeline(**random_sd14()).save_pretrained(folders["model"])
    _write_clip(folders["clip"])
    _write_vgg(folders["perceptual"])
    return folders


def random_sd14() -> dict[str, Any]:
    """Return VAE, text encoder, tokenizer and UNet by name, on torch's default device, always with the same weights."""
    torch.manual_seed(0)
    vae: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
    }
    unet: dict[str, Any] = {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    }
    text: Any = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408
    )
    return {
        "vae": AutoencoderKL(**vae),
        "text_encoder": CLIPTextModel(text),
        # Its few words serve as well: what counts is the 77 tokens.
        "tokenizer": CLIPTokenizer.from_pretrained(WEIGHTS / "ldm" / "tokenizer", model_max_length=77),
        "unet": UNet2DConditionModel(**unet),
    }


def _write_clip(folder: Path) -> None:
    from open_clip import CLIP

    folder.mkdir(parents=True)
    preprocessing = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    config = {"model_cfg": {**_CLIP_B32, "text_cfg": {**_CLIP_B32["text_cfg"], "hf_tokenizer_name": "local"}}}
    (folder / "open_clip_config.json").write_text(json.dumps({**config, "preprocess_cfg": preprocessing}))
    save_file(CLIP(**_CLIP_B32).state_dict(), folder / "open_clip_model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(WEIGHTS / "clip" / name, folder / name)


def _write_vgg(folder: Path) -> None:
    from iedit_model.models.vgg import vgg_from_config

    folder.mkdir(parents=True)
    config = {"architecture": "vgg16", "num_classes": 1000, "pretrained_cfg": _IMAGENET}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(vgg_from_config(config).state_dict(), folder / "model.safetensors")
