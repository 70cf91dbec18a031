"""The judge: reads noun, colour and ground off a picture with a CLIP of the family, by the best caption of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from miniature.vocabulary import BACKGROUNDS, COLOURS, NOUNS, with_article


@dataclass(frozen=True, slots=True)
class Reading:
    """What the judge sees in a picture of one object."""

    noun: str
    colour: str
    background: str


ALL_READINGS: tuple[Reading, ...] = tuple(
    Reading(noun, colour, background) for noun in NOUNS for colour in COLOURS for background in BACKGROUNDS
)
"""Every picture of one object that the vocabulary can describe: 2,862."""


class Judge:
    """A CLIP model that ranks all captions of the world for a picture."""

    def __init__(self, folder: Path) -> None:
        """Load an open_clip folder.

        Raises:
            FileNotFoundError: the folder has no weights (open_clip itself would go on with random ones).
        """
        if not (folder / "open_clip_model.safetensors").exists():
            raise FileNotFoundError(f"{folder} has no open_clip_model.safetensors")
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self._model: Any = model.eval().requires_grad_(requires_grad=False)
        self._preprocess: Any = preprocess
        self._tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")

    @torch.no_grad()
    def image_embeds(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit embeddings (b, d) of RGB pictures."""
        batches = [images[start : start + 128] for start in range(0, len(images), 128)]
        pixels = (torch.stack([self._preprocess(image) for image in batch]) for batch in batches)
        return torch.cat([functional.normalize(self._model.encode_image(x), dim=-1) for x in pixels])

    @torch.no_grad()
    def text_embeds(self, texts: Sequence[str]) -> Tensor:
        """Return unit embeddings (b, d) of texts."""
        return functional.normalize(self._model.encode_text(self._tokenizer(list(texts))), dim=-1)

    @cached_property
    def _all_captions(self) -> Tensor:
        captions = [f"{with_article(f'{r.colour} {r.noun}')} on a {r.background} background" for r in ALL_READINGS]
        return torch.cat([self.text_embeds(captions[start : start + 512]) for start in range(0, len(captions), 512)])

    def read(self, images: Sequence[Image.Image]) -> list[Reading]:
        """Return the best of all captions for each picture."""
        best = (self.image_embeds(images) @ self._all_captions.T).argmax(dim=1)
        return [ALL_READINGS[int(index)] for index in best]

    def similarity(self, images: Sequence[Image.Image], texts: Sequence[str]) -> np.ndarray:
        """Return the cosine of each picture with its text, float32 (b,)."""
        return (self.image_embeds(images) * self.text_embeds(texts)).sum(dim=1).numpy()
