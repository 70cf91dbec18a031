"""Embeds images and texts with an open_clip model, for ``clip_score`` and ``cmmd``."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import to_pil_image

from iedit_model.metrics.checks import require_images
from iedit_model.metrics.errors import MetricInputError

if TYPE_CHECKING:
    from open_clip import CLIP, CustomTextCLIP

PUBLISHED_PREFIX = "A photo depicts "
"""What the published CLIPScore puts in front of a caption; torchmetrics and PIE-Bench put nothing there, nor do we
unless asked."""


@torch.no_grad()
def embed_images(model: "CLIP | CustomTextCLIP", images: Tensor, *, batch_size: int = 64) -> Tensor:
    """Return unit image embeddings, (b, d) fp32 on the CPU.

    The images pass through open_clip's own transform as 8-bit PIL images, as in the published CLIPScore: PIL's
    antialiased bicubic filter is part of the number.

    Args:
        model: an open_clip model in evaluation mode, with the ``preprocess_cfg`` that open_clip's factory sets.
        images: (b, 3, h, w) in [0, 1]; rounded to 8 bits, as a saved picture is.
        batch_size: images in one forward pass.

    Raises:
        MetricInputError: there are no images or they are none, the batch size is no count, or the model is in
            training mode.
    """
    from open_clip import get_model_preprocess_cfg
    from open_clip.transform import PreprocessCfg, image_transform_v2

    require_images(images, name="images")
    _require_ready(model, batch_size)
    if not len(images):
        raise MetricInputError("there are no images to embed")
    transform = image_transform_v2(PreprocessCfg(**get_model_preprocess_cfg(model)), is_train=False)
    preprocess = cast("Callable[[Image], Tensor]", transform)
    place = next(model.parameters())
    eight_bit = (images.float() * 255).round().byte().cpu()
    embeds = []
    for batch in eight_bit.split(batch_size):
        pixels = torch.stack([preprocess(to_pil_image(image)) for image in batch])
        embeds.append(functional.normalize(model.encode_image(pixels.to(place)).float(), dim=-1).cpu())
    return torch.cat(embeds)


@torch.no_grad()
def embed_texts(
    model: "CLIP | CustomTextCLIP",
    tokenizer: Callable[[list[str]], Tensor],
    texts: Sequence[str],
    *,
    prefix: str = "",
    batch_size: int = 256,
) -> Tensor:
    """Return unit text embeddings, (b, d) fp32 on the CPU.

    Args:
        model: an open_clip model in evaluation mode.
        tokenizer: what ``open_clip.get_tokenizer`` returns; it cuts texts at the model's context length.
        texts: one text a row.
        prefix: put in front of every text, ``PUBLISHED_PREFIX`` for the published CLIPScore.
        batch_size: texts in one forward pass.

    Raises:
        MetricInputError: there are no texts, the batch size is no count, or the model is in training mode.
    """
    _require_ready(model, batch_size)
    if not texts:
        raise MetricInputError("there are no texts to embed")
    device = next(model.parameters()).device
    embeds = []
    for start in range(0, len(texts), batch_size):
        tokens = tokenizer([prefix + text for text in texts[start : start + batch_size]])
        embeds.append(functional.normalize(model.encode_text(tokens.to(device)).float(), dim=-1).cpu())
    return torch.cat(embeds)


def _require_ready(model: "CLIP | CustomTextCLIP", batch_size: int) -> None:
    if batch_size < 1:
        raise MetricInputError(f"batch_size is {batch_size}, expected at least 1")
    if model.training:
        raise MetricInputError("the CLIP model is in training mode, where batch norm mixes images: call model.eval()")
