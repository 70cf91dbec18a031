"""The perceptual network of the family: a narrow VGG that names the noun."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from iedit_model.models.vgg import VGG, vgg_from_config
from miniature.family.loop import Recipe, train
from miniature.family.pool import Pool
from miniature.vocabulary import BACKGROUNDS, COLOURS, NOUNS
from miniature.world import SIZE_PX

RECIPE = Recipe(
    num_steps=2000, batch_size=64, learning_rate=1.5e-3, weight_decay=0.02, warmup_steps=200, ema_decay=0.998, seed=6
)
CONFIG: dict[str, Any] = {
    "architecture": "vgg",
    "layers": [16, 16, "M", 32, 32, "M", 64, 64, 64, "M", 96, 96, "M"],
    "num_classes": len(NOUNS),
    "pretrained_cfg": {"input_size": [3, SIZE_PX, SIZE_PX], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "label_names": list(NOUNS),
}


class _Trainable(nn.Module):
    """The network with two heads more, colour and ground, so that its features carry both."""

    def __init__(self, vgg: VGG) -> None:
        super().__init__()
        self.vgg = vgg
        self.colour = nn.Linear(vgg.num_features, len(COLOURS))
        self.background = nn.Linear(vgg.num_features, len(BACKGROUNDS))


def train_perceptual(pool: Pool, work: Path, recipe: Recipe = RECIPE) -> VGG:
    """Train as a classifier of scenes with one object."""
    torch.manual_seed(recipe.seed)
    model = _Trainable(vgg_from_config(CONFIG).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    _initialise(model)
    single = np.flatnonzero(~pool.masks[:, 1].any(axis=1))

    def step_loss(rng: np.random.Generator) -> Tensor:
        chosen = rng.choice(single, recipe.batch_size)
        images = torch.from_numpy(pool.images[chosen]).permute(0, 3, 1, 2).float().div_(255)
        features = model.vgg.pooled(images.contiguous(memory_format=torch.channels_last))
        scenes = [pool.scene(int(index)) for index in chosen]
        labels = torch.tensor(
            [_labels(scene.objects[0].noun, scene.objects[0].colour, scene.background) for scene in scenes]
        )
        heads = (model.vgg.head["fc"], model.colour, model.background)
        losses = [functional.cross_entropy(head(features).float(), labels[:, i]) for i, head in enumerate(heads)]
        return torch.stack(losses).sum()

    train(model, step_loss, recipe, name="perceptual", checkpoint=work / "perceptual.safetensors")
    return model.vgg


def _labels(noun: str, colour: str, background: str) -> tuple[int, int, int]:
    return NOUNS.index(noun), tuple(COLOURS).index(colour), tuple(BACKGROUNDS).index(background)


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def save_perceptual(model: VGG, folder: Path) -> None:
    """Write ``config.json`` and fp16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
