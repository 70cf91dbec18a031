"""Make evaluation sets: the paper's kind of generated set (Section 4.1), drawn from the base model with fixed seeds."""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import PositiveInt

from iedit_model.configuration import Probability, configuration
from iedit_model.editing.text_to_image import DrawConfig, draw_images
from iedit_model.imaging.encode import encode_image
from iedit_model.models.segmenter import PromptedImage, Segmenter
from storage import sample_seed
from tasks.evaluate.sets.evalset import EvalSet, EvalSetInfo
from tasks.evaluate.sets.folder import NewPair, write_evalset
from tasks.evaluate.sets.generated_prompts import GeneratedPrompt
from tasks.evaluate.sets.pixels import Mask

if TYPE_CHECKING:
    from PIL.Image import Image

    from iedit_model.models.latent_diffusion import LatentDiffusion

STAGE = "evalset"


@configuration
class GeneratedConfig:
    """How a generated set is drawn."""

    prompts: tuple[GeneratedPrompt, ...]
    """The edits; those of one ``image_index`` share a source prompt and a picture."""
    draw: DrawConfig = field(default_factory=DrawConfig)
    seed: int = 0
    """Decides all noise."""
    batch_size: PositiveInt = 10
    """Pictures drawn at once."""
    mask_threshold: Probability = 0.5
    """Probability from which on a predicted mask counts as inside."""

    def __post_init__(self) -> None:
        sources: dict[int, str] = {}
        for prompt in self.prompts:
            if sources.setdefault(prompt.image_index, prompt.source_prompt) != prompt.source_prompt:
                raise ValueError(f"image {prompt.image_index} has two source prompts: {prompt.source_prompt!r}")
        if sorted(sources) != list(range(len(sources))) or not sources:
            raise ValueError(f"prompts name the images {sorted(sources)}, expected 0, 1, 2, ... without a gap")


def make_generated(
    root: str | Path,
    info: EvalSetInfo,
    config: GeneratedConfig,
    model: "LatentDiffusion",
    *,
    segmenter: Segmenter | None = None,
) -> EvalSet:
    """Draw the source pictures and write the set.

    The paper painted its masks by hand: so can ``iedit evalset annotate``. Until then a segmenter may predict them
    from the word; they are marked as predicted, and a pair in which it finds nothing gets none.

    Args:
        root: folder or address of the set.
        info: its name and description.
        config: prompts and settings.
        model: the base model.
        segmenter: predicts masks, if given.

    Raises:
        EvalSetExistsError: another set is there.
    """
    sources = dict(sorted({prompt.image_index: prompt.source_prompt for prompt in config.prompts}.items()))
    pictures = _drawn(list(sources.values()), config, model)
    masks = [None] * len(config.prompts) if segmenter is None else _predicted(pictures, config, segmenter)
    pairs = [
        NewPair(
            pair_id=f"{number:04d}",
            image_id=f"image-{prompt.image_index:03d}",
            image=encode_image(pictures[prompt.image_index]),
            source_prompt=prompt.source_prompt,
            edit_prompt=prompt.edit_prompt,
            word=prompt.word,
            replacement=prompt.replacement,
            instruction=prompt.instruction,
            kind=prompt.kind,
            mask=mask,
            mask_origin="none" if mask is None else "predicted",
        )
        for number, (prompt, mask) in enumerate(zip(config.prompts, masks, strict=True))
    ]
    return write_evalset(root, info, pairs)


def _drawn(prompts: Sequence[str], config: GeneratedConfig, model: "LatentDiffusion") -> "list[Image]":
    seeds = [sample_seed(config.seed, STAGE, f"{index:05d}") for index in range(len(prompts))]
    pictures: list[Image] = []
    for start in range(0, len(prompts), config.batch_size):
        part = slice(start, start + config.batch_size)
        pictures += draw_images(model, prompts[part], seeds[part], config.draw)
    return pictures


def _predicted(pictures: "Sequence[Image]", config: GeneratedConfig, segmenter: Segmenter) -> list[Mask | None]:
    prepared = [segmenter.prepare(picture) for picture in pictures]
    masks: list[Mask | None] = []
    for prompt in config.prompts:
        picture = pictures[prompt.image_index]
        wanted = PromptedImage(
            prepared=prepared[prompt.image_index], size_px=(picture.height, picture.width), prompts=(prompt.word,)
        )
        inside = segmenter.segment([wanted])[0][0] >= config.mask_threshold
        masks.append(inside if np.any(inside) else None)
    return masks
