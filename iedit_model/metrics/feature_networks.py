"""Networks whose features metrics compare: published weights read safely, a VGG, and the Inception of FID.

FID's weights belong to TensorFlow's Inception of 2015-12-05. Against torchvision's Inception v3 it differs in three
places: average pools do not count the padding, the last block pools by maximum, and there are 1008 classes (unused
here). Both published files have torchvision's parameter names: ``pt_inception-2015-12-05-6726825d.pth`` (pytorch-fid,
the paper's tool) and ``weights-inception-2015-12-05-6726825d.pth`` (torch-fidelity, torchmetrics).
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - only the exception; torch reads with weights_only

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import Inception3
from torchvision.models.inception import (
    BasicConv2d,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

from iedit_model.metrics.checks import require_images
from iedit_model.metrics.errors import MetricInputError, MetricWeightsError
from iedit_model.models.vgg import VGG

MAX_BYTES = 2**30
"""Largest weights file read; the largest in use (VGG16 with its classifier) has 553 MB."""
# What the two readers raise on damaged bytes: torch's restricted one interprets them and trips in several ways.
_UNREADABLE = (
    SafetensorError,
    UnpicklingError,
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
    struct.error,
    AssertionError,
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file, or of a ``.pth`` or ``.pt`` file as the networks are published.

    The latter pass torch's restricted reader (``weights_only``), which builds tensors and containers and runs nothing.

    Raises:
        MetricWeightsError: the file is missing, too large, unreadable, or holds anything but finite tensors by
            name.
    """
    if not path.is_file():
        raise MetricWeightsError(f"{path} is no file: put the published weights there")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise MetricWeightsError(f"{path} has {size} bytes, at most {MAX_BYTES} are read")
    try:
        state = _read(path)
    except _UNREADABLE as error:
        raise MetricWeightsError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise MetricWeightsError(f"{path} holds something else than tensors by name")
    if damaged := [key for key, value in state.items() if not bool(torch.isfinite(value).all())]:
        raise MetricWeightsError(f"{path} has values that are not finite in {damaged[0]}")
    return {str(key): value.float() if value.is_floating_point() else value for key, value in state.items()}


def load_weights(model: nn.Module, state: dict[str, Tensor], *, origin: Path, optional: str = r"(?!)") -> None:
    """Load ``state`` into ``model``; tensors that the model does not have are left out.

    Args:
        model: what receives the tensors.
        state: tensors by the model's parameter names.
        origin: the file they came from, for the message.
        optional: regular expression of names that may be missing; nothing may by default.

    Raises:
        MetricWeightsError: a tensor is missing or has another shape.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state and not re.search(optional, key)]
    if missing:
        raise MetricWeightsError(f"{origin} lacks {missing[0]} and {len(missing) - 1} more: weights of another network")
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if wrong:
        raise MetricWeightsError(
            f"{origin} has {wrong[0]} as {tuple(state[wrong[0]].shape)}, expected {tuple(own[wrong[0]].shape)}"
        )
    model.load_state_dict({key: state[key] for key in own if key in state}, strict=False)


def _read(path: Path) -> object:
    if path.suffix.lower() == ".safetensors":
        return load_file(path)
    if path.suffix.lower() in {".pth", ".pt"}:
        return torch.load(path, map_location="cpu", weights_only=True)
    raise ValueError(f"the name ends in {path.suffix!r}, expected .safetensors, .pth or .pt")


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
        if not torch.isfinite(features).all():
            raise MetricInputError(f"{self.name} gave features that are not finite in {features.dtype}: take fp32")
        return features.double().cpu()


def vgg_network(vgg: VGG, *, name: str = "vgg16-pooled") -> FeatureNetwork:
    """Return the mean of a VGG's last feature map as a feature network: the stand-in where Inception is not at hand."""
    device = next(vgg.parameters()).device
    return FeatureNetwork(
        name=name, num_features=vgg.num_features, extract=lambda images: vgg.pooled(images.float().to(device))
    )


NUM_FEATURES = 2048
INPUT_PX = 299


class _PoolsWithoutPadding(nn.Module):
    """Mixin: the pool branch, which torchvision's blocks put last, averages over real pixels alone."""

    branch_pool: nn.Module

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)  # pyright: ignore[reportAttributeAccessIssue] - of the torchvision block
        pooled = functional.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)
        return [*others, self.branch_pool(pooled)]


class _BlockA(_PoolsWithoutPadding, InceptionA): ...


class _BlockC(_PoolsWithoutPadding, InceptionC): ...


class _BlockE(_PoolsWithoutPadding, InceptionE): ...


class _LastBlock(InceptionE):
    """The last block: its pool branch takes the maximum."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(functional.max_pool2d(x, kernel_size=3, stride=1, padding=1))]


def build_fid_inception() -> Inception3:
    """Return FID's network untrained, in evaluation mode, with its pooled features (b, 2048) as output."""
    blocks = [BasicConv2d, _BlockA, InceptionB, _BlockC, InceptionD, _BlockE, InceptionAux]
    model = Inception3(aux_logits=False, transform_input=False, init_weights=False, inception_blocks=blocks)
    model.Mixed_7c = _LastBlock(2048)
    model.add_module("dropout", nn.Identity())
    model.add_module("fc", nn.Identity())
    return model.eval().requires_grad_(requires_grad=False)


def inception_features(model: Inception3, images: Tensor) -> Tensor:
    """Return pooled features of images in [0, 1] as pytorch-fid computes them, (b, 2048).

    That is: bilinear to 299 x 299 without antialiasing, then scaled to [-1, 1].
    """
    pixels = images.to(next(model.parameters()))
    resized = functional.interpolate(pixels, (INPUT_PX, INPUT_PX), mode="bilinear", align_corners=False)
    return model(2 * resized - 1)


def load_inception_network(path: Path, *, device: str = "cpu") -> FeatureNetwork:
    """Load FID's network from a published weights file, named ``inception-pytorch-fid`` for its resize and scale.

    Args:
        path: a .safetensors or .pth file with torchvision's parameter names.
        device: where it runs.

    Raises:
        MetricWeightsError: the file is missing, unreadable or of another network.
    """
    model = build_fid_inception()
    load_weights(model, read_weights(path), origin=path, optional=r"\.num_batches_tracked$")
    model.to(device)
    return FeatureNetwork(
        name="inception-pytorch-fid",
        num_features=NUM_FEATURES,
        extract=lambda images: inception_features(model, images),
    )
