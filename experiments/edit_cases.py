"""Edits to judge a model by: a set for tuning, drawn here, and the two held-out sets that no choice may look at."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from iedit_model.editing.editor import EditRequest
from miniature.evalsets import generated_edits, real_pairs
from miniature.pairs import TruePair, true_pair
from miniature.world import World

if TYPE_CHECKING:
    from PIL.Image import Image

    from iedit_model.models.latent_diffusion import LatentDiffusion

SetName = Literal["tuning", "real", "generated"]

TUNING_SEED: Final = 91
"""World of the tuning edits: neither the web site's (3) nor the held-out sets' (2)."""
NUM_TUNING: Final = 80


UNEDITED: Final = ("source", "target")
"""What edits are compared with that no model makes: names under which their scores stand."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EditCase:
    """One edit with what is known of it."""

    case_id: str
    image_id: str
    """Edits of one image are no independent witnesses."""
    image: "Image"
    target: "Image | None"
    """What an ideal edit gives; None where nobody knows."""
    edit_prompt: str
    source_prompt: str
    word: str
    mask: np.ndarray | None
    """Where the object is in the source, bool (64, 64); None where nobody knows."""
    either_mask: np.ndarray | None
    """Where the object is in the source or in an ideal edit of it."""
    noun: str | None
    """What the judge should read in the edited image; None in scenes of two objects, which it cannot read."""
    colour: str | None
    kind: Literal["noun", "colour"]

    def unedited(self, name: str) -> "Image | None":
        """Return one of ``UNEDITED``, None for an unknown target."""
        return self.image if name == "source" else self.target

    def request(self, seed: int) -> EditRequest:
        """Return what a method is asked under a seed; the same noise for every method."""
        return EditRequest(
            image=self.image,
            edit_prompt=self.edit_prompt,
            source_prompt=self.source_prompt,
            word=self.word,
            seed=int(np.random.default_rng((seed, *self.case_id.encode())).integers(2**62)),
        )


def tuning_cases() -> list[EditCase]:
    """Return the edits by which settings are chosen: fresh scenes, half nouns, half colours."""
    world, rng = World(TUNING_SEED), np.random.default_rng(TUNING_SEED)
    kinds: tuple[Literal["noun", "colour"], ...] = ("noun", "colour")
    pairs = [true_pair(world.scene(number), rng, kind=kinds[number % 2]) for number in range(NUM_TUNING)]
    return [_case("tuning", number, number, pair) for number, pair in enumerate(pairs)]


def real_cases() -> list[EditCase]:
    """Return the 52 held-out edits of 30 scenes."""
    return [_case("real", number, index, pair) for number, (index, pair) in enumerate(real_pairs())]


def generated_cases(model: "LatentDiffusion") -> list[EditCase]:
    """Return the 70 held-out edits of 20 images that the base model draws; no true masks are known."""
    from iedit_model.editing.text_to_image import draw_images

    edits = generated_edits()
    prompts = dict(sorted({edit.image_index: edit.source_prompt for edit in edits}.items()))
    drawn = dict(zip(prompts, draw_images(model, list(prompts.values()), [1000 + i for i in prompts]), strict=True))
    return [
        EditCase(
            case_id=f"generated-{number:03d}",
            image_id=f"generated-{edit.image_index:03d}",
            image=drawn[edit.image_index],
            target=None,
            edit_prompt=edit.edit_prompt,
            source_prompt=edit.source_prompt,
            word=edit.word,
            mask=None,
            either_mask=None,
            colour=_words(edit.edit_prompt)[0],
            noun=_words(edit.edit_prompt)[1],
            kind="colour" if edit.word in edit.edit_prompt.split() else "noun",
        )
        for number, edit in enumerate(edits)
    ]


def cases_of(name: SetName, base: Path) -> list[EditCase]:
    """Return a set by its name; ``base`` is the folder of the base model, which draws the generated one."""
    if name != "generated":
        return tuning_cases() if name == "tuning" else real_cases()
    from iedit_model.models.devices import DeviceConfig
    from iedit_model.models.latent_diffusion import LatentDiffusionSpec, load_latent_diffusion
    from iedit_model.models.source import ModelSource

    device = DeviceConfig(dtype="fp32")
    return generated_cases(load_latent_diffusion(LatentDiffusionSpec(model=ModelSource(name=str(base)), device=device)))


def _words(caption: str) -> list[str]:
    """Return colour and noun of a caption of one object: "a red bus on a white background"."""
    return caption.split()[1:3]


def _case(name: str, number: int, image: int, pair: TruePair) -> EditCase:
    changed, alone = pair.target.objects[pair.position], len(pair.target.objects) == 1
    return EditCase(
        case_id=f"{name}-{number:03d}",
        image_id=f"{name}-{image:03d}",
        image=pair.source.render(),
        target=pair.target.render(),
        edit_prompt=pair.edit_prompt,
        source_prompt=pair.source.caption,
        word=pair.source.objects[pair.position].noun,
        mask=pair.source.masks()[pair.position],
        either_mask=pair.source.masks()[pair.position] | pair.target.masks()[pair.position],
        noun=changed.noun if alone else None,
        colour=changed.colour if alone else None,
        kind=pair.kind,
    )
