"""The values of the two profiles. They differ in values alone."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import miniature
from flows.config.tree import (
    SITE_HOST,
    Config,
    DataConfig,
    EvaluationConfig,
    GeneratedSet,
    OptionsByStage,
    RunConfig,
    RunnerConfig,
    SiteConfig,
    SourceConfig,
    TagLimit,
    TaskOptions,
)
from iedit_model.editing.framing import FramingConfig
from iedit_model.editing.methods import METHODS
from iedit_model.editing.registry import EditorModels, EditorSettings
from iedit_model.editing.settings import InstructSampling, SamplingConfig
from iedit_model.models.captioner import CaptionerSpec
from iedit_model.models.clip import ClipSpec
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.segmenter import SegmenterSpec
from iedit_model.models.source import ModelSource
from iedit_model.training.config import paper, stable
from miniature.evalsets import GeneratedEdit, generated_edits
from miniature.vocabulary import NOUN_CODES, with_article
from tasks.caption import CaptionConfig
from tasks.download.client import FetchConfig
from tasks.download.image_body import ImageConfig
from tasks.download.rounds import RetryConfig
from tasks.download.stage import DownloadConfig
from tasks.embed.stage import EmbedConfig
from tasks.evaluate.networks import FeatureSpec, NamedClip, ScoringConfig
from tasks.evaluate.plan import EvaluationPlan
from tasks.evaluate.sets.evalset import EvalSetInfo
from tasks.evaluate.sets.generated import GENERATED_PROMPTS, GeneratedPrompt
from tasks.evaluate.stage import EditingConfig
from tasks.evaluate.summary import SummaryConfig
from tasks.images import BatchConfig
from tasks.index.stage import IndexConfig
from tasks.mask.stage import MaskConfig, MaskGates
from tasks.pack.stage import PackConfig
from tasks.plan.stage import FilterConfig, PlanConfig
from tasks.retrieve.gates import GateConfig
from tasks.retrieve.stage import retrieval
from tasks.stages import stage_names
from tasks.swap.stage import SwapConfig
from tasks.train.run_config import CacheConfig, ComputeConfig, LoopConfig, RowsConfig, TrainRunConfig

WEIGHTS: Final = Path(miniature.__file__).parent / "weights"
"""Folder of the miniature's trained family."""

GPU_TAG: Final = "iedit-gpu"
"""Tag of the tasks that want a GPU for themselves."""
ONE_GPU: Final = (TagLimit(tag=GPU_TAG, limit=1),)
"""One of them at a time, whichever flow it belongs to."""


WELL_ALIGNED: Final = (
    "target_text_similarity > 0.88 and outside_similarity > 0.93"
    " and (mask_iou > 0.65 or (pos == 'noun' and (mask_iou > 0.5 or (layout_similarity > 0.75 and mask_iou > 0.35))))"
)
"""Pairs of the miniature, eight of ten in the source's place, the only ones that help: docs/experiments.md."""


REAL_INFO = EvalSetInfo(
    name="mini-real",
    origin="real",
    description="52 edits of 30 held-out scenes of the picture world, with their true masks.",
    license="CC BY-SA 4.0 (OpenMoji)",
)
GENERATED_INFO = EvalSetInfo(
    name="mini-generated",
    origin="generated",
    description="70 edits of 20 images that the miniature base model generated from their source prompts.",
    license="CC BY-SA 4.0 (OpenMoji)",
)

# Said here and not left to the methods' registration, which would load torch for a mere configuration.
_EVALUATED: Final = tuple(name for name in METHODS if name != "sdedit_m")
_WITH_MASKS: Final = ("inpaint", "masked_noise")
"""Methods that are given the set's masks, as the paper does for DALL-E 2."""
_MINI_STRENGTH: Final = 0.5
"""Latents of 16 x 16 lose their content at less noise than those of 48 x 48; at 0.7 the untrained model is at its
ceiling (docs/experiments.md, 1)."""
_MINI_STEPS: Final = 20
"""Steps of the miniature's samplers: its small model gains nothing beyond."""


def mini() -> Config:
    """Return the embedded default: a small picture world, its own web site, and models trained on it."""
    fp32 = DeviceConfig(dtype="fp32")
    quick = TaskOptions(retry_delay_s=1.0, timeout_s=3600.0)
    site = SiteConfig(num_urls=6000)
    # Each worker has a core; handing an image of 64 x 64 to another thread takes longer than decoding it.
    batch = BatchConfig(size=64, decode_threads=0)
    data = DataConfig(
        source=SourceConfig(site=site),
        plan=PlanConfig(filters=FilterConfig(languages=("en",), max_punsafe=0.5, max_pwatermark=0.8), shard_size=500),
        download=DownloadConfig(
            image=ImageConfig(size_px=64, min_side_px=32),
            fetch=FetchConfig(
                allowed_hosts=(f"{SITE_HOST}:{site.port}",), per_host=16, socket_timeout_s=3.0, total_timeout_s=6.0
            ),
            retry=RetryConfig(base_s=0.1, cap_s=1.0, max_retry_after_s=2.0),
            threads=16,
        ),
        caption=CaptionConfig(
            model=CaptionerSpec(model=_member("captioner"), device=fp32, max_new_tokens=19),
            batch=batch,
        ),
        swap=SwapConfig(min_corpus_count=5, max_levels=3),
        embed=EmbedConfig(model=ClipSpec(model=_member("clip"), device=fp32), batch=batch),
        index=IndexConfig(exact_max_rows=50_000),
        # Thresholds fit one CLIP only; how these were found: docs/decisions/0005-retrieval-query.md
        retrieve=replace(retrieval("ours"), gates=GateConfig(target_text_min=0.87, directional_min=0.6)),
        mask=MaskConfig(
            model=SegmenterSpec(model=_member("segmenter"), device=fp32),
            batch=batch,
            gates=MaskGates(min_area=0.02, min_outside_similarity=0.93),
        ),
        pack=PackConfig(samples_per_tar=250, read_threads=0),
    )
    train = TrainRunConfig(
        model=_member("ldm"),
        clip=_member("clip"),
        perceptual=_member("perceptual"),
        train=stable(),
        rows=RowsConfig(where=WELL_ALIGNED),
        loop=LoopConfig(save_every=100, validate_every=0),
    )
    run = RunConfig(
        runner=RunnerConfig(workers=2, downloads=6),
        options=_options(
            quick,
            train=TaskOptions(retry_delay_s=30.0, tags=(GPU_TAG,)),
            evaluate=TaskOptions(retry_delay_s=1.0),
        ),
    )
    return Config(data=data, train=train, evaluate=_mini_evaluation(), run=run)


def sd14() -> Config:
    """Return the paper's real models by name, at the sizes that Stable Diffusion v1.4 and its data want."""
    on_gpu = TaskOptions(retry_delay_s=30.0, timeout_s=6 * 3600.0, tags=(GPU_TAG,), gpus=1.0)
    on_cpu = TaskOptions(retry_delay_s=30.0, timeout_s=6 * 3600.0)
    clip = "open_clip:ViT-L-14-quickgelu:openai"
    data = DataConfig(
        source=SourceConfig(),
        plan=PlanConfig(
            filters=FilterConfig(
                min_side_px=384,
                max_aspect=2.5,
                max_punsafe=0.5,
                max_pwatermark=0.8,
                languages=("en",),
                min_text_chars=5,
            ),
            shard_size=10_000,
        ),
        download=DownloadConfig(image=ImageConfig(size_px=384, min_side_px=384, max_aspect=2.5), threads=64),
        caption=CaptionConfig(
            model=CaptionerSpec(model=ModelSource(name="Salesforce/blip-image-captioning-base")),
            batch=BatchConfig(size=128),
        ),
        swap=SwapConfig(min_corpus_count=10),
        embed=EmbedConfig(model=ClipSpec(model=ModelSource(name=clip)), batch=BatchConfig(size=256)),
        index=IndexConfig(exact_max_rows=1_000_000),
        retrieve=retrieval("ours"),
        mask=MaskConfig(
            model=SegmenterSpec(model=ModelSource(name="CIDAS/clipseg-rd64-refined")),
            batch=BatchConfig(size=64),
            gates=MaskGates(max_area=0.9),
        ),
        pack=PackConfig(samples_per_tar=1000),
    )
    train = TrainRunConfig(
        model=ModelSource(name="CompVis/stable-diffusion-v1-4"),
        clip=ModelSource(name="open_clip:ViT-B-32-quickgelu:openai"),
        perceptual=ModelSource(name="timm/vgg16.tv_in1k"),
        tiny_decoder=ModelSource(name="madebyollin/taesd"),
        train=replace(paper(), precision="fp16", checkpoint_unet=True, checkpoint_decoder=True),
        cache=CacheConfig(dtype="fp16", batch_size=32, decode_threads=8),
        compute=ComputeConfig(loss_precision="fp16"),
        loop=LoopConfig(validate_every=500),
    )
    run = RunConfig(
        runner=RunnerConfig(workers=4, downloads=2),
        options=_options(
            on_cpu,
            **dict.fromkeys(("caption", "embed", "index", "retrieve", "mask"), on_gpu),
            train=replace(on_gpu, timeout_s=None),
            evaluate=TaskOptions(retry_delay_s=30.0, tags=(GPU_TAG,), gpus=1.0),
        ),
        tag_limits=ONE_GPU,
    )
    return Config(data=data, train=train, evaluate=_sd14_evaluation(), run=run)


def _mini_evaluation() -> EvaluationConfig:
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
        methods=_EVALUATED,
        with_masks=_WITH_MASKS,
        pairs_per_shard=35,
    )
    return EvaluationConfig(
        plan=plan,
        generated=GeneratedSet(info=GENERATED_INFO, prompts=_generated_prompts()),
        sets=(REAL_INFO.name, GENERATED_INFO.name),
    )


def _sd14_evaluation() -> EvaluationConfig:
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
        methods=_EVALUATED,
        with_masks=_WITH_MASKS,
        pairs_per_shard=16,
    )
    return EvaluationConfig(
        plan=plan,
        generated=GeneratedSet(
            info=EvalSetInfo(
                name="sd14-generated",
                origin="generated",
                description="70 edits of 20 images that Stable Diffusion v1.4 generated from their source prompts.",
                license="CreativeML Open RAIL-M",
            ),
            prompts=GENERATED_PROMPTS,
        ),
        sets=("sd14-generated",),
    )


def _member(name: str) -> ModelSource:
    return ModelSource(name=str(WEIGHTS / name))


def _options(every: TaskOptions, **others: TaskOptions) -> OptionsByStage:
    """Return the same options for every stage of a build but the named ones."""
    return OptionsByStage(**{**dict.fromkeys(stage_names(), every), **others})


def _generated_prompts() -> tuple[GeneratedPrompt, ...]:
    return tuple(_generated_prompt(edit) for edit in generated_edits())


def _generated_prompt(edit: GeneratedEdit) -> GeneratedPrompt:
    """Say an edit as an instruction too: the two prompts of it differ in one noun or one colour."""
    # An article may change with its noun ("a bus", "an airplane") and is no part of the edit.
    before, after = (
        [word for word in prompt.split() if word not in {"a", "an"}]
        for prompt in (edit.source_prompt, edit.edit_prompt)
    )
    old, new = next((old, new) for old, new in zip(before, after, strict=True) if old != new)
    is_noun = old in NOUN_CODES
    return GeneratedPrompt(
        image_index=edit.image_index,
        source_prompt=edit.source_prompt,
        edit_prompt=edit.edit_prompt,
        word=edit.word,
        replacement=new if is_noun else f"{new} {edit.word}",
        instruction=f"replace the {old} with {with_article(new)}" if is_noun else f"make the {edit.word} {new}",
        kind="noun" if is_noun else "colour",
    )
