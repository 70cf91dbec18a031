"""The optimiser's side of a run: the scaler of fp16 survives a resume, and the average rises as it should."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator

from iedit_model.training.trainable import plan_layers
from tasks.errors import RunFolderError
from tasks.train.learner import Learner, ema_decay_at
from tests.builders.tiny_models import PROMPT_SHAPE, tiny_unet
from tests.builders.tiny_pipeline import tiny_train


class ScaledProcess:
    """The part of an accelerator that a learner uses, with torch's own scaler on the processor."""

    num_processes = 1

    def __init__(self) -> None:
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)

    def prepare_optimizer(self, optimiser: torch.optim.Optimizer, *, device_placement: bool) -> Any:
        def step() -> None:
            self.scaler.step(optimiser)
            self.scaler.update()

        return SimpleNamespace(step=step, zero_grad=optimiser.zero_grad, step_was_skipped=False)

    def clip_grad_norm_(self, parameters: list[torch.nn.Parameter], limit: float) -> torch.Tensor:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)


def learner(seed: int = 0, **fields: Any) -> tuple[Learner, torch.nn.Module, ScaledProcess]:
    unet, process = tiny_unet(seed), ScaledProcess()
    config = tiny_train(layers="middle", **fields)
    return Learner(unet, plan_layers(unet, "middle"), config, cast("Accelerator", process)), unet, process


def take_step(found: tuple[Learner, torch.nn.Module, ScaledProcess], step: int, *, factor: float = 1.0) -> None:
    learning, unet, process = found
    learning.begin(step)
    generator = torch.Generator().manual_seed(step)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    prompt = torch.randn(2, *PROMPT_SHAPE, generator=generator)
    loss = unet(latents, torch.tensor([3, 700]), encoder_hidden_states=prompt).sample.square().mean() * factor
    process.scaler.scale(loss).backward()
    learning.update(step)


def test_scale_and_growth_of_the_fp16_scaler_survive_a_resume() -> None:
    straight = learner(ema_decay=0.9)
    for step in range(3):
        take_step(straight, step)
    take_step(straight, 3, factor=float("inf"))  # backs off
    saved = json.loads(json.dumps(straight[0].scalars()))
    assert saved["scale"] == 64.0  # doubled after two good steps, then halved
    resumed = learner(ema_decay=0.9)
    resumed[0].load({name: value.clone() for name, value in straight[0].tensors().items()}, saved)
    for found in (straight, resumed):
        for step in range(4, 8):
            take_step(found, step)
    assert resumed[2].scaler.get_scale() == straight[2].scaler.get_scale() == 64.0 * 4
    first, second = straight[0].tensors(), resumed[0].tensors()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_state_of_other_parameters_is_refused() -> None:
    averaged, plain = learner(ema_decay=0.9)[0], learner()[0]
    with pytest.raises(RunFolderError, match=r"belongs to another configuration: \['average"):
        plain.load(averaged.tensors(), {})


def test_the_average_s_decay_rises_to_its_limit() -> None:
    assert [ema_decay_at(step, 0.99) for step in (0, 9, 10_000)] == [0.1, 10 / 19, 0.99]
