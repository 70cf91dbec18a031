"""Where a model runs and in which precision: said in the configuration, or chosen by what the machine really has."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from iedit_model.configuration import configuration
from iedit_model.errors import ConfigError

if TYPE_CHECKING:
    import torch

DeviceType = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16"]

_TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@configuration
class DeviceConfig:
    """What the configuration says about device and precision.

    Left out of a stage's fingerprint, since "auto" is no answer: the ``ComputeDevice`` that comes of it is part of the
    model's fingerprint there.
    """

    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata={"fingerprint": False})
    """"auto" takes the first GPU that CUDA shows, else the CPU."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = field(default="auto", metadata={"fingerprint": False})
    """"auto" is bf16 where the hardware computes in it, fp16 on older GPUs and fp32 on other CPUs."""

    def __post_init__(self) -> None:
        if (self.device, self.dtype) == ("cpu", "fp16"):
            raise ValueError("dtype is 'fp16' on the device 'cpu', which has no arithmetic for it: take bf16 or fp32")


@dataclass(frozen=True, kw_only=True)
class ComputeDevice:
    """A device and a precision that this machine has."""

    type: DeviceType
    dtype: Precision

    @property
    def name(self) -> str:
        """What the device is called in fingerprints: ``cuda/bf16``."""
        return f"{self.type}/{self.dtype}"

    @property
    def torch_dtype(self) -> "torch.dtype":
        """The precision as torch's type."""
        import torch

        return getattr(torch, _TORCH_NAMES[self.dtype])


def resolve_device(config: DeviceConfig) -> ComputeDevice:
    """Return the device and precision that the configuration means on this machine.

    Raises:
        ConfigError: it asks for a GPU that is not there, or for fp16 where only the CPU is.
    """
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch finds no GPU here: take 'auto' or 'cpu'")
    type_: DeviceType = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    if config.dtype == "auto":
        return ComputeDevice(type=type_, dtype=_gpu_precision() if type_ == "cuda" else _cpu_precision())
    if (type_, config.dtype) == ("cpu", "fp16"):
        raise ConfigError("dtype is 'fp16', but only the CPU is there, which has no arithmetic for it: take auto")
    return ComputeDevice(type=type_, dtype=config.dtype)


def _gpu_precision() -> Precision:
    import torch

    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _cpu_precision() -> Precision:
    import torch

    # torch computes bf16 on any CPU, but emulated it is several times slower than fp32.
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"
