"""A disk of a few megabytes, to be full; mounting one takes rights that not every machine gives."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PAGE = 4096


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[str], None]]:
    """Mount a disk of so many bytes; what is yielded gives it another size."""

    def mount(*options: str) -> None:
        made = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"no disk can be mounted here: {made.stderr}")

    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "none")
    try:
        yield lambda more: mount("-o", f"remount,size={more}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def on_disk(*folders: Path) -> int:
    """Return the bytes that the files of some folders take, in whole pages; links to the same bytes count once."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                stat = path.stat()
                found[stat.st_ino] = -(-stat.st_size // _PAGE) * _PAGE
    return sum(found.values())
