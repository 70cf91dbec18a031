"""What a profile's training is: its models, its precision, and the named configurations of ``iedit_model``."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
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
    given = dict(settings or {})
    own = {name: given.pop(name) for name in tuple(given) if name.partition(".")[0] == "train"}
    return replace(changed(config, given), train=_self_checked(config.train, own, "train"))


def _self_checked(config: Any, changes: Mapping[str, Any], place: str) -> Any:
    """Return a copy with other values of a dataclass that tells no types but checks itself (``TrainConfig``).

    ``changes`` holds, under names that begin with ``place``, values or mappings of them.
    """
    known = {entry.name for entry in fields(config)}
    values: dict[str, Any] = {}
    for key, given in _flat(changes).items():
        name, _, rest = key.removeprefix(f"{place}.").partition(".")
        if name not in known or (rest and not is_dataclass(getattr(config, name))):
            near = get_close_matches(name, known, n=3) or sorted(known)
            raise SettingError(
                f"there is no setting {key!r}; did you mean {', '.join(f'{place}.{one}' for one in near)}?"
            )
        if is_dataclass(getattr(config, name)):
            inner = values.get(name, getattr(config, name))
            values[name] = _self_checked(inner, {key: given}, f"{place}.{name}")
        else:
            values[name] = tuple(given) if isinstance(given, list) else given
    return replace(config, **values)


def _flat(changes: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in changes.items():
        flat |= _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return flat
