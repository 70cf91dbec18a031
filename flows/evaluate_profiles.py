"""What a profile's evaluation is: its methods, sets, sampling and the networks that score."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from flows.errors import ProfileError, SettingError
from flows.profiles import WEIGHTS
from flows.settings import changed
from iedit_model.clip import ClipSpec
from iedit_model.devices import DeviceConfig
from iedit_model.edit import SamplingConfig
from iedit_model.editing.instruct_editor import InstructSampling
from iedit_model.editing.registry import EditorModels, EditorSettings
from iedit_model.metrics.bootstrap import BootstrapConfig
from iedit_model.model_source import ModelSource
from tasks.evaluate import EditingConfig
from tasks.evaluation.networks import FeatureSpec, NamedClip, ScoringConfig
from tasks.evaluation.regression import RegressionConfig

TRAINED: Final = ("iedit", "iedit_m")
"""Methods that take the trained weights."""
METHODS: Final = (
    *("copy_source", "vae_round_trip", "masked_noise"),
    *("sdedit", "sdedit_m", "instruct_pix2pix", "inpaint", "diffedit"),
    *TRAINED,
)
"""The three reference rows, the baselines, and ours."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Everything that decides an evaluation beside the trained weights.

    Raises:
        SettingError: no method, or a shard without pairs.
    """

    models: EditorModels
    """Untrained weights and the segmenter."""
    settings: EditorSettings
    """What all methods share."""
    editing: EditingConfig
    scoring: ScoringConfig
    methods: tuple[str, ...] = METHODS
    sets: tuple[str, ...] = ()
    """Evaluation sets: names that the project can make itself, or folders."""
    pairs_a_shard: int = 26
    """Pairs of a task run."""
    workers: int = 2
    """Task runs at the same time."""
    model_threads: int = 1
    """Processor threads of one model call."""
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    regression: RegressionConfig = field(default_factory=RegressionConfig)
    retries: int = 2
    """Further tries of a shard after an error that may pass."""
    retry_delay_s: float = 5.0
    tags: tuple[str, ...] = ()
    """Tags of the task runs in Prefect."""

    def __post_init__(self) -> None:
        if not self.methods:
            raise SettingError("methods is empty: an evaluation needs at least one")
        for name in ("pairs_a_shard", "workers", "model_threads"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}, expected 1 or more")

    def with_checkpoint(self, checkpoint: Path | None) -> "EvaluateConfig":
        """Return the evaluation of trained weights; without any, of the methods that need none."""
        if checkpoint is None:
            return replace(self, methods=tuple(name for name in self.methods if name not in TRAINED))
        return replace(self, models=replace(self.models, tuned=ModelSource(name=str(checkpoint))))


def mini_evaluation() -> EvaluateConfig:
    """Return the evaluation of the miniature: its two sets, its models, its own networks."""
    fp32 = DeviceConfig(dtype="fp32")
    return EvaluateConfig(
        models=EditorModels(base=_member("ldm"), instruct=_member("instruct_pix2pix"), segmenter=_member("segmenter")),
        settings=EditorSettings(
            placement=fp32,
            sampling=SamplingConfig(num_inference_steps=30),
            instruct=InstructSampling(num_inference_steps=30),
            batch_size=26,
        ),
        editing=EditingConfig(size_px=64),
        scoring=ScoringConfig(
            training_clip=NamedClip(name="mini-clip", spec=ClipSpec(model=_member("clip"), placement=fp32)),
            held_out_clip=NamedClip(
                name="mini-clip-metric", spec=ClipSpec(model=_member("clip_metric"), placement=fp32)
            ),
            features=FeatureSpec(kind="vgg", source=_member("perceptual"), name="mini-vgg", placement=fp32),
        ),
        sets=("mini-real", "mini-generated"),
    )


def sd14_evaluation() -> EvaluateConfig:
    """Return the evaluation of the paper's models; the sets are the user's own (``sets``, ``--sets``)."""
    return EvaluateConfig(
        models=EditorModels(
            base=ModelSource(name="CompVis/stable-diffusion-v1-4"),
            instruct=ModelSource(name="timbrooks/instruct-pix2pix"),
            segmenter=ModelSource(name="CIDAS/clipseg-rd64-refined"),
        ),
        settings=EditorSettings(batch_size=4),
        editing=EditingConfig(size_px=512, batch_size=4),
        scoring=ScoringConfig(
            training_clip=NamedClip(
                name="vit-b-32", spec=ClipSpec(model=ModelSource(name="open_clip:ViT-B-32-quickgelu:openai"))
            ),
            held_out_clip=NamedClip(
                name="vit-l-14-laion", spec=ClipSpec(model=ModelSource(name="laion/CLIP-ViT-L-14-laion2B-s32B-b82K"))
            ),
            features=FeatureSpec(kind="vgg", source=ModelSource(name="timm/vgg16.tv_in1k")),
        ),
        pairs_a_shard=8,
        workers=1,
        retry_delay_s=30.0,
        tags=("iedit-gpu",),
    )


EVALUATIONS: Final[Mapping[str, Callable[[], EvaluateConfig]]] = {"mini": mini_evaluation, "sd14": sd14_evaluation}
"""Profile -> its evaluation."""


def resolve_evaluation(profile: str, settings: Mapping[str, Any] | None = None) -> EvaluateConfig:
    """Return the evaluation of a profile with a person's own values.

    Raises:
        ProfileError: there is no such profile.
        SettingError: no such setting, or a value that it cannot have.
    """
    if profile not in EVALUATIONS:
        raise ProfileError(f"there is no profile {profile!r}; there are {', '.join(EVALUATIONS)}")
    return changed(EVALUATIONS[profile](), settings or {})


def _member(name: str) -> ModelSource:
    return ModelSource(name=str(WEIGHTS / name))
