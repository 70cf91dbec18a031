"""From a profile's name to the configuration of a command: recipe, named training, changes of the user."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from flows.config.overrides import changed, leaves, nested
from flows.config.tree import Config, DataConfig
from flows.config.values import mini, sd14
from iedit_model.configuration import as_values
from iedit_model.errors import ConfigError
from iedit_model.training.config import TrainConfig, paper, stable, table2_rows
from tasks.mask.stage import MaskGates
from tasks.retrieve.stage import retrieval
from tasks.stages import stage_names
from tasks.train.run_config import RowsConfig, TrainRunConfig

Profile = Literal["mini", "sd14"]
Recipe = Literal["ours", "paper"]

PROFILES: Final[Mapping[str, Callable[[], Config]]] = {"mini": mini, "sd14": sd14}
"""Name -> function that makes it."""
TRAININGS: Final[Mapping[str, str]] = {"mini": "stable", "sd14": "paper"}
"""Profile -> the named training that it takes by default."""

_MACHINE: Final = ("precision", "checkpoint_unet", "checkpoint_decoder")
"""What the machine wants is the profile's, all else the named training's."""
BUILD: Final = ("data", "run.runner", "run.tag_limits", *(f"run.options.{stage}" for stage in stage_names()))
"""Sections that a build uses."""
TRAIN: Final = ("train", "run.tag_limits", "run.options.train")
EVALUATE: Final = ("evaluate", "run.runner", "run.tag_limits", "run.options.evaluate")
ALL: Final = ("data", "train", "evaluate", "run")


def load_profile(name: str) -> Config:
    """Return a profile by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PROFILES:
        raise ConfigError(f"there is no profile {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]()


def resolve(
    profile: str,
    config: Mapping[str, Any] | None = None,
    *,
    recipe: str = "ours",
    training: str | None = None,
    metadata: str | None = None,
    uses: Sequence[str] = ALL,
) -> Config:
    """Return the configuration of a profile with the user's own values.

    Args:
        profile: its name.
        config: changes as ``flows.config.overrides.changed`` takes them.
        recipe: how pairs are made: ours, or the paper's.
        training: one of ``named_trainings``; None takes the profile's.
        metadata: address of the metadata; None leaves what the profile and the changes say.
        uses: the sections that the command at hand uses (``BUILD``, ``TRAIN``, ``EVALUATE``, ``ALL``).

    Raises:
        ConfigError: no such profile, recipe, training or setting, a value that it cannot have, or one that differs from
            the profile's in a section that the command does not use.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    start = load_profile(profile)
    start = replace(start, data=RECIPES[recipe](start.data), train=trained_as(start.train, training, profile=profile))
    changes = config or {}
    result = changed(start, changes)
    check_used(changed_leaves(profile, changes), uses)
    return result if metadata is None else changed(result, {"data.source.metadata": metadata})


def changed_leaves(profile: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes that differ from the profile's own values, one entry per setting.

    What ``iedit config`` prints for a profile therefore changes nothing, whatever recipe or training a command takes.
    """
    own = dict(leaves(as_values(load_profile(profile))))
    found = leaves(nested(changes))
    return {name: value for name, value in found if name not in own or own[name] != value}


def check_used(names: Mapping[str, Any] | Sequence[str], uses: Sequence[str]) -> None:
    """Refuse settings that a command does not use.

    Raises:
        ConfigError: one of them lies in a section that is not among ``uses``.
    """
    for name in names:
        is_used = any(f"{name}.".startswith(f"{one}.") or f"{one}.".startswith(f"{name}.") for one in uses)
        if name.partition(".")[0] in ALL and not is_used:
            raise ConfigError(f"this command does not use the setting {name}; it uses {', '.join(uses)}"[:300])


def section(config: Mapping[str, Any] | None, uses: Sequence[str]) -> dict[str, Any]:
    """Return those of some changes that lie in the sections that a part of a larger flow uses."""
    found = leaves(nested(config or {}))
    return {name: value for name, value in found if any(f"{name}.".startswith(f"{one}.") for one in uses)}


def ours(data: DataConfig) -> DataConfig:
    """Return the data recipe that this project takes by default: what the profile says."""
    return data


def as_in_the_paper(data: DataConfig) -> DataConfig:
    """Return the data recipe as Section 3.1 has it: the mean of both embeddings, any word, no gates."""
    swap = replace(data.swap, min_corpus_count=0, max_levels=1, sense_policy="first")
    return replace(data, swap=swap, retrieve=retrieval("paper"), mask=replace(data.mask, gates=MaskGates()))


RECIPES: Final[Mapping[str, Callable[[DataConfig], DataConfig]]] = {"ours": ours, "paper": as_in_the_paper}
"""Name -> what it makes of a profile's data stages."""


def named_trainings() -> dict[str, tuple[TrainConfig, RowsConfig]]:
    """Return the named trainings.

    ``stable`` and ``paper``; the rows of Table 2 that have weights of their own, as changes of ``paper`` in the loss
    (``global_ldm_loc``) or of any of the two (``stable/global_ldm_loc``).
    """
    bases = {"stable": stable(), "paper": paper()}
    named = {name: (config, RowsConfig()) for name, config in bases.items()}
    for base, config in bases.items():
        for name, row in table2_rows(config).items():
            if row.weights_of is None:
                named[f"{base}/{name}"] = (row.config, RowsConfig(prompts=row.data))
    return named | {name.partition("/")[2]: found for name, found in named.items() if name.startswith("paper/")}


def trained_as(run: TrainRunConfig, training: str | None, *, profile: str) -> TrainRunConfig:
    """Return a profile's run under a named training; the paper's trainings take all pairs, not a selection of ours.

    Raises:
        ConfigError: there is no training of that name.
    """
    name, named = training or TRAININGS[profile], named_trainings()
    if name not in named:
        raise ConfigError(f"there is no training {name!r}; there are {', '.join(named)}")
    train, rows = named[name]
    machine = {field: getattr(run.train, field) for field in _MACHINE}
    where = run.rows.where if name.partition("/")[0] == "stable" else None
    return replace(run, train=replace(train, **machine), rows=replace(run.rows, prompts=rows.prompts, where=where))
