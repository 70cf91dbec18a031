"""What a profile's training is: its models, its precision, and the named configurations of ``iedit_model``."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from flows.errors import ProfileError, SettingError
from flows.profiles import WEIGHTS
from flows.settings import changed
from iedit_model.model_source import ModelSource
from iedit_model.train_config import TrainConfig, paper, stable, table2_rows
from tasks.training.run_config import CacheConfig, ComputeConfig, RowsConfig, TrainRunConfig


def mini_training() -> TrainRunConfig:
    """Return the run of the miniature: its own models, fp32."""
    return TrainRunConfig(
        model=ModelSource(name=str(WEIGHTS / "ldm")),
        clip=ModelSource(name=str(WEIGHTS / "clip")),
        perceptual=ModelSource(name=str(WEIGHTS / "perceptual")),
    )


def sd14_training() -> TrainRunConfig:
    """Return the run of the paper's models: Stable Diffusion v1.4, CLIP ViT-B/32 and VGG16."""
    return TrainRunConfig(
        model=ModelSource(name="CompVis/stable-diffusion-v1-4"),
        clip=ModelSource(name="timm/vit_base_patch32_clip_224.openai"),
        perceptual=ModelSource(name="timm/vgg16.tv_in1k"),
        tiny_decoder=ModelSource(name="madebyollin/taesd"),
        train=TrainConfig(precision="bf16"),
        cache=CacheConfig(dtype="fp16", batch_size=32, decode_threads=8),
        compute=ComputeConfig(judge_precision="bf16"),
    )


TRAININGS: Final[Mapping[str, Callable[[], TrainRunConfig]]] = {"mini": mini_training, "sd14": sd14_training}
"""Profile -> its run."""


def named_trainings() -> dict[str, tuple[TrainConfig, RowsConfig]]:
    """Return the named configurations: ``paper``, ``stable`` and the rows of Table 2 that have weights of their own."""
    named = {"paper": (paper(), RowsConfig()), "stable": (stable(), RowsConfig())}
    for name, row in table2_rows().items():
        if row.weights_of is None:
            named[name] = (row.config, RowsConfig(prompts=row.data))
    return named


def resolve_training(profile: str, name: str, settings: Mapping[str, Any] | None = None) -> TrainRunConfig:
    """Return the run of a profile under a named configuration, with a person's own values.

    Args:
        profile: mini or sd14.
        name: one of ``named_trainings``.
        settings: changes as ``flows.settings.changed`` takes them, ``train.loss.t_min`` for instance.

    Raises:
        ProfileError: there is no such profile.
        SettingError: no configuration of that name, no such setting, or a value that it cannot have.
    """
    if profile not in TRAININGS:
        raise ProfileError(f"there is no profile {profile!r}; there are {', '.join(TRAININGS)}")
    named = named_trainings()
    if name not in named:
        raise SettingError(f"there is no training {name!r}; there are {', '.join(named)}")
    base, (train, rows) = TRAININGS[profile](), named[name]
    # The precision belongs to the profile's machine, all else to the named configuration.
    config = replace(base, train=replace(train, precision=base.train.precision), rows=rows)
    return changed(config, settings or {})
