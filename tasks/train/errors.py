"""What can go wrong while a model is fine-tuned.

TrainingError
├── TrainingRowsError       no sample to train on, or samples that do not fit together
├── RunFolderError          a run's folder belongs to another run, is in use or is damaged
├── MissingPackageError     an option needs a package that is not installed
└── DivergedError           the loss or a gradient is not finite, or exploded
"""

from tasks.errors import TaskError


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
