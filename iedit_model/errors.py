"""The errors of the model package; every one names the offending value and what would be right.

IEditError
|-- ConfigError     a setting out of its range or unknown, or settings that contradict one another or the models
|-- ScheduleError   a noise schedule that the paper's equations do not cover
|   `-- TimestepError   a timestep, or a range of them, outside the schedule
|-- BatchError      a tensor of a batch is missing, has another shape than the others or is not finite
|   `-- MaskError       a mask is empty where it must not be, or has values outside [0, 1]
|-- WeightsError    a model folder without usable weights
|   |-- MissingModelError   neither a folder nor a hub id that can be had
|   |-- PickledWeightsError weights only in a format that can run code
|   `-- ForeignCodeError    a model that asks for Python code of its own to be run
|-- OverflowedError  a model gave values that are not finite, although its weights are
|-- EditError       an edit that cannot be made as it was asked for
|   `-- ImageFileError  an image file that is damaged or of a format that is not read
|       |-- ImageTooLargeError  one with more bytes or pixels than are read
|       `-- ImageTooCostlyError one whose decoding takes more time or memory than an image may
|-- ImageDecoderError   the process that decodes images cannot be started, or is broken
`-- MemoryLimitError    not even a batch of one fits into memory
"""

from typing import ClassVar


class IEditError(Exception):
    """Root of every error that this package raises on purpose."""

    retryable: ClassVar[bool] = False
    """Whether another try may help; each class whose cause may pass says so itself."""
    stops_run: ClassVar[bool] = False
    """Whether every other shard would fail of the same cause, so that no further one is begun."""


class ConfigError(IEditError, ValueError):
    """Settings contradict one another, or ask for a model that is not there."""

    stops_run = True


class ScheduleError(IEditError, ValueError):
    """The noise schedule is not one that the paper's equations cover."""


class TimestepError(ScheduleError):
    """A timestep, or a range of timesteps, lies outside the schedule."""


class BatchError(IEditError, ValueError):
    """A tensor of a batch is missing, does not fit the others or is not finite."""


class MaskError(BatchError):
    """A mask is empty where it must not be, or holds values outside [0, 1]."""


class WeightsError(IEditError, ValueError):
    """A model folder lacks usable weights."""

    stops_run = True


class MissingModelError(WeightsError):
    """A model is neither a folder here nor to be had from the hub or its cache."""


class PickledWeightsError(WeightsError):
    """A model has its weights only as pickles, which can run code when they are read."""


class ForeignCodeError(WeightsError):
    """A model asks for Python code of its folder or of the hub to be run."""


class OverflowedError(IEditError, ArithmeticError):
    """A model gave NaN or infinite values, although its weights are finite: mostly fp16 that overflowed."""

    stops_run = True

    def __init__(self, what: str, dtype: object) -> None:
        """Name what is not finite and the precision that it was computed in."""
        super().__init__(f"{what} are not finite in {dtype}: take fp32 or bf16 (device.dtype; --dtype of iedit edit)")


class EditError(IEditError, ValueError):
    """An edit cannot be made as it was asked for; the message says what is missing or out of range."""


class ImageFileError(EditError):
    """An image file cannot be read: damaged, too large, or of a format that is not read."""


class ImageTooLargeError(ImageFileError):
    """An image file has more bytes or pixels than are read."""


class ImageTooCostlyError(ImageFileError):
    """Decoding an image file takes more processor time or memory than an image may."""


class ImageDecoderError(IEditError, RuntimeError):
    """The process that decodes images cannot be started, or fails on what is no image's fault."""

    retryable = True


class MemoryLimitError(IEditError, RuntimeError):
    """Not even a batch of one fits into memory."""

    retryable = True
