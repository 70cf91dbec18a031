"""Errors of the flows and of the command line.

FlowError
|-- SourceError         no metadata to build from, or the site that should serve it cannot be had
|-- FolderError         a root or the folder of a run cannot be written
|-- ShardsFailedError   shards that failed after all their tries
`-- ServeError          a Prefect server, worker or deployment cannot be started or reached
"""

import re
from typing import ClassVar, Final

_OBJECT: Final = re.compile(r"<(?:[\w.]+\.)?(\w+) object at 0x[0-9a-f]+>")


def one_line(text: str, *, limit: int = 1000) -> str:
    """Return a text without line breaks and runs of spaces, cut to ``limit`` characters.

    What a terminal would obey (escape sequences in a file's or a column's name) is written out, and what only means
    something inside Python (``<_io.BytesIO object at 0x7f>``) is left to its name.
    """
    words = _OBJECT.sub(r"\1", " ".join(text.split()))
    shown = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in words)
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


class FlowError(Exception):
    """Root of all errors that a flow or a command raises on purpose."""

    retryable: ClassVar[bool] = False
    """Whether another try may help; each class whose cause may pass says so itself."""
    stops_run: ClassVar[bool] = False
    """Whether every other shard would fail of the same cause, so that no further one is begun."""


class SourceError(FlowError):
    """There is no metadata to build from, or the web site that serves it cannot be started."""


class FolderError(FlowError):
    """A root or the folder of a run cannot be written; the message says where and why."""


class ShardsFailedError(FlowError):
    """Shards failed after all their tries; the message names each with its reason. All others are finished."""


class ServeError(FlowError):
    """A Prefect server, worker or deployment cannot be started or reached; the message says which and why."""
