"""How a run tells what it is doing: a small protocol, so that no loop knows a progress bar."""

from collections.abc import Mapping
from typing import Protocol


class TrainProgress(Protocol):
    """Told about a run as it goes; called in the main thread of its first process."""

    def on_cache(self, done: int, total: int) -> None:
        """``done`` of ``total`` samples are encoded."""
        ...

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        """``step`` of ``total`` optimiser steps are done; ``terms`` is the row of the log."""
        ...


class NoProgress:
    """Says nothing."""

    def on_cache(self, done: int, total: int) -> None:
        """Say nothing."""

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        """Say nothing."""
