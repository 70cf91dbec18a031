"""Errors of the stages.

TaskError
├── MetadataError       metadata that cannot be read: none found, damaged, a column missing
│   └── EmptyPlanError  metadata of which no row is left to download
├── ShardError          a whole shard failed, so that nothing of it counts as done
├── WordNetError        no usable WordNet 3.0 can be found or set up
├── FetchError          why a URL gave no image (tasks/download/errors.py)
├── TrainingError       what stops a training
│   ├── TrainingRowsError       no sample to train on, or samples that do not fit together
│   ├── RunFolderError          the folder of a run belongs to another run, is in use or is damaged
│   ├── MissingPackageError     an option needs a package that is not installed
│   └── DivergedError           the loss or a gradient is not finite, or exploded
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


class TrainingError(TaskError):
    """Root of all errors of the train stage."""

    stops_run = True


class TrainingRowsError(TrainingError):
    """No sample is left to train on, or the samples do not fit together; the message says why."""


class RunFolderError(TrainingError):
    """The folder of a run belongs to another configuration, is in use or is damaged."""


class MissingPackageError(TrainingError):
    """An option needs a package that is not installed; the message names both."""


class DivergedError(TrainingError):
    """The loss or a gradient is not finite, or many times what it was; the run stopped before using it."""

    def __init__(self, message: str, *, step: int, sample_ids: tuple[str, ...], checkpoint: str | None) -> None:
        """Keep the optimiser step, the samples of its batch and the last good checkpoint (a path, None before any)."""
        super().__init__(message)
        self.step = step
        self.sample_ids = sample_ids
        self.checkpoint = checkpoint
