"""Notes of what lies outside a root and was made from its versions, for whoever has to take a picture down later."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from storage import Files, digest_of, json_document

OUTSIDE: Final = "outside"
"""Folder of the notes under the root."""


@dataclass(frozen=True, kw_only=True)
class OutsideNote:
    """A file or folder outside the root that shows samples of a version."""

    what: str
    address: str
    version: str


def note_outside(files: Files, what: str, path: Path, *, version: str) -> None:
    """Remember that ``path`` was made from a version."""
    note = OutsideNote(what=what, address=str(path.resolve()), version=version)
    files.write_bytes(f"{OUTSIDE}/{digest_of(note.address, version)[:16]}.json", json_document(asdict(note)))


def outside_notes(files: Files) -> dict[str, OutsideNote]:
    """Return path of the note -> note; one that cannot be read is left out."""
    found = {}
    for path in files.list(OUTSIDE):
        try:
            found[path] = OutsideNote(**json.loads(files.read_bytes(path)))
        except (ValueError, TypeError):
            continue
    return found
