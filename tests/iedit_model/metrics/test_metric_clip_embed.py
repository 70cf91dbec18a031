"""Embedding with a real, untrained open_clip model against open_clip's own path from PIL images."""

from collections.abc import Callable
from typing import cast

import open_clip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from iedit_model.metrics.clip_embed import PUBLISHED_PREFIX, embed_images, embed_texts
from iedit_model.metrics.errors import MetricInputError

CONTEXT = 12
PREPROCESS = {
    "size": (32, 32),
    "mode": "RGB",
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = CLIPVisionCfg(image_size=32, layers=(1, 1, 1, 1), width=8)
        text = CLIPTextCfg(context_length=CONTEXT, vocab_size=300, width=16, heads=2, layers=1)
        clip = open_clip.CLIP(24, vision, text)
    set_model_preprocess_cfg(clip, PREPROCESS)
    return clip.eval()


def tokenizer(texts: list[str]) -> Tensor:
    rows = [[*text.encode()[: CONTEXT - 1], 299] for text in texts]
    return torch.tensor([row + [0] * (CONTEXT - len(row)) for row in rows])


def pictures(height: int, width: int, count: int = 5) -> Tensor:
    """Floats between the 8-bit levels: to round is not to cut off."""
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (48, 80)])
def test_images_take_open_clips_own_path(model: open_clip.CLIP, height: int, width: int) -> None:
    images = pictures(height, width)
    # open_clip annotates a tuple here
    transform = cast("Callable[[Image], Tensor]", image_transform_v2(PreprocessCfg(**PREPROCESS), is_train=False))
    with torch.no_grad():
        pixels = torch.stack([transform(to_pil_image((image * 255).round().byte())) for image in images])
        expected = model.encode_image(pixels, normalize=True)
    torch.testing.assert_close(embed_images(model, images), expected, rtol=1e-5, atol=1e-6)


def test_embeddings_are_of_unit_length_in_any_batch(model: open_clip.CLIP) -> None:
    images, texts = pictures(32, 32), ["a red bus", "a train", "a cat", "two dogs on grass", "sea"]
    for whole, parts in (
        (embed_images(model, images), embed_images(model, images, batch_size=2)),
        (embed_texts(model, tokenizer, texts), embed_texts(model, tokenizer, texts, batch_size=2)),
    ):
        torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(whole.norm(dim=1), torch.ones(5))
        assert whole.shape == (5, 24)


def test_the_prefix_goes_in_front_of_every_text(model: open_clip.CLIP) -> None:
    asked = embed_texts(model, tokenizer, ["cat"], prefix="a ")
    torch.testing.assert_close(asked, embed_texts(model, tokenizer, ["a cat"]))
    assert PUBLISHED_PREFIX == "A photo depicts "
    assert not torch.allclose(asked, embed_texts(model, tokenizer, ["cat"]), atol=1e-3)


def test_refusals(model: open_clip.CLIP) -> None:
    with pytest.raises(MetricInputError, match="no texts"):
        embed_texts(model, tokenizer, [])
    with pytest.raises(MetricInputError, match="no images"):
        embed_images(model, torch.empty(0, 3, 32, 32))
    with pytest.raises(MetricInputError, match="batch_size is 0"):
        embed_images(model, pictures(32, 32), batch_size=0)
    model.train()
    try:
        with pytest.raises(MetricInputError, match="training mode"):
            embed_images(model, pictures(32, 32))
    finally:
        model.eval()
