"""Untrusted parquet and JSON files, read within bounds and with the types they should have."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iedit_model.configuration import parsed_json
from iedit_model.imaging.decode import LIMITS
from storage import CorruptFileError, Files
from tasks.evaluate.errors import EvalSetError
from tasks.outside import TriedParquet

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TABLE_BYTES: Final = 1 << 29
"""Largest table, packed and unpacked alike."""


def read_bounded(files: Files, path: str) -> "pa.Table":
    """Return the table at ``path``.

    Raises:
        MissingFileError: no such file.
        CorruptFileError: no parquet file, or one of more than ``MAX_TABLE_BYTES``.
    """
    name = files.address(path)
    if (files.size(path) or 0) > MAX_TABLE_BYTES:
        raise CorruptFileError(f"{name} has more than the {MAX_TABLE_BYTES} bytes allowed")
    with files.open(path) as stream:
        return TriedParquet(stream, name=name, max_bytes=MAX_TABLE_BYTES).table()


MAX_JSON_BYTES: Final = 128 << 20
"""Largest JSON file; PIE-Bench's has 30 MB."""


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        EvalSetError: it is missing, too large or no JSON.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise EvalSetError(f"{path} has more than {MAX_JSON_BYTES} bytes")
        return parsed_json(path.read_bytes())
    except OSError as error:
        raise EvalSetError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EvalSetError(f"{path} is no JSON: {error}") from error


def text_of(entry: Any, name: str, *, where: str) -> str:
    """Return the string under ``name``, on one line, without the brackets that mark words in PIE-Bench.

    Raises:
        EvalSetError: the entry is no object, or has no such string.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get(name), str):
        raise EvalSetError(f"{where} has no string {name!r}")
    return " ".join(entry[name].replace("[", "").replace("]", "").split())


def file_below(root: Path, name: str, *, where: str) -> bytes:
    """Return the bytes of an image with an untrusted name, which must lie below ``root``.

    Raises:
        EvalSetError: the name leads elsewhere, or the file is missing or too large.
    """
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root.resolve()) or not path.is_file():
            raise EvalSetError(f"{where}: there is no file {name[:200]!r} in {root}")
        if path.stat().st_size > LIMITS.max_bytes:
            raise EvalSetError(f"{where}: {path} has more than {LIMITS.max_bytes} bytes")
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError
        raise EvalSetError(f"{where}: {name[:200]!r} cannot be read: {error}") from error
