"""Which parameters of the UNet learn in which optimiser step.

Section 4.1 of the paper: "we update the input and middle layers of the UNet in an alternate way".

The original code's input blocks are ``conv_in`` and ``down_blocks`` here, its middle block ``mid_block``; the time
embedding stands apart in both and stays frozen. A parameter that does not learn in a step has no gradient at all
(None): AdamW would go on decaying and moving one whose gradient is zero.
"""

from collections.abc import Callable
from dataclasses import dataclass

from diffusers import UNet2DConditionModel
from torch import nn

from iedit_model.errors import ConfigError
from iedit_model.training.config import LayerPolicy

_INPUT = ("conv_in.", "down_blocks.")
_MIDDLE = ("mid_block.",)
_ATTENTION = (".attn1.", ".attn2.")
_ADAPTER = ".lora_"
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The attention layers' linear maps, which ``lora`` adapts."""


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """Parameter names that learn together, and how long each phase lasts."""

    phases: tuple[tuple[str, ...], ...]
    """One tuple of names per phase, in the model's order; the phases are cycled."""
    steps_per_phase: int = 1
    """Optimiser steps per phase."""

    def phase_at(self, step: int) -> int:
        """Return which phase optimiser step ``step`` (0 is the first) belongs to."""
        return step // self.steps_per_phase % len(self.phases)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that learns at some step, once, phase after phase."""
        return tuple(dict.fromkeys(name for phase in self.phases for name in phase))


def plan_layers(
    unet: UNet2DConditionModel,
    policy: LayerPolicy,
    *,
    steps_per_phase: int = 1,
    lora_rank: int = 16,
    lora_alpha: int = 16,
) -> LayerPlan:
    """Return the plan that a policy makes for a UNet and freeze every parameter of it.

    For ``lora`` low-rank adapters are added to the attention layers first; they start as zero maps, so the model's
    output does not change, and ``merge_lora`` folds them into ordinary weights again.

    Args:
        unet: diffusers' ``UNet2DConditionModel``, unwrapped.
        policy: alternate, input, middle, both, all, attention or lora; see ``TrainConfig.layers``.
        steps_per_phase: optimiser steps per phase of ``alternate``.
        lora_rank: rank of the adapters.
        lora_alpha: their scale is ``lora_alpha / lora_rank``.

    Raises:
        ConfigError: the UNet has no parameter of the kind that the policy asks for.
    """
    unet.requires_grad_(requires_grad=False)
    if policy == "lora":
        _add_adapters(unet, rank=lora_rank, alpha=lora_alpha)
    wanted: dict[LayerPolicy, tuple[Callable[[str], bool], ...]] = {
        "alternate": (_starts_with(_INPUT), _starts_with(_MIDDLE)),
        "input": (_starts_with(_INPUT),),
        "middle": (_starts_with(_MIDDLE),),
        "both": (_starts_with(_INPUT + _MIDDLE),),
        "all": (lambda _: True,),
        "attention": (lambda name: any(part in name for part in _ATTENTION),),
        "lora": (lambda name: _ADAPTER in name,),
    }
    names = [name for name, _ in unet.named_parameters()]
    phases = tuple(tuple(filter(belongs, names)) for belongs in wanted[policy])
    if not all(phases):
        raise ConfigError(f"layers={policy!r} finds no parameter in a {type(unet).__name__}; choose another policy")
    unet.requires_grad_(requires_grad=False)
    return LayerPlan(phases=phases, steps_per_phase=steps_per_phase)


def planned_parameters(unet: UNet2DConditionModel, plan: LayerPlan) -> dict[str, nn.Parameter]:
    """Return every parameter that learns at some step, by name: what the optimiser and the moving average hold."""
    parameters = dict(unet.named_parameters())
    return {name: parameters[name] for name in plan.names}


def activate_phase(unet: UNet2DConditionModel, plan: LayerPlan, step: int) -> dict[str, nn.Parameter]:
    """Let exactly the parameters of optimiser step ``step`` learn, and return them by name.

    All others are frozen and lose their gradient. Those that learn keep theirs, so that the call may stand at the head
    of each micro-step.
    """
    chosen = frozenset(plan.phases[plan.phase_at(step)])
    active = {}
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name in chosen)
        if name in chosen:
            active[name] = parameter
        else:
            parameter.grad = None
    return active


def merge_lora(unet: UNet2DConditionModel) -> None:
    """Fold the adapters of ``lora`` into the attention weights and remove them, so that the UNet is an ordinary one.

    Raises:
        ConfigError: the UNet has no adapters.
    """
    if not any(_ADAPTER in name for name, _ in unet.named_parameters()):
        raise ConfigError("there is no adapter to merge; the UNet was not trained with layers='lora'")
    unet.fuse_lora()
    unet.unload_lora()


def _starts_with(prefixes: tuple[str, ...]) -> Callable[[str], bool]:
    return lambda name: name.startswith(prefixes)


def _add_adapters(unet: UNet2DConditionModel, *, rank: int, alpha: int) -> None:
    from peft import LoraConfig

    unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LORA_TARGETS)))
