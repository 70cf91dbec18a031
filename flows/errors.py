"""Errors of the flows and of the command line.

FlowError
|-- SourceError         no metadata to build from, or the site that should serve it cannot be had
|-- ShardsFailedError   shards that failed after all their tries
`-- ServeError          a Prefect server, worker or deployment cannot be started or reached
"""

from typing import ClassVar


class FlowError(Exception):
    """Root of all errors that a flow or a command raises on purpose."""

    retryable: ClassVar[bool] = False
    """Whether another try may help; each class whose cause may pass says so itself."""
    stops_run: ClassVar[bool] = False
    """Whether every other shard would fail of the same cause, so that no further one is begun."""


class SourceError(FlowError):
    """There is no metadata to build from, or the web site that serves it cannot be started."""


class ShardsFailedError(FlowError):
    """Shards failed after all their tries; the message names each with its reason. All others are finished."""


class ServeError(FlowError):
    """A Prefect server, worker or deployment cannot be started or reached; the message says which and why."""
