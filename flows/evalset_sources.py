"""Where an evaluation set comes from by its name: a folder of the user's, or one that the project makes itself."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from flows.errors import SourceError
from flows.evalsets import GENERATED_INFO, make_real_set, mini_generated_prompts
from tasks.evalsets.evalset import EvalSet
from tasks.evalsets.folder import open_evalset
from tasks.evaluation.plan import EvaluationPlan

FOLDER: Final = "evalsets"
"""Under the root of the store."""


def open_set(name: str, root: str, plan: EvaluationPlan) -> EvalSet:
    """Return a set by its name under the root, or by its folder; one that the project can make is made first.

    Raises:
        SourceError: there is neither.
        EvalSetError: what is there cannot be used.
    """
    place = f"{root.rstrip('/')}/{FOLDER}/{name}"
    if name in MAKERS:
        return MAKERS[name](place, plan)
    if "/" in name or Path(name).is_dir():
        return open_evalset(name)
    if (Path(root) / FOLDER / name).is_dir() or "://" in root:
        return open_evalset(place)
    raise SourceError(
        f"there is no evaluation set {name!r} in {root}; the project itself makes {', '.join(MAKERS)}, and others are "
        "imported with iedit evalset import"
    )


def _real(place: str, plan: EvaluationPlan) -> EvalSet:  # noqa: ARG001 - it takes no model
    return make_real_set(place)


def _generated(place: str, plan: EvaluationPlan) -> EvalSet:
    """Draw the generated set with the untrained model; when it is there it is only read."""
    from iedit_model.editing.latent_diffusion import LatentDiffusionSpec, load_latent_diffusion
    from iedit_model.segmenter import SegmenterSpec, load_segmenter
    from tasks.evalset import GeneratedConfig, make_generated

    if Path(place).is_dir():
        return open_evalset(place)
    models, placement = plan.models, plan.settings.placement
    if models.base is None or models.segmenter is None:
        raise SourceError("drawing a generated set needs models.base and models.segmenter")
    return make_generated(
        place,
        GENERATED_INFO,
        GeneratedConfig(prompts=mini_generated_prompts()),
        load_latent_diffusion(LatentDiffusionSpec(model=models.base, placement=placement)),
        segmenter=load_segmenter(SegmenterSpec(model=models.segmenter, placement=placement)),
    )


MAKERS: Final[Mapping[str, Callable[[str, EvaluationPlan], EvalSet]]] = {
    "mini-real": _real,
    "mini-generated": _generated,
}
"""Name -> what makes the set at an address, or reads the one that is there."""
