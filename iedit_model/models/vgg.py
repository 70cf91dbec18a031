"""VGG features for the perceptual loss (Eq. 10) and for FID where no Inception weights are at hand.

A VGG is a folder as the hub's ``timm/vgg16.tv_in1k`` is: ``config.json`` and ``model.safetensors`` with torchvision's
parameter names. The layers are named by the architecture (``vgg16``) or written out under ``layers``.
"""

from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from iedit_model.errors import WeightsError
from iedit_model.models.source import ModelSource, frozen, loading, model_folder, read_model_json

_STANDARD = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}


class VGG(nn.Module):
    """The convolutional part of a VGG and a linear classifier on its mean features."""

    mean: Tensor
    std: Tensor

    def __init__(self, layers: list[int | str], num_classes: int, mean: list[float], std: list[float]) -> None:
        """Build an untrained network.

        Args:
            layers: channels of each convolution, "M" for a pooling, as torchvision writes them.
            num_classes: outputs of the classifier.
            mean: channel means of images in [0, 1].
            std: channel standard deviations.
        """
        super().__init__()
        self.features = make_layers([layer if layer == "M" else int(layer) for layer in layers])
        self.num_features = max(int(layer) for layer in layers if layer != "M")
        self.head = nn.ModuleDict({"fc": nn.Linear(self.num_features, num_classes)})
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits (b, classes) of images in [0, 1], (b, 3, h, w)."""
        return self.head["fc"](self.pooled(images))

    def feature_map(self, images: Tensor, num_layers: int | None = None) -> Tensor:
        """Return the output of the first ``num_layers`` modules (all by default) on images in [0, 1]."""
        return self.features[:num_layers]((images - self.mean) / self.std)

    def pooled(self, images: Tensor) -> Tensor:
        """Return the mean of the last feature map over space, (b, channels)."""
        return self.feature_map(images).mean(dim=(2, 3))


def vgg_from_config(config: dict[str, Any]) -> VGG:
    """Build an untrained VGG from the content of a ``config.json``.

    Raises:
        KeyError: the architecture is no VGG without batch norm and ``layers`` is missing.
    """
    layers = config.get("layers") or cfgs[_STANDARD[config["architecture"]]]
    preprocessing = config["pretrained_cfg"]
    return VGG(list(layers), config["num_classes"], preprocessing["mean"], preprocessing["std"])


def load_vgg(source: ModelSource) -> VGG:
    """Return the VGG of a folder or hub id, frozen, fp32. A classifier of another shape than ours is left out.

    Raises:
        WeightsError: the model cannot be had, is no VGG, or a weight is missing or not finite.
    """
    folder = model_folder(source)
    with loading(source, "a VGG"):
        model = vgg_from_config(read_model_json(folder, "config.json"))
        state = load_file(folder / "model.safetensors")
        wanted = {key: value.float() for key, value in state.items() if key.startswith("features.")}
        if (weight := state.get("head.fc.weight")) is not None and weight.shape == model.head["fc"].weight.shape:
            wanted |= {"head.fc.weight": weight.float(), "head.fc.bias": state["head.fc.bias"].float()}
        missing = model.load_state_dict(wanted, strict=False).missing_keys
        if lacking := [key for key in missing if key.startswith("features.")]:
            raise WeightsError(f"{folder}/model.safetensors lacks {lacking[0]} and {len(lacking) - 1} more")
    return frozen(model, origin=folder / "model.safetensors")
