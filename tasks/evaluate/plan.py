"""What an evaluation runs: methods with their weights, settings, sets and seeds, as one value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pydantic import PositiveInt

from iedit_model.configuration import configuration
from iedit_model.editing.methods import METHODS, EditingMethod, EditorSpec, all_methods, method_info
from iedit_model.editing.registry import EditorModels, EditorSettings, editor_spec
from iedit_model.editing.settings import SamplingConfig
from iedit_model.models.source import ModelSource
from tasks.evaluate.networks import ScoringConfig
from tasks.evaluate.results import NOT_TRAINED
from tasks.evaluate.stage import EditingConfig
from tasks.evaluate.summary import SummaryConfig

FULL_METHOD: Final = "iedit"
"""Training whose weights serve both of them."""

Checkpoints = Mapping[str, Mapping[int, ModelSource]]
"""Training (a row of Table 2) -> seed of the training -> weights."""


@configuration
class EvaluationPlan:
    """Everything that decides an evaluation but the sets and the weights of a training."""

    models: EditorModels
    """Weights that are not trained here: base, InstructPix2Pix, segmenter."""
    scoring: ScoringConfig
    summary: SummaryConfig
    editing: EditingConfig
    settings: EditorSettings = field(default_factory=EditorSettings)
    methods: tuple[str, ...] = field(default_factory=lambda: _names(lambda method: method.is_evaluated))
    """By default all that their registration does not leave out."""
    with_masks: tuple[str, ...] = field(default_factory=lambda: _names(lambda method: method.gets_set_masks))
    """Methods that are given the set's masks, as the paper does for DALL-E 2."""
    pairs_per_shard: PositiveInt = 64
    """Pairs of a shard: one task run each."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.methods) - set(METHODS)):
            raise ValueError(f"the method {unknown[0]!r} is unknown; there are {', '.join(METHODS)}")
        if len(set(self.methods)) != len(self.methods) or not self.methods:
            raise ValueError(f"methods are {self.methods}, expected different ones")

    @property
    def size_px(self) -> int:
        """Side of the frame in which everything is edited and scored."""
        return self.editing.size_px


def deviations(plan: EvaluationPlan) -> list[str]:
    """Return one line for each setting of the edits that differs from the paper's, or that it does not state.

    The paper states a guidance scale of 7.5 and 384 x 384 pixels; it is silent about strength, steps, sampler, growth
    and pooling of the mask, for which SDEdit's and diffusers' usual values stand.
    """
    sampling, masks, unstated = plan.settings.sampling, plan.settings.masks, " (the paper does not state it)"
    settings = (
        ("size_px", plan.editing.size_px, 384, ""),
        ("guidance_scale", sampling.guidance_scale, 7.5, ""),
        ("strength", sampling.strength, 0.7, unstated),
        ("num_inference_steps", sampling.num_inference_steps, 50, unstated),
        ("sampler", sampling.sampler, "ddim", unstated),
        ("blend_noise", sampling.blend_noise, "fixed", unstated),
        ("masks.latent_mode", masks.latent_mode, "area", unstated),
        ("masks.dilate_cells", masks.dilate_cells, 0, unstated),
        ("paste_back", plan.settings.paste_back, False, ""),
    )
    return [f"{name} = {value!r} instead of {paper!r}{note}" for name, value, paper, note in settings if value != paper]


@dataclass(frozen=True, kw_only=True)
class MethodPlan:
    """One row of an evaluation: a method under its label, with its weights."""

    label: str
    """What tables call it: a method, or the row of Table 2 that its weights were trained for."""
    spec: EditorSpec
    editing: EditingConfig
    train_seed: int = NOT_TRAINED

    @property
    def name(self) -> str:
        """Label and training seed, for progress and messages."""
        return self.label if self.train_seed == NOT_TRAINED else f"{self.label} (seed {self.train_seed})"


def method_plans(plan: EvaluationPlan, checkpoints: Checkpoints) -> list[MethodPlan]:
    """Return the rows of an evaluation in the order of its methods, then the other trainings.

    Args:
        plan: the settings.
        checkpoints: trained weights; those of ``iedit`` serve iEdit and iEdit-M, any other training edits without a
            mask under its own name. Methods that need a training are left out where there is none.

    Raises:
        ConfigError: a model that a method needs is not configured.
    """
    rows = []
    for method in plan.methods:
        if method_info(method).weights == "tuned":
            weights = checkpoints.get(FULL_METHOD, {})
            rows += [
                _row(plan, method, method, tuned=source, train_seed=seed) for seed, source in sorted(weights.items())
            ]
        else:
            rows.append(_row(plan, method, method))
    for training, weights in checkpoints.items():
        if training != FULL_METHOD:
            rows += [
                _row(plan, training, "iedit", tuned=source, train_seed=seed) for seed, source in sorted(weights.items())
            ]
    return rows


def at_strength(plan: EvaluationPlan, strength: float, *, methods: Sequence[str]) -> EvaluationPlan:
    """Return the plan of one point of the trade-off curve: the same, at another strength and for these methods.

    Raises:
        ConfigError: the strength is outside [0, 1].
    """
    sampling: SamplingConfig = replace(plan.settings.sampling, strength=strength)
    return replace(plan, settings=replace(plan.settings, sampling=sampling), methods=tuple(methods))


def _names(wanted: Callable[[EditingMethod], bool]) -> tuple[str, ...]:
    return tuple(method.name for method in all_methods() if wanted(method))


def _row(
    plan: EvaluationPlan,
    label: str,
    method: str,
    *,
    tuned: ModelSource | None = None,
    train_seed: int = NOT_TRAINED,
) -> MethodPlan:
    gives_masks = method in plan.with_masks
    settings = plan.settings
    if gives_masks and settings.masks.source == "word":
        settings = replace(settings, masks=replace(settings.masks, source="request"))
    from iedit_model.editing.latent_editor import LatentEditorSpec

    spec = editor_spec(method, replace(plan.models, tuned=tuned), settings)
    if label != method and isinstance(spec, LatentEditorSpec):
        spec = replace(spec, name=label)
    return MethodPlan(
        label=label, spec=spec, editing=replace(plan.editing, give_masks=gives_masks), train_seed=train_seed
    )
