"""Configurations: what is refused, what the named ones say, and that every deviation from the paper is told."""

import dataclasses
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iedit_model.errors import ConfigError
from iedit_model.training.config import LossConfig, TrainConfig, deviations, paper, stable, table2_rows


def test_the_paper_configuration_is_what_sections_three_and_four_say():
    config = paper()
    loss = config.loss
    assert (config.learning_rate, config.batch_size, config.num_steps, config.layers) == (2e-4, 1, 10_000, "alternate")
    assert (loss.noise_loss, loss.use_global, loss.use_loc, loss.use_perc) == ("mask", True, True, True)
    assert (loss.noise_weight, loss.global_weight, loss.loc_weight, loss.lambda_perc) == (1, 1, 1, None)
    assert (loss.t_weighting, loss.mask_policy, loss.mask_fill, loss.perc_align) == ("paper", "paper", "grey", "none")
    assert (loss.min_snr_gamma, loss.prompt_dropout, loss.t_min, loss.t_max) == (None, 0, 0, None)
    assert (loss.target_denoising_weight, loss.source_denoising_weight) == (0, 0)
    assert deviations(config, paper()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"noise_loss": "l2"},
        {"mask_policy": "both"},
        {"noise_weight": -1.0},
        {"global_weight": math.nan},
        {"loc_weight": math.inf},
        {"lambda_perc": -0.1},
        {"min_snr_gamma": 0.0},
        {"denoising_min_snr_gamma": -5.0},
        {"prompt_dropout": 1.0},
        {"t_min": "0"},
        {"latent_mask_threshold": 0.0},
        {"latent_mask_dilation": -1},
        {"crop_margin": -0.1},
        {"pixel_loss_every": 0},
        {"pixel_loss_t_max": 0},
        {"perc_size_px": 0},
        {"t_min": -1},
        {"t_min": 500, "t_max": 500},
    ],
)
def test_an_impossible_loss_setting_is_refused_with_its_name_and_value(change: dict[str, Any]):
    name, value = list(change.items())[-1]
    with pytest.raises(ConfigError, match=name) as caught:
        LossConfig(**change)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": "decoder"},
        {"precision": "int8"},
        {"num_steps": 0},
        {"batch_size": 0},
        {"accumulation": 0},
        {"alternate_every": 0},
        {"lora_rank": 0},
        {"learning_rate": 0.0},
        {"adam_epsilon": -1e-8},
        {"warmup_steps": -1},
        {"weight_decay": -0.1},
        {"betas": (0.9, 1.0)},
        {"max_grad_norm": 0.0},
        {"ema_decay": 1.0},
        {"seed": -1},
    ],
)
def test_an_impossible_training_setting_is_refused_with_its_name_and_value(change: dict[str, Any]):
    ((name, value),) = change.items()
    with pytest.raises(ConfigError, match=name) as caught:
        TrainConfig(**change)
    assert repr(value[1] if isinstance(value, tuple) else value) in str(caught.value)


def test_a_configuration_without_any_loss_is_refused():
    with pytest.raises(ConfigError, match="every loss"):
        LossConfig(noise_weight=0.0, use_global=False, use_loc=False, use_perc=False)


@pytest.mark.parametrize("skips", [{"pixel_loss_every": 2}, {"pixel_loss_t_max": 900}, {"prompt_dropout": 0.1}])
def test_losses_on_pixels_alone_may_not_be_skipped(skips: dict[str, Any]):
    LossConfig(noise_weight=0.0)
    LossConfig(noise_weight=0.0, target_denoising_weight=1.0, **skips)
    with pytest.raises(ConfigError, match="no loss at all"):
        LossConfig(noise_weight=0.0, **skips)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4))
def test_pixel_losses_must_reach_both_turns_of_the_alternation(pixel_loss_every, alternate_every):
    """Accepted exactly when some step with pixel losses falls on the mid block's turn."""
    turns = {step // alternate_every % 2 for step in range(0, 200, pixel_loss_every)}
    loss = LossConfig(pixel_loss_every=pixel_loss_every)
    if turns == {0, 1}:
        assert TrainConfig(loss=loss, alternate_every=alternate_every).loss is loss
    else:
        with pytest.raises(ConfigError, match="mid block"):
            TrainConfig(loss=loss, alternate_every=alternate_every)
    TrainConfig(loss=loss, alternate_every=alternate_every, layers="both")


def test_the_rate_warms_up_linearly_then_stays_or_falls_to_zero():
    constant = TrainConfig(learning_rate=1.0, warmup_steps=4, num_steps=10)
    assert [constant.learning_rate_at(step) for step in (0, 1, 3, 4, 9)] == pytest.approx([0.25, 0.5, 1, 1, 1])
    cosine = TrainConfig(learning_rate=1.0, warmup_steps=2, num_steps=10, schedule="cosine")
    expected = [0.5, 1.0] + [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)] + [0.0, 0.0]
    assert [cosine.learning_rate_at(step) for step in range(12)] == pytest.approx(expected, abs=1e-12)
    assert paper().learning_rate_at(0) == paper().learning_rate_at(9999) == 2e-4


def test_table_two_has_the_papers_rows_in_order_and_the_missing_control_last():
    rows = table2_rows()
    told = {
        name: (row.data, row.config.loss.noise_loss, row.config.loss.use_loc, row.config.loss.use_perc, row.infer_mask)
        for name, row in rows.items()
    }
    assert list(told.items()) == [
        ("global_paired_caption", ("caption", "paired", False, False, "none")),
        ("global_ldm_loc", ("edit", "ldm", True, False, "none")),
        ("global_ldm_loc_perc", ("edit", "ldm", True, True, "none")),
        ("iedit", ("edit", "mask", True, True, "none")),
        ("iedit_m", ("edit", "mask", True, True, "auto")),
        ("global_paired_edit", ("edit", "paired", False, False, "none")),
    ]
    assert all(row.config.loss.use_global for row in rows.values())
    assert rows["iedit"].config == paper()
    assert [name for name, row in rows.items() if row.weights_of] == ["iedit_m"]
    assert rows["iedit_m"].weights_of == "iedit"
    assert rows["iedit_m"].config == rows["iedit"].config


def test_the_rows_keep_everything_else_of_the_configuration_they_start_from():
    base = TrainConfig(learning_rate=1e-5, layers="lora", loss=LossConfig(t_min=300, mask_policy="union"))
    for row in table2_rows(base).values():
        assert dataclasses.replace(row.config, loss=base.loss) == base
        assert (row.config.loss.t_min, row.config.loss.mask_policy) == (300, "union")


def test_the_stable_configuration_names_each_of_its_deviations():
    told = deviations(stable(), paper())
    named = {line.split(" = ")[0] for line in told}
    literal, changed = dataclasses.asdict(paper()), dataclasses.asdict(stable())
    inner, outer = (literal.pop("loss"), changed.pop("loss")), (literal, changed)
    expected = {f"loss.{name}" for name in inner[0] if inner[0][name] != inner[1][name]}
    expected |= {name for name in outer[0] if outer[0][name] != outer[1][name]}
    assert named == expected
    assert "loss.mask_policy = 'union' instead of 'paper'" in told
    assert "ema_decay = 0.99 instead of None (the paper does not state it)" in told


def test_what_cannot_change_results_is_no_deviation():
    assert deviations(TrainConfig(seed=7, checkpoint_unet=True, checkpoint_decoder=True), paper()) == []


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (part, entry.name, getattr(paper().loss if part == "loss" else paper(), entry.name))
        for part, kind in (("loss", LossConfig), ("", TrainConfig))
        for entry in dataclasses.fields(kind)
        if entry.name not in ("loss", "seed", "checkpoint_unet", "checkpoint_decoder")
    ],
)
def test_any_one_changed_setting_is_told_alone(section, name, value):
    changed = _another(name, value)
    config = TrainConfig(loss=LossConfig(**{name: changed})) if section else TrainConfig(**{name: changed})
    (line,) = deviations(config, paper())
    assert line.startswith(f"{section}.{name} = " if section else f"{name} = ")


def _another(name: str, value: Any) -> Any:
    """Return another permitted value of a setting."""
    by_name = {
        "noise_loss": "ldm",
        "t_weighting": "none",
        "perc_t_weight": "one_minus",
        "mask_policy": "union",
        "mask_normalisation": "mask_area",
        "soft_mask": "linear",
        "empty_mask": "drop",
        "latent_mask_mode": "max",
        "mask_fill": "blur",
        "perc_layer": "relu2_2",
        "perc_align": "gram",
        "decoder": "tiny",
        "layers": "both",
        "schedule": "cosine",
        "precision": "bf16",
        "blend_noise": "fresh",
        "betas": (0.9, 0.99),
        "pixel_loss_every": 3,
        "pixel_loss_t_max": 900,
        "perc_size_px": 224,
        "t_max": 900,
    }
    if name in by_name:
        return by_name[name]
    if isinstance(value, bool):
        return not value
    if value is None:
        return 0.5
    return value + 1 if isinstance(value, int) else value / 2 + 0.01


def test_the_configuration_can_be_read_without_torch():
    code = "import sys, iedit_model.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
