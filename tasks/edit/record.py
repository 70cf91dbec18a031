"""``edit.json``: everything that repeats an edit, to be read again as the job that it was.

The record names the method, the models with the digests of their weights, every setting, the request, and the sha256
of each file beside it. It holds no times, so that a repeated edit writes the same bytes.
"""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, NonNegativeInt

from iedit_model.configuration import configuration, parsed_json
from iedit_model.editing.registry import EditorModels, EditorSettings
from tasks.errors import TaskError

RECORD_NAME: Final = "edit.json"
FORMAT: Final = 1

_MAX_BYTES: Final = 1 << 20
_LIBRARIES: Final = ("torch", "diffusers", "transformers", "pillow", "numpy")

Made = TypeVar("Made")


class EditRecordError(TaskError):
    """A record of an edit cannot be read, or what it was made from has changed."""


@configuration
class EditJob:
    """One edit in words and settings, without its images."""

    method: str
    """A name of ``iedit_model.editing.methods.METHODS``."""
    models: EditorModels
    settings: EditorSettings
    edit_prompt: str
    source_prompt: str | None = None
    word: str | None = None
    replacement: str | None = None
    instruction: str | None = None
    num_results: Annotated[int, Field(ge=1, le=64)] = 4
    """Results, from the seeds ``seed``, ``seed`` + 1, ..."""
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.seed > 2**63 - self.num_results:
            raise ValueError(f"seed is {self.seed}, expected less than 2**63")

    @property
    def seeds(self) -> range:
        """The seed of each result."""
        return range(self.seed, self.seed + self.num_results)


@configuration
class RecordedFile:
    """A file beside the record."""

    name: str
    sha256: str


@configuration
class EditRecord:
    """A job with what went in and what came out."""

    job: EditJob
    editor: str
    """Fingerprint of the method, weights included."""
    source: RecordedFile
    mask: RecordedFile | None
    """The mask that was given; an automatic one is found again."""
    outputs: tuple[RecordedFile, ...]
    """Everything that was made, the results first, one a seed."""


def recorded(name: str, data: bytes) -> RecordedFile:
    """Return the entry of a file."""
    return RecordedFile(name=name, sha256=hashlib.sha256(data).hexdigest())


def record_bytes(record: EditRecord) -> bytes:
    """Return a record as JSON, the same bytes for the same record and libraries."""
    content = {
        "format": FORMAT,
        **dataclasses.asdict(record),
        "libraries": {library: version(library) for library in _LIBRARIES},
    }
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_record(path: Path) -> EditRecord:
    """Return the record in a file.

    Raises:
        EditRecordError: no such file, or none that this version wrote.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        content = parsed_json(data) if len(data) <= _MAX_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise EditRecordError(f"{path} cannot be read as the record of an edit: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise EditRecordError(f"{path} is no record of an edit in format {FORMAT}")
    content = {name: value for name, value in content.items() if name not in ("format", "libraries")}
    try:
        return _made(EditRecord, content)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise EditRecordError(f"{path} is a damaged record of an edit: {error}") from error


def read_recorded(folder: Path, file: RecordedFile, *, max_bytes: int) -> bytes:
    """Return the bytes of a file beside a record.

    Raises:
        EditRecordError: it is gone, too large, changed, or not in the folder.
    """
    if Path(file.name).name != file.name:
        raise EditRecordError(f"the record names {file.name!r}, which is no file beside it")
    try:
        with (folder / file.name).open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise EditRecordError(f"{file.name} of the record cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise EditRecordError(f"{file.name} is not the file that the record was made from: its sha256 differs")
    return data


def _made(kind: type[Made], values: Mapping[str, Any]) -> Made:
    """Return a dataclass of nested mappings; unknown and missing fields raise TypeError."""
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints.get(name), value) for name, value in values.items()})


def _value(hint: Any, value: Any) -> Any:
    parts = [
        part for part in (hint, *typing.get_args(hint)) if isinstance(part, type) and dataclasses.is_dataclass(part)
    ]
    if isinstance(value, dict) and len(parts) == 1:
        return _made(parts[0], value)
    if isinstance(value, list):
        return tuple(_value(parts[0] if parts else None, one) for one in value)
    return value
