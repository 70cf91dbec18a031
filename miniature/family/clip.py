"""The two CLIP models of the family: one for retrieval and the loss, one held out for scoring."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from miniature.family.loop import Recipe, train
from miniature.family.pool import Pool
from miniature.family.tokenizers import CONTEXT_LENGTH, build_clip_tokenizer
from miniature.world import SIZE_PX, Scene

CLIP_RECIPE = Recipe(
    num_steps=2400, batch_size=128, learning_rate=1.5e-3, weight_decay=0.05, warmup_steps=150, ema_decay=0.998, seed=2
)
CLIP_METRIC_RECIPE = Recipe(
    num_steps=2400, batch_size=128, learning_rate=1.5e-3, weight_decay=0.05, warmup_steps=150, ema_decay=0.998, seed=3
)

_TEXT = {"context_length": CONTEXT_LENGTH, "width": 96, "heads": 3, "layers": 2, "hf_tokenizer_name": "local"}
CLIP_MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIZE_PX, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": _TEXT,
}
CLIP_METRIC_MODEL: dict[str, Any] = {
    "embed_dim": 96,
    "vision_cfg": {"image_size": SIZE_PX, "layers": [2, 1, 2, 1], "width": 14},
    "text_cfg": {**_TEXT, "width": 64, "heads": 2},
}
# hf_tokenizer_name only has to be non-empty: with a local folder open_clip reads the tokenizer from the folder itself.

_MEAN, _STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
_CUT_OUT_SHARE = 0.15
"""Share of training images that show one object on a flat ground, as the localised loss (Eq. 11) will."""


def build_clip(model_config: dict[str, Any]) -> open_clip.CLIP:
    """Return an untrained open_clip model whose text tower fits the family's tokenizer."""
    text = {**model_config["text_cfg"], "vocab_size": len(build_clip_tokenizer())}
    model_class: Any = open_clip.CLIP  # its annotations forbid the plain dicts that it is always given
    return model_class(model_config["embed_dim"], model_config["vision_cfg"], text)


def train_clip(pool: Pool, model_config: dict[str, Any], recipe: Recipe, *, name: str, work: Path) -> open_clip.CLIP:
    """Train with the symmetric contrastive loss; images whose captions agree count as partners of one another."""
    torch.manual_seed(recipe.seed)
    tokenizer = build_clip_tokenizer()
    model = build_clip(model_config)
    model.visual.to(memory_format=torch.channels_last)

    def step_loss(rng: np.random.Generator) -> Tensor:
        images, texts = _batch(pool, rng, recipe.batch_size)
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        image_embeds, text_embeds, scale = model(normalised(images), tokens)
        logits = scale.clamp(max=100) * image_embeds.float() @ text_embeds.float().T
        _, group = np.unique(texts, return_inverse=True)
        same = torch.from_numpy(group[:, None] == group[None, :]).float()
        target = same / same.sum(dim=1, keepdim=True)
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2

    train(model, step_loss, recipe, name=name, checkpoint=work / f"{name}.safetensors")
    return model


def normalised(images: np.ndarray) -> Tensor:
    """Turn uint8 (b, h, w, 3) into CLIP's normalised (b, 3, h, w), channels last."""
    scaled = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return ((scaled - mean) / std).contiguous(memory_format=torch.channels_last)


def _batch(pool: Pool, rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[str]]:
    chosen = rng.integers(0, len(pool), size)
    images, texts = pool.images[np.sort(chosen)], []
    for image, index in zip(images, np.sort(chosen), strict=True):
        scene = pool.scene(int(index))
        if rng.random() < _CUT_OUT_SHARE:
            position = int(rng.integers(len(scene.objects)))
            image[~pool.mask(int(index), position)] = rng.choice((0, 127, 255))
            texts.append(_object_text(scene, position, rng))
        else:
            captions = scene.captions()
            texts.append(captions[int(rng.choice(len(captions), p=(0.4, 0.1, 0.1, 0.1, 0.2, 0.1)))])
    noise = rng.normal(0, rng.uniform(0, 8), images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8), texts


def _object_text(scene: Scene, position: int, rng: np.random.Generator) -> str:
    thing = scene.objects[position]
    return (thing.phrase, thing.noun)[int(rng.integers(2))]


def save_clip(model: nn.Module, model_config: dict[str, Any], folder: Path) -> None:
    """Write the folder that ``open_clip.create_model('local-dir:...')`` reads, tokenizer included; weights in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_clip_tokenizer()
    config = {
        "model_cfg": {**model_config, "text_cfg": {**model_config["text_cfg"], "vocab_size": len(tokenizer)}},
        "preprocess_cfg": {
            "size": SIZE_PX,
            "mean": list(_MEAN),
            "std": list(_STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(folder)
    state = {key: _half(value) for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def _half(value: Tensor) -> Tensor:
    return (value.half() if value.is_floating_point() else value).contiguous()
