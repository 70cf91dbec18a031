"""LPIPS (Zhang et al. 2018, arXiv:1801.03924) v0.1, where the weights of its trunk are at hand.

The linear heads come with torchmetrics; the trunk is a published ImageNet network of torchvision that has to lie in a
folder. State the network with every number: ``vgg``, ``alex`` and ``squeeze`` (PIE-Bench's) do not compare.
"""

from importlib.metadata import distribution
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import alexnet, squeezenet1_1, vgg16

from iedit_model.metrics.checks import require_image_pair, require_masks
from iedit_model.metrics.errors import MetricWeightsError
from iedit_model.metrics.feature_networks import load_weights, read_weights
from iedit_model.metrics.sides import sides, weighted_mean

Trunk = Literal["vgg", "alex", "squeeze"]

_BUILDERS = {"vgg": vgg16, "alex": alexnet, "squeeze": squeezenet1_1}
# The layers after which features are compared: the end of each slice of torchvision's ``features``.
_SLICE_ENDS = {"vgg": (4, 9, 16, 23, 30), "alex": (2, 5, 8, 10, 12), "squeeze": (2, 5, 8, 10, 11, 12, 13)}
_CHANNELS = {
    "vgg": (64, 128, 256, 512, 512),
    "alex": (64, 192, 384, 256, 256),
    "squeeze": (64, 128, 256, 384, 384, 512, 512),
}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPSILON = 1e-8
# Its files alone are used; importing the package would import matplotlib's pyplot, among much else.
_HEADS_FOLDER = Path(str(distribution("torchmetrics").locate_file("torchmetrics/functional/image/lpips_models")))


class Lpips(nn.Module):
    """The distance of unit features of a trunk, weighed by one linear head a slice."""

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Trunk) -> None:
        """Build the network without usable weights; ``load_lpips`` fills it.

        Args:
            trunk: which ImageNet network sees the images.
        """
        super().__init__()
        self.trunk: Trunk = trunk
        # The classifiers of these networks hold most of their parameters; on the meta device they cost nothing.
        with torch.device("meta"):
            layers = cast("nn.Sequential", _BUILDERS[trunk](weights=None).features)
        self.features = layers[: _SLICE_ENDS[trunk][-1]].to_empty(device="cpu")
        self.heads = nn.ModuleList(nn.Conv2d(count, 1, 1, bias=False) for count in _CHANNELS[trunk])
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)

    @property
    def num_slices(self) -> int:
        """How many layers are compared."""
        return len(self.heads)

    @torch.no_grad()
    def forward(self, source_images: Tensor, edited_images: Tensor) -> Tensor:
        """Return the distance of each pair, (b,) float64.

        Args:
            source_images: (b, 3, h, w) in [0, 1]; scaled to the published [-1, 1] here.
            edited_images: the same.

        Raises:
            MetricInputError: shapes, types or ranges do not fit.
        """
        maps = self._slice_maps(*require_image_pair(source_images, edited_images))
        return torch.stack([values.double().mean(dim=(1, 2, 3)) for values in maps]).sum(dim=0).cpu()

    @torch.no_grad()
    def distance_map(self, source_images: Tensor, edited_images: Tensor) -> Tensor:
        """Return the distance at every pixel, each slice enlarged bilinearly (the published "spatial" mode).

        Returns:
            (b, h, w) float64.

        Raises:
            MetricInputError: shapes, types or ranges do not fit.
        """
        size = source_images.shape[2:]
        maps = self._slice_maps(*require_image_pair(source_images, edited_images))
        enlarged = [functional.interpolate(m, size=size, mode="bilinear", align_corners=False).double() for m in maps]
        return torch.stack(enlarged).sum(dim=0).squeeze(1).cpu()

    def masked(self, source_images: Tensor, edited_images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Average the distance map inside and outside of the masks.

        Receptive fields reach over the mask's edge, so the two sides leak into each other.

        Returns:
            ``lpips_map_mean_inside`` and ``lpips_map_mean_outside``, (b,) float64, NaN where the weight is empty.

        Raises:
            MetricInputError: shapes, types or ranges do not fit.
        """
        inside = require_masks(masks, source_images).cpu()
        distances = self.distance_map(source_images, edited_images)
        return {f"lpips_map_mean_{side}": weighted_mean(distances, weight) for side, weight in sides(inside)}

    def _slice_maps(self, source: Tensor, edited: Tensor) -> list[Tensor]:
        pairs = zip(self._unit_features(source), self._unit_features(edited), self.heads, strict=True)
        return [head((first - second) ** 2) for first, second, head in pairs]

    def _unit_features(self, images: Tensor) -> list[Tensor]:
        values = (2 * images.to(self.shift) - 1 - self.shift) / self.scale
        features, start = [], 0
        for end in _SLICE_ENDS[self.trunk]:
            values = self.features[start:end](values)
            features.append(values / torch.sqrt(_EPSILON + (values**2).sum(dim=1, keepdim=True)))
            start = end
        return features


def load_lpips(folder: Path, *, trunk: Trunk = "vgg", device: str = "cpu") -> Lpips:
    """Load LPIPS from a folder that holds torchvision's published weights of the trunk.

    Args:
        folder: holds ``vgg16-*.pth`` (or the ``model.safetensors`` of a VGG16 folder), ``alexnet-*.pth`` or
            ``squeezenet1_1-*.pth``; ``.safetensors`` will do as well. A file ``vgg.pth``, ``alex.pth`` or
            ``squeeze.pth`` beside it replaces torchmetrics' heads.
        trunk: which of the three.
        device: where it runs.

    Raises:
        MetricWeightsError: a file is missing, there are several trunks, or one is unreadable or of another network.
    """
    model = Lpips(trunk)
    path = _trunk_file(folder, trunk)
    state = {key.removeprefix("features."): value for key, value in read_weights(path).items()}
    load_weights(model.features, state, origin=path)
    own_heads = folder / f"{trunk}.pth"
    path = own_heads if own_heads.is_file() else _HEADS_FOLDER / own_heads.name
    names = {f"lin{index}.model.1.weight": f"{index}.weight" for index in range(model.num_slices)}
    heads = {names[key]: value for key, value in read_weights(path).items() if key in names}
    load_weights(model.heads, heads, origin=path)
    return model.to(device).eval().requires_grad_(requires_grad=False)


def _trunk_file(folder: Path, trunk: Trunk) -> Path:
    stem = _BUILDERS[trunk].__name__
    patterns = [f"{stem}-*.safetensors", f"{stem}-*.pth", *(["model.safetensors"] if trunk == "vgg" else [])]
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if len(found) != 1:
        raise MetricWeightsError(
            f"{folder} holds {len(found)} files named {' or '.join(patterns)}; LPIPS needs exactly one: "
            "torchvision's published ImageNet weights"
        )
    return found[0]
