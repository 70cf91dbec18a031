"""Generated evaluation sets (Section 4.1): 20 images that a base model samples with fixed seeds, and 70 edits of them.

The paper gives the counts and a few prompts of its figures, not the list; these are ours, of the same kinds: another
object, another colour or material, another state.
"""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from iedit_model.configuration import Probability, configuration
from iedit_model.editing.text_to_image import DrawConfig, draw_images
from iedit_model.imaging.encode import encode_image
from iedit_model.inflection import with_article
from iedit_model.models.segmenter import PromptedImage, Segmenter
from storage import sample_seed
from tasks.evaluate.sets.evalset import EvalSet, EvalSetInfo
from tasks.evaluate.sets.folder import NewPair, write_evalset
from tasks.evaluate.sets.pixels import Mask

if TYPE_CHECKING:
    from PIL.Image import Image

    from iedit_model.models.latent_diffusion import LatentDiffusion


@configuration
class GeneratedPrompt:
    """One edit of a generated image."""

    image_index: NonNegativeInt
    """Index of the image, from 0."""
    source_prompt: str
    edit_prompt: str
    word: str
    """The object to edit, as the source prompt names it."""
    replacement: str | None = None
    """What takes its place in the edit prompt."""
    instruction: str | None = None
    kind: str | None = None

    def __post_init__(self) -> None:
        if self.word not in self.source_prompt:
            raise ValueError(
                f"prompt of image {self.image_index}: the word {self.word!r} does not stand in {self.source_prompt!r}"
            )


# prompt with {} for the object, the object, what it becomes: other objects first, then other looks of the same one
_SCENES: Final[tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...]] = (
    ("a photo of {} on a plate", "chocolate cake", ("strawberry cake", "pizza"), ("pink cake", "melted cake")),
    ("a photo of {} parked on a street", "car", ("sports car", "vintage car", "bus"), ("yellow car",)),
    ("a photo of {} sitting on a sofa", "cat", ("dog", "rabbit"), ("laughing cat", "black cat")),
    ("{} in a green field", "horse", ("zebra", "cow"), ("white horse",)),
    ("{} in the sea at sunset", "ship", ("sailing boat", "whale"), ("burning ship",)),
    ("a photo of {} between mountains", "road", ("river", "railway"), ("snowy road",)),
    ("a bowl of {} on a wooden table", "apples", ("oranges", "lemons", "eggs"), ("green apples",)),
    ("{} sitting on a branch", "bird", ("owl", "parrot", "squirrel"), ("blue bird",)),
    ("{} riding a horse on the moon", "astronaut", ("elephant", "old man"), ("golden astronaut",)),
    ("{} in a forest", "wooden house", ("stone castle", "tent"), ("red house", "snowy house")),
    ("a vase of {} on a windowsill", "roses", ("tulips", "sunflowers"), ("white roses", "withered roses")),
    ("a man wearing {}", "black jacket", ("red jacket", "grey suit"), ("leather jacket",)),
    ("{} on a white background", "handbag", ("backpack", "suitcase"), ("handbag with strawberry prints",)),
    ("{} standing in the snow", "penguin", ("polar bear", "fox"), ("dancing penguin",)),
    ("a photo of {} on a beach", "dog", ("cat", "turtle"), ("white dog", "sleeping dog")),
    ("a cup of {} on a table", "coffee", ("green tea", "orange juice", "hot chocolate"), ("iced coffee",)),
    ("{} on a hill", "tree", ("cherry tree", "windmill"), ("autumn tree",)),
    ("{} on a bed", "teddy bear", ("panda", "doll"), ("white teddy bear",)),
    ("{} flying in the sky", "airplane", ("hot air balloon", "dragon"), ("red airplane",)),
    ("{} leaning against a brick wall", "bicycle", ("motorcycle", "skateboard", "scooter"), ("rusty bicycle",)),
)


def _prompt(index: int, pattern: str, word: str, other: str, *, kind: str) -> GeneratedPrompt:
    verb = f"replace the {word} with" if kind == "object" else "turn it into"
    return GeneratedPrompt(
        image_index=index,
        source_prompt=pattern.format(with_article(word)),
        edit_prompt=pattern.format(with_article(other)),
        word=word,
        replacement=other,
        instruction=f"{verb} {with_article(other)}",
        kind=kind,
    )


GENERATED_PROMPTS: Final[tuple[GeneratedPrompt, ...]] = tuple(
    _prompt(index, pattern, word, other, kind=kind)
    for index, (pattern, word, objects, looks) in enumerate(_SCENES)
    for kind, others in (("object", objects), ("look", looks))
    for other in others
)
"""70 edits of 20 images."""


STAGE = "evalset"


@configuration
class GeneratedConfig:
    """How a generated set is made."""

    prompts: tuple[GeneratedPrompt, ...]
    """The edits; those of one ``image_index`` share a source prompt and an image."""
    draw: DrawConfig = field(default_factory=DrawConfig)
    seed: int = 0
    """Decides all noise."""
    batch_size: PositiveInt = 10
    """Images sampled at once."""
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
    """Sample the source images and write the set.

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
    images = _sampled(list(sources.values()), config, model)
    masks = [None] * len(config.prompts) if segmenter is None else _predicted(images, config, segmenter)
    pairs = [
        NewPair(
            pair_id=f"{number:04d}",
            image_id=f"image-{prompt.image_index:03d}",
            image=encode_image(images[prompt.image_index]),
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


def _sampled(prompts: Sequence[str], config: GeneratedConfig, model: "LatentDiffusion") -> "list[Image]":
    seeds = [sample_seed(config.seed, STAGE, f"{index:05d}") for index in range(len(prompts))]
    images: list[Image] = []
    for start in range(0, len(prompts), config.batch_size):
        part = slice(start, start + config.batch_size)
        images += draw_images(model, prompts[part], seeds[part], config.draw)
    return images


def _predicted(images: "Sequence[Image]", config: GeneratedConfig, segmenter: Segmenter) -> list[Mask | None]:
    prepared = [segmenter.prepare(image) for image in images]
    masks: list[Mask | None] = []
    for prompt in config.prompts:
        image = images[prompt.image_index]
        wanted = PromptedImage(
            prepared=prepared[prompt.image_index], size_px=(image.height, image.width), prompts=(prompt.word,)
        )
        inside = segmenter.segment([wanted])[0][0] >= config.mask_threshold
        masks.append(inside if np.any(inside) else None)
    return masks
