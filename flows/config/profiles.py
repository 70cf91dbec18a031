"""The profiles: functions that return a PipelineConfig. The only place where they differ, and by values alone."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import miniature
from flows.config.overrides import changed
from flows.config.tree import (
    SITE_HOST,
    OptionsByStage,
    PipelineConfig,
    RunnerConfig,
    SiteConfig,
    SourceConfig,
    TagLimit,
    TaskOptions,
)
from flows.errors import ProfileError
from iedit_model.models.captioner import CaptionerSpec
from iedit_model.models.clip import ClipSpec
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.segmenter import SegmenterSpec
from iedit_model.models.source import ModelSource
from iedit_model.training.config import paper, stable
from tasks.caption import CaptionConfig
from tasks.download.client import FetchConfig
from tasks.download.image_body import ImageConfig
from tasks.download.rounds import RetryConfig
from tasks.download.stage import DownloadConfig
from tasks.embed.stage import EmbedConfig
from tasks.images.stored_images import BatchConfig
from tasks.index.stage import IndexConfig
from tasks.mask.stage import MaskConfig, MaskGates
from tasks.pack.stage import PackConfig
from tasks.plan.stage import FilterConfig, PlanConfig
from tasks.retrieve.gates import GateConfig
from tasks.retrieve.stage import retrieval
from tasks.swap.stage import SwapConfig
from tasks.train.run_config import CacheConfig, ComputeConfig, LoopConfig, RowsConfig, TrainRunConfig

Profile = Literal["mini", "sd14"]
Recipe = Literal["ours", "paper"]

WEIGHTS: Final = Path(miniature.__file__).parent / "weights"
"""Folder of the miniature's trained family."""

GPU_TAG: Final = "iedit-gpu"
"""Tag of the tasks that want a GPU for themselves."""
ONE_GPU: Final = (TagLimit(tag=GPU_TAG, limit=1),)
"""One of them at a time, whichever flow it belongs to."""


PLACED: Final = (
    "target_text_similarity > 0.88 and outside_similarity > 0.93"
    " and (mask_iou > 0.65 or (pos == 'noun' and (mask_iou > 0.5 or (layout_similarity > 0.75 and mask_iou > 0.35))))"
)
"""Pairs of the miniature, eight of ten in the source's place, the only ones that help: docs/experiments.md."""


def mini() -> PipelineConfig:
    """Return the embedded default: a small picture world, its own web site, and models trained on it."""
    fp32 = DeviceConfig(dtype="fp32")
    quick = TaskOptions(retry_delay_s=1.0, timeout_s=3600.0)
    site = SiteConfig(num_urls=6000)
    # Each worker has a core; handing a picture of 64 x 64 to another thread takes longer than decoding it.
    batch = BatchConfig(size=64, decode_threads=0)
    return PipelineConfig(
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
        train=TrainRunConfig(
            model=_member("ldm"),
            clip=_member("clip"),
            perceptual=_member("perceptual"),
            train=stable(),
            rows=RowsConfig(where=PLACED),
            loop=LoopConfig(save_every=100, validate_every=0),
        ),
        runner=RunnerConfig(workers=2, downloads=6),
        options=_data_stages(quick, train=TaskOptions(retry_delay_s=30.0, tags=(GPU_TAG,))),
    )


def sd14() -> PipelineConfig:
    """Return the paper's real models by name, at the sizes that Stable Diffusion v1.4 and its data want."""
    on_gpu = TaskOptions(retry_delay_s=30.0, timeout_s=6 * 3600.0, tags=(GPU_TAG,), gpus=1.0)
    on_cpu = TaskOptions(retry_delay_s=30.0, timeout_s=6 * 3600.0)
    clip = "open_clip:ViT-L-14-quickgelu:openai"
    return PipelineConfig(
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
        train=TrainRunConfig(
            model=ModelSource(name="CompVis/stable-diffusion-v1-4"),
            clip=ModelSource(name="open_clip:ViT-B-32-quickgelu:openai"),
            perceptual=ModelSource(name="timm/vgg16.tv_in1k"),
            tiny_decoder=ModelSource(name="madebyollin/taesd"),
            train=replace(paper(), precision="fp16", checkpoint_unet=True, checkpoint_decoder=True),
            cache=CacheConfig(dtype="fp16", batch_size=32, decode_threads=8),
            compute=ComputeConfig(loss_precision="fp16"),
            loop=LoopConfig(validate_every=500),
        ),
        runner=RunnerConfig(workers=4, downloads=2),
        options=OptionsByStage(
            plan=on_cpu,
            download=on_cpu,
            caption=on_gpu,
            words=on_cpu,
            swap=on_cpu,
            embed=on_gpu,
            index=on_gpu,
            retrieve=on_gpu,
            mask=on_gpu,
            pack=on_cpu,
            train=replace(on_gpu, timeout_s=None),
        ),
        tag_limits=ONE_GPU,
    )


PROFILES: Final[Mapping[str, Callable[[], PipelineConfig]]] = {"mini": mini, "sd14": sd14}
"""Name -> function that makes it."""


def load_profile(name: str) -> PipelineConfig:
    """Return a profile by its name.

    Raises:
        ProfileError: there is none of that name.
    """
    if name not in PROFILES:
        raise ProfileError(f"there is no profile {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]()


def ours(config: PipelineConfig) -> PipelineConfig:
    """Return the data recipe that this project takes by default: what the profile says."""
    return config


def as_in_the_paper(config: PipelineConfig) -> PipelineConfig:
    """Return the data recipe as Section 3.1 has it: the mean of both embeddings, any word, no gates."""
    swap = replace(config.swap, min_corpus_count=0, max_levels=1, sense_policy="first")
    mask = replace(config.mask, gates=MaskGates())
    return replace(config, swap=swap, retrieve=retrieval("paper"), mask=mask)


RECIPES: Final[Mapping[str, Callable[[PipelineConfig], PipelineConfig]]] = {"ours": ours, "paper": as_in_the_paper}
"""Name -> what it makes of a profile's data stages."""


def resolve(
    profile: str,
    settings: Mapping[str, Any] | None = None,
    *,
    recipe: str = "ours",
    metadata: str | None = None,
) -> PipelineConfig:
    """Return the configuration of a profile with a person's own values.

    Args:
        profile: its name.
        recipe: how pairs are made: ours, or the paper's.
        settings: changes as ``flows.config.overrides.changed`` takes them.
        metadata: address of the metadata; None leaves what the profile and the settings say.

    Raises:
        ProfileError: there is no such profile.
        SettingError: a setting does not exist or cannot have that value.
    """
    if recipe not in RECIPES:
        raise ProfileError(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    config = changed(RECIPES[recipe](load_profile(profile)), settings or {})
    return config if metadata is None else changed(config, {"source.metadata": metadata})


def _member(name: str) -> ModelSource:
    return ModelSource(name=str(WEIGHTS / name))


def _data_stages(options: TaskOptions, *, train: TaskOptions) -> OptionsByStage:
    return OptionsByStage(
        plan=options,
        download=options,
        caption=options,
        words=options,
        swap=options,
        embed=options,
        index=options,
        retrieve=options,
        mask=options,
        pack=options,
        train=train,
    )
