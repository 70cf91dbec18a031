"""Where an evaluation set comes from by its name: a folder of the user's, or one that the project makes itself."""

from pathlib import Path
from typing import Final

from flows.config.tree import EvaluationConfig
from flows.config.values import REAL_INFO
from flows.errors import SourceError
from iedit_model.editing.text_to_image import DrawConfig
from iedit_model.imaging.encode import encode_image
from miniature.evalsets import real_pairs
from miniature.pairs import TruePair
from tasks.evaluate.sets.evalset import EvalSet
from tasks.evaluate.sets.folder import PAIRS, NewPair, open_evalset, write_evalset

FOLDER: Final = "evalsets"
"""Under the root of the store."""


def open_set(name: str, root: str, config: EvaluationConfig) -> EvalSet:
    """Return a set by its name under the root, or by its folder; one that the project can make is made first.

    Raises:
        SourceError: there is neither.
        EvalSetError: what is there cannot be used.
    """
    place = f"{root.rstrip('/')}/{FOLDER}/{name}"
    if name == REAL_INFO.name:
        return make_real_set(place)
    if (Path(place) / PAIRS).is_file():  # written last: without it a killed run left a part
        return open_evalset(place)
    if name == config.generated.info.name:
        return draw_generated_set(place, config)
    if "/" in name or Path(name).is_dir():
        return open_evalset(name)
    raise SourceError(
        f"there is no evaluation set {name!r} in {root}; the project itself makes {REAL_INFO.name} and "
        f"{config.generated.info.name}, and others are imported with iedit evalset import"
    )


def draw_generated_set(
    place: str, config: EvaluationConfig, *, draw: DrawConfig | None = None, seed: int = 0, with_masks: bool = True
) -> EvalSet:
    """Draw the generated set with the untrained model.

    Args:
        place: folder of the set.
        config: the models, and the edits in words.
        draw: how the pictures are drawn.
        seed: decides all noise.
        with_masks: whether the segmenter predicts the masks.

    Raises:
        SourceError: the base model or the segmenter is not configured.
        EvalSetExistsError: another set is there.
    """
    from iedit_model.models.latent_diffusion import LatentDiffusionSpec, load_latent_diffusion
    from iedit_model.models.segmenter import SegmenterSpec, load_segmenter
    from tasks.evaluate.sets.generated import GeneratedConfig, make_generated

    models, device = config.plan.models, config.plan.settings.device
    if models.base is None or (with_masks and models.segmenter is None):
        raise SourceError("drawing a set needs base among evaluate.plan.models, and segmenter for its masks")
    segmenter = models.segmenter if with_masks else None
    return make_generated(
        place,
        config.generated.info,
        GeneratedConfig(prompts=config.generated.prompts, draw=draw or DrawConfig(), seed=seed),
        load_latent_diffusion(LatentDiffusionSpec(model=models.base, device=device)),
        segmenter=load_segmenter(SegmenterSpec(model=segmenter, device=device)) if segmenter else None,
    )


def make_real_set(root: str | Path) -> EvalSet:
    """Write the miniature's real set: 52 pairs of 30 scenes that training never saw, the true mask with each.

    Raises:
        EvalSetExistsError: another set is there.
    """
    pairs = [_real_pair(number, index, pair) for number, (index, pair) in enumerate(real_pairs())]
    return write_evalset(root, REAL_INFO, pairs)


def _real_pair(number: int, index: int, pair: TruePair) -> NewPair:
    thing, changed = pair.source.objects[pair.position], pair.target.objects[pair.position]
    return NewPair(
        pair_id=f"{number:04d}",
        image_id=f"scene-{index:03d}",
        image=encode_image(pair.source.render()),
        source_prompt=pair.source.caption,
        edit_prompt=pair.edit_prompt,
        word=thing.noun,
        replacement=changed.noun if pair.kind == "noun" else changed.phrase,
        instruction=pair.instruction,
        kind=pair.kind,
        mask=pair.source.masks()[pair.position],
        mask_origin="truth",
    )
