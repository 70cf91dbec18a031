"""Feature networks for the distances between sets of images, each under a name that goes into the result's name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from iedit_model.metrics.checks import require_images
from iedit_model.metrics.errors import MetricInputError
from iedit_model.models.vgg import VGG


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A named function from images to features."""

    name: str
    """Which network, layer and preprocessing: distances compare only under one name."""
    num_features: int
    """Features an image."""
    extract: Callable[[Tensor], Tensor]
    """Maps (b, 3, h, w) in [0, 1] to (b, num_features)."""

    def __post_init__(self) -> None:
        """Refuse a network without a name or features.

        Raises:
            MetricInputError: the name is empty or the number of features is no count.
        """
        if not self.name or self.num_features < 1:
            raise MetricInputError(
                f"a feature network needs a name and features, got {self.name!r}, {self.num_features}"
            )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of one batch, (b, num_features) float64 on the CPU.

        Raises:
            MetricInputError: the images are no images in [0, 1], or the network returns another shape.
        """
        features = self.extract(require_images(images, name="images"))
        if tuple(features.shape) != (len(images), self.num_features):
            raise MetricInputError(
                f"{self.name} returned {tuple(features.shape)}, expected {(len(images), self.num_features)}"
            )
        return features.double().cpu()


def vgg_network(vgg: VGG, *, name: str = "vgg16-pooled") -> FeatureNetwork:
    """Return the mean of a VGG's last feature map as a feature network: the stand-in where Inception is not at hand."""
    device = next(vgg.parameters()).device
    return FeatureNetwork(
        name=name, num_features=vgg.num_features, extract=lambda images: vgg.pooled(images.float().to(device))
    )
