"""Errors of the stages.

TaskError
├── MetadataError       metadata that cannot be read: none found, damaged, a column missing
│   └── EmptyPlanError  metadata of which no row is left to download
├── ShardError          a whole shard failed, so that nothing of it counts as done
├── WordNetError        no usable WordNet 3.0 can be found or set up
├── FetchError          why a URL gave no picture (tasks/download/errors.py)
├── TrainingError       what stops a training (tasks/train/errors.py)
├── EvalSetError        an evaluation set that cannot be used (tasks/evaluate/sets/errors.py)
└── EvaluationError     what stops an evaluation or fails it (tasks/evaluate/errors.py)

Errors of a single module stand in that module and derive from TaskError too.
"""

from typing import ClassVar


class TaskError(Exception):
    """Root of all errors that a stage raises on purpose."""

    retryable: ClassVar[bool] = False
    """Whether another try may help; each class whose cause may pass says so itself."""
    stops_run: ClassVar[bool] = False
    """Whether every other shard would fail of the same cause, so that no further one is begun."""


class WordNetError(TaskError):
    """WordNet 3.0 is missing, damaged or of another version; the message says where it was looked for."""

    stops_run = True


class MetadataError(TaskError):
    """Metadata cannot be read; the message names the file and what is wrong with it."""

    stops_run = True


class EmptyPlanError(MetadataError):
    """No row of the metadata is left to download; the message counts the reasons."""


class ShardError(TaskError):
    """A whole shard failed and nothing of it counts as done; the message says why and counts the failures."""

    retryable = True
