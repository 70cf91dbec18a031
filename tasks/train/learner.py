"""The part of a run that learns: device and precision, parameters, AdamW, clipping, warm-up, averaged weights."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iedit_model.errors import ConfigError
from iedit_model.models.source import CARD, described_limits, read_model_json
from iedit_model.training.config import LayerPolicy, TrainConfig
from iedit_model.training.trainable import LayerPlan, activate_phase, merge_lora, planned_parameters
from storage.atomic import replace_bytes
from tasks.errors import MissingPackageError, RunFolderError
from tasks.train.run_config import ComputeConfig
from tasks.train.run_folder import copy_once

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import Tensor, nn


_ACCELERATE_NAMES: Final = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def build_accelerator(train: TrainConfig, compute: ComputeConfig) -> "Accelerator":
    """Return an accelerator for one run.

    Raises:
        ConfigError: a GPU is asked for that is not there, or fp16 without one.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    on_gpu = compute.device != "cpu" and torch.cuda.is_available()
    if compute.device == "cuda" and not on_gpu:
        raise ConfigError("compute.device is 'cuda', but torch finds no GPU here: take 'auto' or 'cpu'")
    if not on_gpu and "fp16" in (train.precision, compute.loss_precision):
        raise ConfigError("fp16 was asked for, but there is only a CPU here, which has no arithmetic for it")
    # accelerate keeps precision and accumulation of the first run in a process and refuses those of a second one.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(
        cpu=not on_gpu,
        mixed_precision=_ACCELERATE_NAMES[train.precision],
        gradient_accumulation_steps=train.accumulation,
    )


def set_up_unet(unet: Any, compute: ComputeConfig, *, on_gpu: bool) -> None:
    """Choose attention and memory format of a UNet, and compile it where that is asked for."""
    import torch
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    eager = compute.attention == "eager" or (compute.attention == "auto" and not on_gpu)
    unet.set_attn_processor(AttnProcessor() if eager else AttnProcessor2_0())
    if compute.channels_last:
        unet.to(memory_format=torch.channels_last)
    if compute.compile_unet:
        unet.compile()


def autocast_unet(unet: Any, accelerator: "Accelerator") -> Any:
    """Return a module that calls the UNet in the run's precision; everything around it stays in fp32."""
    from torch import nn

    class AutocastUNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with accelerator.autocast():
                return self.unet(*args, **kwargs)

    return AutocastUNet()


_WEIGHT, _AVERAGE, _OPTIMISER = "weight.", "average.", "optimiser."
_INDEX: Final = "model_index.json"
_UNET: Final = "unet"
_FROZEN: Final = ("vae", "text_encoder", "tokenizer", "scheduler", "feature_extractor", "safety_checker")
_EMA_DELAY: Final = 10


def ema_decay_at(step: int, decay: float) -> float:
    """Return the average's decay in optimiser step ``step`` (0 the first): (1 + step) / (10 + step), at most ``decay``.

    The same rise as in diffusers' ``EMAModel``, so that the first steps do not stick to the untrained weights.
    """
    return min(decay, (1 + step) / (_EMA_DELAY + step))


class Learner:
    """Optimiser and average over every parameter that learns at some step; the rest of the UNet stays as it was."""

    def __init__(self, unet: Any, plan: LayerPlan, config: TrainConfig, accelerator: "Accelerator") -> None:
        self._unet, self._plan, self._config, self._accelerator = unet, plan, config, accelerator
        self._parameters: dict[str, nn.Parameter] = planned_parameters(unet, plan)
        self._plain = build_optimiser(list(self._parameters.values()), config)
        self._optimiser: Any = accelerator.prepare_optimizer(self._plain, device_placement=False)
        self._average: dict[str, Tensor] = {}
        if config.ema_decay is not None:
            self._average = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._active: dict[str, nn.Parameter] = {}

    @property
    def num_parameters(self) -> int:
        """How many numbers learn at some step."""
        return sum(value.numel() for value in self._parameters.values())

    @property
    def skipped(self) -> bool:
        """Whether the last update was left out, since a scaled fp16 gradient overflowed."""
        return bool(self._optimiser.step_was_skipped)

    def begin(self, step: int) -> None:
        """Let the parameters of optimiser step ``step`` learn, none other, and set its rate."""
        self._active = activate_phase(self._unet, self._plan, step)
        for group in self._plain.param_groups:
            group["lr"] = self._config.learning_rate_at(step)

    def gradient_norm(self) -> "Tensor":
        """Average the gradients over all processes, clip them and return their L2 norm before it."""
        gradients = [value.grad for value in self._active.values() if value.grad is not None]
        if self._accelerator.num_processes > 1:
            _reduce(gradients, self._accelerator)
        limit = self._config.max_grad_norm
        norm: Any = self._accelerator.clip_grad_norm_(
            list(self._active.values()), float("inf") if limit is None else limit
        )
        return norm

    def update(self, step: int) -> None:
        """Take one optimiser step with the gradients at hand, drop them, and move the average."""
        import torch

        self._optimiser.step()
        self._optimiser.zero_grad()
        if self._average and not self.skipped:
            decay = ema_decay_at(step, self._config.ema_decay or 0.0)
            current = [value.detach() for value in self._parameters.values()]
            torch._foreach_lerp_(list(self._average.values()), current, 1 - decay)

    def drop_gradients(self) -> None:
        """Forget the gradients at hand without using them."""
        self._plain.zero_grad(set_to_none=True)

    def weights(self, *, averaged: bool) -> "dict[str, Tensor]":
        """Return the learning weights by name, averaged if there is an average and it is asked for."""
        if averaged and self._average:
            return self._average
        return {name: value.detach() for name, value in self._parameters.items()}

    def tensors(self) -> "dict[str, Tensor]":
        """Return everything that an exact resume needs, by name: weights, average, the optimiser's moments."""
        import torch

        found = {f"{_WEIGHT}{name}": value.detach() for name, value in self._parameters.items()}
        found |= {f"{_AVERAGE}{name}": value for name, value in self._average.items()}
        for name, value in self._parameters.items():
            for key, entry in self._plain.state.get(value, {}).items():
                tensor = entry if isinstance(entry, torch.Tensor) else torch.tensor(entry)
                found[f"{_OPTIMISER}{key}.{name}"] = tensor
        return found

    def scalars(self) -> dict[str, float]:
        """Return the fp16 gradient scaler's state (plain numbers), empty without one."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else dict(scaler.state_dict())

    def load(self, tensors: "Mapping[str, Tensor]", scalars: Mapping[str, float]) -> None:
        """Take over what ``tensors`` and ``scalars`` returned in an earlier process.

        Raises:
            RunFolderError: they belong to other parameters.
        """
        import torch

        expected = {f"{_WEIGHT}{name}" for name in self._parameters} | {f"{_AVERAGE}{name}" for name in self._average}
        if strange := expected ^ {name for name in tensors if not name.startswith(_OPTIMISER)}:
            raise RunFolderError(f"the saved state belongs to another configuration: {sorted(strange)[:3]}")
        with torch.no_grad():
            for name, value in self._parameters.items():
                value.copy_(tensors[_WEIGHT + name])
            for name, value in self._average.items():
                value.copy_(tensors[_AVERAGE + name])
        for key, tensor in tensors.items():
            if key.startswith(_OPTIMISER):
                entry, _, name = key.removeprefix(_OPTIMISER).partition(".")
                self._plain.state[self._parameters[name]][entry] = _like(tensor, self._parameters[name])
        if (scaler := self._accelerator.scaler) is not None and scalars:
            scaler.load_state_dict(dict(scalars))


@dataclass(frozen=True, kw_only=True)
class PipelineWriter:
    """Writes a run's weights as an ordinary pipeline folder, which ``DiffusionPipeline.from_pretrained`` opens.

    The UNet in it has the averaged weights where the run keeps an average (the raw ones lie in ``training/``), and
    merged adapters where it trains LoRA. All other parts are the base model's own files, all of one precision; parts
    that the base names and does not have are taken out of the index. The card has the limits that the base's names.
    """

    unet: Any
    learner: Learner
    layers: LayerPolicy
    base: Path
    """Folder of the pipeline that the run started from."""
    kept: Path
    """Folder of the run in which the files that never change lie once."""

    def write(self, folder: Path) -> None:
        """Write the pipeline into an empty folder."""
        from iedit_model.models.latent_diffusion import load_text_in_fp32

        held = [name for name in _FROZEN if (self.base / name).is_dir()]
        for name in held:
            copy_once(self.base / name, self.kept / name, folder / name)
        load_text_in_fp32(folder)
        index = read_model_json(self.base, _INDEX)
        gone = [name for name, kind in index.items() if isinstance(kind, list) and name not in (_UNET, *held)]
        index |= {name: [None, None] for name in gone}
        index["requires_safety_checker"] = "safety_checker" in held and index.get("requires_safety_checker", False)
        replace_bytes(folder / _INDEX, (json.dumps(index, indent=2, sort_keys=True) + "\n").encode())
        if limits := described_limits(self.base):
            replace_bytes(folder / CARD, f"# Fine-tuned by iEdit\n\n## Limits\n\n{limits}\n".encode())
        with self.averaged():
            unet = self.unet
            if self.layers == "lora":
                unet = deepcopy(unet)
                merge_lora(unet)
            unet.save_pretrained(folder / _UNET, safe_serialization=True)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the UNet its averaged weights for the block, and the raw ones back bit for bit."""
        import torch

        raw, averaged = self.learner.weights(averaged=False), self.learner.weights(averaged=True)
        before = {name: value.clone() for name, value in raw.items()} if averaged is not raw else {}
        with torch.no_grad():
            for name in before:
                raw[name].copy_(averaged[name])
            try:
                yield
            finally:
                for name, value in before.items():
                    raw[name].copy_(value)


def build_optimiser(parameters: "list[nn.Parameter]", config: TrainConfig) -> "torch.optim.Optimizer":
    """Return AdamW as configured.

    Raises:
        MissingPackageError: 8-bit moments are asked for and bitsandbytes is not installed.
    """
    import torch

    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
        "eps": config.adam_epsilon,
    }
    if not config.eight_bit_optimizer:
        return torch.optim.AdamW(parameters, **options)
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports] - an optional package
    except ImportError as error:
        raise MissingPackageError(
            "eight_bit_optimizer needs the package bitsandbytes, which is not installed: install it, or set "
            "train.eight_bit_optimizer to false"
        ) from error
    return AdamW8bit(parameters, **options)


def _like(tensor: "Tensor", parameter: "nn.Parameter") -> "Tensor":
    """Return a moment on its parameter's device and in its memory layout; counters and tables as they are."""
    import torch

    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device) if tensor.dim() else tensor.clone()
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def _reduce(gradients: "list[Tensor]", accelerator: "Accelerator") -> None:
    """Average gradients over all processes in one message, in place."""
    import torch

    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    mean: Any = accelerator.reduce(flat, reduction="mean")
    for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))
