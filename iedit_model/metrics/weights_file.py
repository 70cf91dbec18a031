"""Read the published weights of a feature network: tensors only, of bounded size."""

import re
import struct
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - only the exception; torch reads with weights_only

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from iedit_model.metrics.errors import MetricWeightsError

MAX_BYTES = 2**30
"""Largest weights file read; the largest in use (VGG16 with its classifier) has 553 MB."""
# What the two readers raise on damaged bytes: torch's restricted one interprets them and trips in several ways.
_UNREADABLE = (
    SafetensorError,
    UnpicklingError,
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
    struct.error,
    AssertionError,
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file, or of a ``.pth`` or ``.pt`` file as the networks are published.

    The latter pass torch's restricted reader (``weights_only``), which builds tensors and containers and runs nothing.

    Raises:
        MetricWeightsError: the file is missing, too large, unreadable, or holds anything but finite tensors by
            name.
    """
    if not path.is_file():
        raise MetricWeightsError(f"{path} is no file: put the published weights there")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise MetricWeightsError(f"{path} has {size} bytes, at most {MAX_BYTES} are read")
    try:
        state = _read(path)
    except _UNREADABLE as error:
        raise MetricWeightsError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise MetricWeightsError(f"{path} holds something else than tensors by name")
    if damaged := [key for key, value in state.items() if not bool(torch.isfinite(value).all())]:
        raise MetricWeightsError(f"{path} has values that are not finite in {damaged[0]}")
    return {str(key): value.float() if value.is_floating_point() else value for key, value in state.items()}


def load_weights(model: nn.Module, state: dict[str, Tensor], *, origin: Path, optional: str = r"(?!)") -> None:
    """Load ``state`` into ``model``; tensors that the model does not have are left out.

    Args:
        model: what receives the tensors.
        state: tensors by the model's parameter names.
        origin: the file they came from, for the message.
        optional: regular expression of names that may be missing; nothing may by default.

    Raises:
        MetricWeightsError: a tensor is missing or has another shape.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state and not re.search(optional, key)]
    if missing:
        raise MetricWeightsError(f"{origin} lacks {missing[0]} and {len(missing) - 1} more: weights of another network")
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if wrong:
        raise MetricWeightsError(
            f"{origin} has {wrong[0]} as {tuple(state[wrong[0]].shape)}, expected {tuple(own[wrong[0]].shape)}"
        )
    model.load_state_dict({key: state[key] for key in own if key in state}, strict=False)


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix in {".pth", ".pt"}:
        return torch.load(path, map_location="cpu", weights_only=True)
    raise ValueError(f"the name ends in {path.suffix!r}, expected .safetensors, .pth or .pt")
