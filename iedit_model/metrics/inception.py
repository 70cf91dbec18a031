"""The Inception network of FID, with torchvision's blocks and the published weights.

FID's weights come from TensorFlow's Inception of 2015-12-05. Against torchvision's Inception v3 it differs in three
places: average pools do not count the padding, the last block pools by maximum, and there are 1008 classes (unused
here). Both published files have torchvision's parameter names: ``pt_inception-2015-12-05-6726825d.pth`` (pytorch-fid,
the paper's tool) and ``weights-inception-2015-12-05-6726825d.pth`` (torch-fidelity, torchmetrics).
"""

from pathlib import Path

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

from iedit_model.metrics.features import FeatureNetwork
from iedit_model.metrics.weights_file import load_weights, read_weights

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
