"""Which parameters learn at which step: exactly the intended ones, by name, by gradient and by the optimiser."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iedit_model.errors import ConfigError
from iedit_model.training.config import LayerPolicy
from iedit_model.training.trainable import LayerPlan, activate_phase, merge_lora, plan_layers, planned_parameters
from tests.builders.tiny_models import LATENT_SHAPE, PROMPT_SHAPE, tiny_unet


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, *LATENT_SHAPE, generator=generator)
    return latents, torch.tensor([10, 700])[:batch], torch.randn(batch, *PROMPT_SHAPE, generator=generator)


def predict(unet: UNet2DConditionModel) -> Tensor:
    latents, timesteps, prompt_embeds = inputs()
    return unet(latents, timesteps, encoder_hidden_states=prompt_embeds).sample


def with_gradient(unet: UNet2DConditionModel) -> set[str]:
    return {name for name, parameter in unet.named_parameters() if parameter.grad is not None}


def of_modules(unet: UNet2DConditionModel, *modules: str) -> set[str]:
    """Names under some top-level modules, collected from the modules themselves."""
    return {f"{module}.{name}" for module in modules for name, _ in getattr(unet, module).named_parameters()}


def expected_phases(unet: UNet2DConditionModel, policy: LayerPolicy) -> list[set[str]]:
    """What a policy should train, told by module tree rather than by prefix."""
    entry, middle = of_modules(unet, "conv_in", "down_blocks"), of_modules(unet, "mid_block")
    attention = {
        f"{path}.{name}"
        for path, module in unet.named_modules()
        if type(module).__name__ == "Attention"
        for name, _ in module.named_parameters()
    }
    everything = {name for name, _ in unet.named_parameters()}
    return {
        "alternate": [entry, middle],
        "input": [entry],
        "middle": [middle],
        "both": [entry | middle],
        "all": [everything],
        "attention": [attention],
    }[policy]


@pytest.mark.parametrize("policy", ["alternate", "input", "middle", "both", "all", "attention"])
def test_gradients_reach_exactly_the_parameters_of_the_step_and_no_others(policy):
    unet = tiny_unet()
    plan = plan_layers(unet, policy)
    expected = expected_phases(unet, policy)
    for step in range(3):
        assert set(activate_phase(unet, plan, step)) == expected[step % len(expected)]
        predict(unet).square().mean().backward()
        found = {name: parameter.grad for name, parameter in unet.named_parameters() if parameter.grad is not None}
        assert set(found) == expected[step % len(expected)]
        assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in found.values())
    assert set(plan.names) == set().union(*expected)
    assert set(planned_parameters(unet, plan)) == set(plan.names)


def test_the_time_embedding_and_the_output_side_never_learn_in_the_papers_policy():
    unet = tiny_unet()
    frozen = of_modules(unet, "time_embedding", "up_blocks", "conv_norm_out", "conv_out")
    assert frozen
    assert frozen.isdisjoint(plan_layers(unet, "alternate").names)
    assert frozen | set(plan_layers(unet, "alternate").names) == {name for name, _ in unet.named_parameters()}


def test_an_optimiser_over_all_planned_parameters_moves_only_those_of_the_turn():
    """Weight decay and momentum would move a parameter whose gradient is zero rather than None."""
    unet = tiny_unet()
    plan = plan_layers(unet, "alternate")
    optimiser = torch.optim.AdamW(planned_parameters(unet, plan).values(), lr=1e-2, weight_decay=0.1)
    for step in range(4):
        before = {name: parameter.detach().clone() for name, parameter in unet.named_parameters()}
        activate_phase(unet, plan, step)
        optimiser.zero_grad(set_to_none=True)
        predict(unet).square().mean().backward()
        optimiser.step()
        moved = {name for name, parameter in unet.named_parameters() if not torch.equal(parameter, before[name])}
        assert moved == set(plan.phases[step % 2])


def test_gradients_of_the_turn_are_kept_over_micro_steps_and_dropped_at_the_next_turn():
    unet = tiny_unet()
    plan = plan_layers(unet, "alternate")
    activate_phase(unet, plan, 0)
    predict(unet).square().mean().backward()
    once = unet.conv_in.weight.grad.clone()  # type: ignore[union-attr]
    activate_phase(unet, plan, 0)
    predict(unet).square().mean().backward()
    assert unet.conv_in.weight.grad is not None
    assert torch.allclose(unet.conv_in.weight.grad, 2 * once, rtol=1e-4)
    activate_phase(unet, plan, 1)
    assert with_gradient(unet) == set()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 100))
def test_turns_last_their_steps_and_come_round(num_phases, steps_per_phase, step):
    plan = LayerPlan(phases=tuple((str(i),) for i in range(num_phases)), steps_per_phase=steps_per_phase)
    told = [phase for _ in range(101) for phase in range(num_phases) for _ in range(steps_per_phase)]
    assert plan.phase_at(step) == told[step]


def test_adapters_alone_learn_and_change_nothing_before_their_first_step():
    unet = tiny_unet()
    before, names = predict(unet).detach(), {name for name, _ in unet.named_parameters()}
    plan = plan_layers(unet, "lora", lora_rank=2, lora_alpha=4)
    assert torch.allclose(predict(unet), before, atol=1e-6)
    activate_phase(unet, plan, 0)
    predict(unet).square().mean().backward()
    assert with_gradient(unet) == set(plan.names)
    assert all("lora_" in name for name in plan.names)
    assert len(plan.names) == 2 * sum(".to_" in name and name.endswith("weight") for name in names)


def test_merged_adapters_leave_an_ordinary_unet_with_the_same_output():
    unet = tiny_unet()
    names = {name for name, _ in unet.named_parameters()}
    plan = plan_layers(unet, "lora", lora_rank=2, lora_alpha=4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in planned_parameters(unet, plan).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    trained = predict(unet).detach()
    assert not torch.allclose(trained, predict(tiny_unet()), atol=1e-3)
    merge_lora(unet)
    assert {name for name, _ in unet.named_parameters()} == names
    assert torch.allclose(predict(unet), trained, atol=1e-5)
    with pytest.raises(ConfigError, match="adapter"):
        merge_lora(unet)


def test_a_policy_that_finds_nothing_is_refused():
    plain = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        norm_num_groups=4,
        cross_attention_dim=8,
    )
    for policy in ("middle", "alternate", "attention"):
        with pytest.raises(ConfigError, match=policy):
            plan_layers(plain, policy)
