"""The progress of a run in the Prefect page: one bar that moves at most every few seconds."""

import time
from typing import Final, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from storage import ShardReport

_EVERY_S: Final = 2.0


class RunProgress:
    """Share of the shards of all stages begun so far that are done."""

    def __init__(self, description: str) -> None:
        """Create the artifact; must be called inside a flow run."""
        made = create_progress_artifact(progress=0.0, key="progress", description=description)
        self._artifact = cast("UUID", made)  # outside of a coroutine it is no coroutine
        self._begun = self._ended = 0
        self._stage = ""
        self._last = time.monotonic()

    def begin(self, stage: str, shards: int) -> None:
        """Count the shards in."""
        self._stage = stage
        self._begun += shards

    def finish(self, report: ShardReport) -> None:
        """Move the bar on."""
        self._stage = report.stage
        self._move()

    def fail(self, stage: str, shard: str, reason: str) -> None:  # noqa: ARG002 - the bar says only how many
        """Move the bar on."""
        self._stage = stage
        self._move()

    def _move(self) -> None:
        self._ended += 1
        now = time.monotonic()
        if now - self._last >= _EVERY_S or self._ended >= self._begun:
            self._last = now
            share = 100 * self._ended / max(1, self._begun)
            said = f"{self._stage}: {self._ended} of {self._begun} shard runs done"
            update_progress_artifact(self._artifact, progress=min(100.0, share), description=said)
