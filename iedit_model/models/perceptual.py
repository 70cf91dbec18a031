"""The perceptual features V(x * M) of Eq. 10: one VGG layer of a masked image, in three ways of comparing places.

Axis names: b = batch, H W = image height and width.
"""

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from iedit_model.errors import ConfigError
from iedit_model.masks import crop_and_resize, fill_outside, mask_boxes
from iedit_model.models.vgg import VGG
from iedit_model.training.config import MaskFill, PerceptualAlign

_LAYER = re.compile(r"(relu|conv)(\d+)_(\d+)")


def num_modules_up_to(features: nn.Sequential, layer: str) -> int:
    """Return how many modules of a VGG's ``features`` end with ``layer``: "relu3_3" is the third ReLU of block three.

    Raises:
        ConfigError: the name is not understood, or this network has no such layer.
    """
    if (match := _LAYER.fullmatch(layer)) is None:
        raise ConfigError(f"perc_layer {layer!r} is not understood; expected a name such as relu3_3 or conv4_2")
    kind, wanted = match[1], (int(match[2]), int(match[3]))
    block, convolution = 1, 0
    for index, module in enumerate(features):
        if isinstance(module, nn.MaxPool2d):
            block, convolution = block + 1, 0
        elif isinstance(module, nn.Conv2d):
            convolution += 1
        if (block, convolution) == wanted and isinstance(module, nn.ReLU if kind == "relu" else nn.Conv2d):
            return index + 1
    raise ConfigError(f"this VGG has no layer {layer}; it ends in block {block}")


class PerceptualFeatures(nn.Module):
    """A frozen VGG layer as V of Eq. 10; it stays in evaluation mode and computes in its weights' precision."""

    def __init__(
        self,
        vgg: VGG,
        *,
        layer: str = "relu3_3",
        align: PerceptualAlign = "none",
        fill: MaskFill = "grey",
        size_px: int | None = None,
        crop_margin: float = 0.25,
    ) -> None:
        """Freeze ``vgg`` and cut it off after ``layer``.

        Args:
            vgg: the network, with its own normalisation.
            layer: name of the layer, relu3_3 for instance.
            align: none returns the feature map of the whole frame; bbox_crop that of the square around the mask, so
                that an object elsewhere in the other image still meets its partner; gram the correlations of the
                channels, which have no places.
            fill: what stands outside the mask.
            size_px: side to which frames or crops are resized; None leaves frames as they are and gives crops the
                frame's shorter side.
            crop_margin: margin of ``bbox_crop``, as a share of the mask's longer side.

        Raises:
            ConfigError: the network has no such layer.
        """
        super().__init__()
        self.vgg = vgg.eval().requires_grad_(requires_grad=False)
        self._num_modules = num_modules_up_to(vgg.features, layer)
        self._align: PerceptualAlign = align
        self._fill: MaskFill = fill
        self._size_px = size_px
        self._crop_margin = crop_margin

    def train(self, mode: bool = True) -> "PerceptualFeatures":  # noqa: FBT001, FBT002 - torch's signature
        """Stay in evaluation mode."""
        del mode
        return super().train(mode=False)

    def forward(self, images: Float[Tensor, "b 3 H W"], mask: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b *features"]:
        """Return V(x * M) of images in [-1, 1], with gradients to them.

        Returns:
            (b, channels, height, width), or for gram (b, channels, channels).
        """
        masked = fill_outside(images, mask, fill=self._fill)
        if self._align == "bbox_crop":
            boxes = mask_boxes(mask, margin=self._crop_margin)
            masked = crop_and_resize(masked, boxes, size_px=self._size_px or min(images.shape[-2:]))
        elif self._size_px is not None:
            size = (self._size_px, self._size_px)
            masked = functional.interpolate(masked, size=size, mode="bilinear", antialias=True)
        dtype = next(self.vgg.parameters()).dtype
        with torch.autocast(images.device.type, enabled=False):
            features = self.vgg.feature_map(((masked + 1) / 2).to(dtype), self._num_modules)
        return _gram(features) if self._align == "gram" else features

    @torch.no_grad()
    def target(self, target_pixels: Float[Tensor, "b 3 H W"], target_mask: Float[Tensor, "b 1 H W"]) -> Tensor:
        """Return V(x_2 * M_2) without a gradient; it depends on nothing that is trained, so it can be cached."""
        return self(target_pixels, target_mask)


def _gram(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """Return the channels' inner products, divided by c h w (Johnson et al. 2016, Eq. 3)."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])
