"""A model that is found at once and loaded at its first use: what the captioner, CLIP and the segmenter share.

So a stage that finds its work done pays for the hash of the weights only, and a missing model shows before any work.
"""

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from iedit_model.models.devices import DeviceConfig, resolve_device
from iedit_model.models.source import MODEL_FILES, ModelSource, model_fingerprint


class ModelSpec(Protocol):
    """What every spec of one model says."""

    @property
    def model(self) -> ModelSource:
        """Which model."""
        ...

    @property
    def device(self) -> DeviceConfig:
        """Where it runs and in which precision."""
        ...


Spec = TypeVar("Spec", bound=ModelSpec)
Parts = TypeVar("Parts")


class LazyModel(Generic[Spec, Parts]):
    """Base of models for threads: ``_loaded`` has the parts, and ``_lock`` is to be held while they compute."""

    def __init__(
        self,
        spec: Spec,
        load: Callable[[Spec], Parts],
        *,
        source: ModelSource | None = None,
        files: tuple[str, ...] = MODEL_FILES,
    ) -> None:
        """Find the model's files and the device, without loading anything.

        Args:
            spec: which model, and where it runs.
            load: loads its parts, the same ones for the same spec (``loaded_once``).
            source: where the files lie, if that is not ``spec.model``.
            files: patterns of what makes up the model.

        Raises:
            WeightsError: the model cannot be had; the message says what to do.
            ConfigError: the device is not there.
        """
        self._spec = spec
        self._load = load
        self._device = resolve_device(spec.device)
        self._lock = threading.Lock()
        self.fingerprint = model_fingerprint(source or spec.model, self._device, files=files)
        """Content of the weights, device and precision: what decides the results beside the settings."""

    @property
    def _loaded(self) -> Parts:
        return self._load(self._spec)
