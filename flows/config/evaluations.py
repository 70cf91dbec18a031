"""What a profile's evaluation is: its models, its sizes, its sets, its networks. Only values differ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flows.config.mini_evalsets import GENERATED_INFO, REAL_INFO, mini_generated_prompts
from flows.config.overrides import changed
from flows.config.profiles import GPU_TAG, ONE_GPU, WEIGHTS
from flows.config.tree import RunnerConfig, TagLimit, TaskOptions
from flows.errors import ProfileError
from iedit_model.editing.framing import FramingConfig
from iedit_model.editing.instruct_editor import InstructSampling
from iedit_model.editing.partial_noising import SamplingConfig
from iedit_model.editing.registry import EditorModels, EditorSettings
from iedit_model.models.clip import ClipSpec
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.source import ModelSource
from tasks.evaluate.networks import FeatureSpec, NamedClip, ScoringConfig
from tasks.evaluate.plan import EvaluationPlan
from tasks.evaluate.sets.evalset import EvalSetInfo
from tasks.evaluate.sets.generated import GENERATED_PROMPTS, GeneratedPrompt
from tasks.evaluate.stage import EditingConfig
from tasks.evaluate.summary import SummaryConfig

_MINI_STRENGTH: Final = 0.5
"""Latents of 16 x 16 lose their content at less noise than those of 48 x 48; at 0.7 the untrained model is at its
ceiling (docs/experiments.md, 1)."""
_MINI_STEPS: Final = 20
"""Steps of the miniature's samplers: its small model gains nothing beyond."""


@dataclass(frozen=True, kw_only=True)
class GeneratedSet:
    """The set that the base model draws: what it is called, and its edits in words."""

    info: EvalSetInfo
    prompts: tuple[GeneratedPrompt, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """An evaluation and how it is run."""

    plan: EvaluationPlan
    """What decides the numbers."""
    generated: GeneratedSet
    """What ``iedit evalset make-generated`` draws, and what is drawn where ``sets`` names it."""
    sets: tuple[str, ...] = ()
    """Evaluation sets: names that the project can make itself (``flows.evalset_sources``), or folders."""
    runner: RunnerConfig = field(default_factory=RunnerConfig)
    options: TaskOptions = field(default_factory=TaskOptions)
    """Of the task runs: two for each slice of a set and method."""
    tag_limits: tuple[TagLimit, ...] = ()


def mini_evaluation() -> EvaluationConfig:
    """Return the evaluation of the miniature: its own models and networks, 64 pixels."""
    fp32 = DeviceConfig(dtype="fp32")
    plan = EvaluationPlan(
        models=EditorModels(base=_member("ldm"), instruct=_member("instruct_pix2pix"), segmenter=_member("segmenter")),
        scoring=ScoringConfig(
            training_clip=NamedClip(name="mini", spec=ClipSpec(model=_member("clip"), device=fp32)),
            held_out_clip=NamedClip(name="mini-held-out", spec=ClipSpec(model=_member("clip_metric"), device=fp32)),
            features=FeatureSpec(kind="vgg", source=_member("perceptual"), name="mini-vgg-rms", device=fp32),
        ),
        summary=SummaryConfig(training_clip="mini"),
        editing=EditingConfig(size_px=64, batch_size=64),
        settings=EditorSettings(
            device=fp32,
            sampling=SamplingConfig(strength=_MINI_STRENGTH, num_inference_steps=_MINI_STEPS),
            instruct=InstructSampling(num_inference_steps=_MINI_STEPS),
            batch_size=32,
        ),
        pairs_per_shard=35,
    )
    return EvaluationConfig(
        plan=plan,
        generated=GeneratedSet(info=GENERATED_INFO, prompts=mini_generated_prompts()),
        sets=(REAL_INFO.name, GENERATED_INFO.name),
        options=TaskOptions(retry_delay_s=1.0),
    )


def sd14_evaluation() -> EvaluationConfig:
    """Return the evaluation of the paper's models: Stable Diffusion v1.4 at 384 pixels, CLIP ViT-B/32.

    The sets are the user's own. FID's own Inception weights are used when they are named:
    ``plan.scoring.features.kind=inception`` and ``plan.scoring.features.source.name=FILE``.
    """
    plan = EvaluationPlan(
        models=EditorModels(
            base=ModelSource(name="CompVis/stable-diffusion-v1-4"),
            instruct=ModelSource(name="timbrooks/instruct-pix2pix"),
            segmenter=ModelSource(name="CIDAS/clipseg-rd64-refined"),
        ),
        scoring=ScoringConfig(
            training_clip=NamedClip(
                name="vit-b-32", spec=ClipSpec(model=ModelSource(name="timm/vit_base_patch32_clip_224.openai"))
            ),
            held_out_clip=NamedClip(
                name="vit-h-14", spec=ClipSpec(model=ModelSource(name="laion/CLIP-ViT-H-14-laion2B-s32B-b79K"))
            ),
            features=FeatureSpec(kind="vgg", source=ModelSource(name="timm/vgg16.tv_in1k")),
        ),
        summary=SummaryConfig(training_clip="vit-b-32"),
        editing=EditingConfig(size_px=384, seeds=(0, 1, 2), batch_size=16),
        settings=EditorSettings(framing=FramingConfig(size_px=384)),
        pairs_per_shard=16,
    )
    return EvaluationConfig(
        plan=plan,
        generated=GeneratedSet(
            info=EvalSetInfo(
                name="sd14-generated",
                origin="generated",
                description="70 edits of 20 pictures that Stable Diffusion v1.4 drew from their source prompts.",
                license="CreativeML Open RAIL-M",
            ),
            prompts=GENERATED_PROMPTS,
        ),
        sets=("sd14-generated",),
        runner=RunnerConfig(workers=1),
        options=TaskOptions(retry_delay_s=30.0, tags=(GPU_TAG,), gpus=1.0),
        tag_limits=ONE_GPU,
    )


EVALUATIONS: Final[Mapping[str, Callable[[], EvaluationConfig]]] = {"mini": mini_evaluation, "sd14": sd14_evaluation}
"""Profile -> its evaluation."""


def resolve_evaluation(profile: str, settings: Mapping[str, Any] | None = None) -> EvaluationConfig:
    """Return the evaluation of a profile with a person's own values.

    Raises:
        ProfileError: there is no such profile.
        SettingError: a setting does not exist or cannot have that value.
    """
    if profile not in EVALUATIONS:
        raise ProfileError(f"there is no profile {profile!r}; there are {', '.join(EVALUATIONS)}")
    return changed(EVALUATIONS[profile](), settings or {})


def _member(name: str) -> ModelSource:
    return ModelSource(name=str(WEIGHTS / name))
