"""The networks of a step: what must be there, what is frozen, and that checkpointing changes no result."""

import dataclasses

import pytest
import torch

from iedit_model.errors import ConfigError
from iedit_model.training.train_models import TrainModels, prepare_models
from tests.builders.tiny_models import tiny_unet
from tests.iedit_model.train_step_cases import (
    ALPHAS,
    FULL,
    PLAIN,
    build_models,
    number,
    run,
)


@pytest.fixture(scope="module")
def models() -> TrainModels:
    return build_models()


@pytest.mark.parametrize("name", ["decoder", "clip", "perceptual", "empty_prompt_embeds"])
def test_a_model_that_a_loss_needs_and_that_is_not_there_is_named(models, name):
    config = dataclasses.replace(FULL, prompt_dropout=0.1)
    with pytest.raises(ConfigError, match=name):
        run(dataclasses.replace(models, **{name: None}), config)
    bare = TrainModels(unet=models.unet, alphas_cumprod=ALPHAS)
    assert number(run(bare, PLAIN).loss) > 0


def test_checkpointing_changes_neither_loss_nor_gradients():
    gradients = []
    for checkpointed in (False, True):
        models = build_models()
        prepare_models(models, checkpoint_unet=checkpointed, checkpoint_decoder=checkpointed)
        assert models.decoder is not None
        assert models.decoder.is_gradient_checkpointing is checkpointed
        output = run(models, FULL)
        output.loss.backward()
        gradients.append([output.loss.detach(), *(p.grad for p in models.unet.parameters() if p.grad is not None)])
    assert len(gradients[0]) == len(gradients[1]) > 50
    for one, two in zip(*gradients, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-7)


def test_checkpointing_something_that_is_no_diffusers_model_is_refused(models):
    wrapped = dataclasses.replace(models, unet=torch.nn.Sequential(models.unet))
    with pytest.raises(ConfigError, match="Sequential"):
        prepare_models(wrapped, checkpoint_unet=True)


def test_preparing_freezes_the_judges_and_leaves_the_unet_alone():
    models = build_models()
    assert models.decoder is not None
    models.decoder.requires_grad_(requires_grad=True).train()
    prepare_models(models)
    assert not models.decoder.training
    assert not any(parameter.requires_grad for parameter in models.decoder.parameters())
    assert all(parameter.requires_grad for parameter in models.unet.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_refused_before_they_learn(models, dtype):
    with pytest.raises(ConfigError, match=rf"conv_in.weight is {dtype}"):
        prepare_models(dataclasses.replace(models, unet=tiny_unet().to(dtype)))
