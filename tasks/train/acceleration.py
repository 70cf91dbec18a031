"""What accelerate gives a run (device, precision, processes), and how the UNet is set up for it."""

from typing import TYPE_CHECKING, Any, Final

from iedit_model.errors import ConfigError
from iedit_model.training.config import TrainConfig
from tasks.train.run_config import ComputeConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

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
