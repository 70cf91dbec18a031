"""The named trainings: what ``iedit_model`` calls ``paper`` and ``stable``, and the rows of Table 2, on a profile."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from flows.config.overrides import changed
from flows.config.profiles import load_profile
from flows.errors import SettingError
from iedit_model.training.config import TrainConfig, paper, stable, table2_rows
from tasks.train.run_config import RowsConfig, TrainRunConfig

_MACHINE: Final = ("precision", "checkpoint_unet", "checkpoint_decoder")
"""What the machine wants is the profile's, all else the named configuration's."""


def named_trainings() -> dict[str, tuple[TrainConfig, RowsConfig]]:
    """Return the named configurations.

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


def resolve_training(profile: str, name: str, settings: Mapping[str, Any] | None = None) -> TrainRunConfig:
    """Return the run of a profile under a named configuration, with a person's own values.

    Args:
        profile: mini or sd14.
        name: one of ``named_trainings``.
        settings: changes as ``flows.config.overrides.changed`` takes them, ``train.loss.t_min`` for instance.

    Raises:
        ProfileError: there is no such profile.
        SettingError: no configuration of that name, no such setting, or a value that it cannot have.
    """
    base, named = load_profile(profile).train, named_trainings()
    if name not in named:
        raise SettingError(f"there is no training {name!r}; there are {', '.join(named)}")
    train, rows = named[name]
    machine = {field: getattr(base.train, field) for field in _MACHINE}
    config = replace(base, train=replace(train, **machine), rows=replace(base.rows, prompts=rows.prompts))
    return changed(config, settings or {})
