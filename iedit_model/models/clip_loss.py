"""CLIP as a differentiable loss network on images (Eq. 5 and 11): preprocessing in torch, gradients to the pixels.

CLIP's own processors work on PIL images and cut the gradient. Here the resize is antialiased bicubic, as PIL's is, and
nothing is clamped: a clamped pixel would have no gradient to bring it back. Axis names: b = batch, H W = image height
and width, s = CLIP's input size, e = its embedding.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from open_clip import CLIP, CustomTextCLIP, get_model_preprocess_cfg
from torch import Tensor, nn
from torch.nn import functional

from iedit_model.errors import ConfigError
from iedit_model.models.clip import read_open_clip
from iedit_model.models.source import ModelSource


def clip_preprocess(
    images: Float[Tensor, "b 3 H W"],
    *,
    size_px: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    squash: bool = False,
) -> Float[Tensor, "b 3 {size_px} {size_px}"]:
    """Turn images in [-1, 1] into CLIP's normalised input, differentiably and without clamping.

    Args:
        images: decoded images; values a little outside [-1, 1] are kept.
        size_px: side of CLIP's input.
        mean: channel means of images in [0, 1].
        std: channel standard deviations.
        interpolation: bicubic or bilinear, always antialiased.
        squash: bring both sides to ``size_px``; else the shorter one, and cut the middle of the longer one out.
    """
    height, width = images.shape[-2:]
    shorter = min(height, width)
    # Rounded down, as torchvision's Resize does for open_clip.
    size = (size_px, size_px) if squash else (int(size_px * height / shorter), int(size_px * width / shorter))
    resized = (images + 1) / 2
    if size != (height, width):
        resized = functional.interpolate(resized, size=size, mode=interpolation, antialias=True, align_corners=False)
    top, left = round((size[0] - size_px) / 2), round((size[1] - size_px) / 2)
    cropped = resized[..., top : top + size_px, left : left + size_px]
    return (cropped - cropped.new_tensor(mean).view(1, 3, 1, 1)) / cropped.new_tensor(std).view(1, 3, 1, 1)


class DifferentiableClip(nn.Module):
    """A frozen open_clip model that embeds images in [-1, 1] with gradients, and texts without.

    It stays in evaluation mode whatever its parent does (its batch norms would otherwise learn), and computes in the
    precision of its own weights, autocast or not: fp16 gradients through CLIP are known to overflow.
    """

    def __init__(
        self, model: CLIP | CustomTextCLIP, tokenizer: Callable[[list[str]], Tensor], *, max_cached_texts: int = 4096
    ) -> None:
        """Freeze ``model`` and read its preprocessing.

        Args:
            model: an open_clip model; its ``visual.preprocess_cfg`` says size, mean, std and resize.
            tokenizer: turns texts into token ids (b, context).
            max_cached_texts: text embeddings that are kept; the least recently used goes first.

        Raises:
            ConfigError: the preprocessing is one that ``clip_preprocess`` does not know.
        """
        super().__init__()
        self.model = model.eval().requires_grad_(requires_grad=False)
        self._tokenizer = tokenizer
        self._text_cache: OrderedDict[str, Tensor] = OrderedDict()
        self._max_cached_texts = max_cached_texts
        self._preprocessing = _preprocessing(get_model_preprocess_cfg(model))

    @property
    def size_px(self) -> int:
        """Side of the model's input."""
        return self._preprocessing["size_px"]

    @property
    def mean(self) -> tuple[float, ...]:
        """Channel means of images in [0, 1] that the normalisation takes off."""
        return self._preprocessing["mean"]

    def train(self, mode: bool = True) -> "DifferentiableClip":  # noqa: FBT001, FBT002 - torch's signature
        """Stay in evaluation mode."""
        del mode
        return super().train(mode=False)

    def preprocess(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 s s"]:
        """Bring images in [-1, 1] to the model's input, differentiably."""
        return clip_preprocess(images, **self._preprocessing)

    def embed_preprocessed(self, pixel_values: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b e"]:
        """Return unit embeddings (fp32 or better) of preprocessed images, with gradients to them."""
        dtype = next(self.model.parameters()).dtype
        with torch.autocast(pixel_values.device.type, enabled=False):
            embeds = self.model.encode_image(pixel_values.to(dtype))
        return _unit(embeds)

    def embed_images(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e"]:
        """Return unit embeddings of images in [-1, 1], with gradients to them."""
        return self.embed_preprocessed(self.preprocess(images))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "b e"]:
        """Return unit embeddings of texts, detached; each text is encoded once while it is in the cache."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._text_cache]
        known = {text: self._text_cache[text] for text in texts if text in self._text_cache}
        if missing:
            device = next(self.model.parameters()).device
            with torch.autocast(device.type, enabled=False):
                embeds = _unit(self.model.encode_text(self._tokenizer(missing).to(device)))
            known |= dict(zip(missing, embeds, strict=True))
        for text in texts:
            self._text_cache[text] = known[text]
            self._text_cache.move_to_end(text)
        while len(self._text_cache) > self._max_cached_texts:
            self._text_cache.popitem(last=False)
        return torch.stack([known[text] for text in texts])


def load_differentiable_clip(source: ModelSource) -> DifferentiableClip:
    """Return an open_clip model as a loss network, fp32 on the CPU; raises what ``read_open_clip`` raises."""
    loaded = read_open_clip(source)
    return DifferentiableClip(loaded.model, loaded.tokenizer)


def _unit(embeds: Tensor) -> Tensor:
    return functional.normalize(embeds.to(torch.promote_types(embeds.dtype, torch.float32)), dim=-1)


def _preprocessing(config: Mapping[str, Any]) -> dict[str, Any]:
    size = config["size"]
    sides = {size} if isinstance(size, int) else set(size)
    resize_mode, interpolation = config.get("resize_mode", "shortest"), config.get("interpolation", "bicubic")
    if len(sides) != 1 or resize_mode not in ("shortest", "squash") or interpolation not in ("bicubic", "bilinear"):
        raise ConfigError(
            f"CLIP preprocessing with size={size}, resize_mode={resize_mode!r}, interpolation={interpolation!r} is not "
            "covered; expected a square size, shortest or squash, bicubic or bilinear"
        )
    return {
        "size_px": sides.pop(),
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "interpolation": interpolation,
        "squash": resize_mode == "squash",
    }
