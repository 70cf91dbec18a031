"""How long steps take, what they wait for, and how much of a GPU they use."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from iedit_model.training.config import TrainConfig

if TYPE_CHECKING:
    import torch

_MIB: Final = 1 << 20
_TFLOPS: Final = {
    # Dense, without sparsity, as the vendor's data sheets say: half precision (bf16 or fp16), then fp32 as TF32.
    "H200": (989.0, 494.0),
    "H100": (989.0, 494.0),
    "A100": (312.0, 156.0),
    "L40S": (362.0, 183.0),
    "L4": (121.0, 60.0),
    "A10": (125.0, 62.0),
    "V100": (125.0, 15.7),
    "T4": (65.0, 8.1),
}


@dataclass
class Timing:
    """One step's times; filled in while it runs."""

    num_samples: int
    seconds: float = 0.0
    data_wait: float = 0.0
    peak_memory: float = 0.0
    """MiB."""
    peak_fraction: float | None = None
    _clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    @contextmanager
    def waited(self) -> Iterator[None]:
        """Count the block as waiting for data."""
        began = self._clock()
        yield
        self.data_wait += self._clock() - began

    def columns(self) -> dict[str, float | None]:
        """Return the columns of the log."""
        return {
            "seconds": self.seconds,
            "data_wait": self.data_wait,
            "images_per_s": self.num_samples / self.seconds if self.seconds else None,
            "peak_memory": self.peak_memory,
            "peak_fraction": self.peak_fraction,
        }


class StepMeter:
    """Times steps on one device; on a known GPU it counts the operations of each phase's first step."""

    def __init__(self, device: "torch.device", config: TrainConfig, *, num_processes: int = 1) -> None:
        self._device = device
        self._num_processes = num_processes
        self._peak = (
            peak_tflops(_device_name(device), half=config.precision != "fp32") if device.type == "cuda" else None
        )
        self._operations: dict[int, float] = {}

    @contextmanager
    def timed(self, *, phase: int, num_samples: int) -> Iterator[Timing]:
        """Time the block, which is one optimiser step that trains ``num_samples`` samples in phase ``phase``."""
        timing = Timing(num_samples=num_samples)
        began = time.monotonic()
        with self._counting(phase):
            yield timing
        self._wait()
        timing.seconds = time.monotonic() - began
        timing.peak_memory = self._peak_memory()
        operations = self._operations.get(phase)
        if self._peak is not None and operations:
            timing.peak_fraction = operations / timing.seconds / (self._peak * 1e12)

    @contextmanager
    def _counting(self, phase: int) -> Iterator[None]:
        wanted = self._peak is not None and phase not in self._operations
        counter: Any = _counter() if wanted else None
        block: AbstractContextManager[Any] = counter if wanted else nullcontext()
        with block:
            yield
        if wanted:
            self._operations[phase] = float(counter.get_total_flops())

    def _wait(self) -> None:
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)

    def _peak_memory(self) -> float:
        if self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self._device) / _MIB
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / _MIB if sys.platform == "darwin" else used * 1024 / _MIB


def peak_tflops(name: str, *, half: bool) -> float | None:
    """Return the dense peak of a GPU by its name in teraflops, None for one that is not listed."""
    found = [peaks for known, peaks in _TFLOPS.items() if known in name.replace("-", " ").split()]
    return found[0][0 if half else 1] if found else None


def _device_name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device)


def _counter() -> Any:
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(display=False)
