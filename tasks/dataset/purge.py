"""A takedown for good: every file under the root that shows a listed picture, or says its address, is removed.

What shows a picture is found by content, not by what refers to what: tables by their ids, addresses and hashes, tars by
their members, caches by their header, pages and databases by their text, images by their pixels. A shard goes whole,
with its marker; the same build makes it again without the picture, which the ledger keeps out of every later plan.
Versions that hold the picture are replaced by ones without it.
"""

import hashlib
import html
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from iedit_model.errors import ImageFileError
from iedit_model.imaging.decode import decode_image
from storage import (
    CorruptFileError,
    EmptyVersionError,
    Files,
    MissingFileError,
    StorageError,
    VersionInfo,
    VersionStore,
    iter_tar,
    read_parquet,
    split_member,
)
from storage.atomic import is_partial
from storage.parquet import read_schema
from storage.reports import file_path
from storage.tables import compute
from storage.versions import FOLDER as VERSIONS
from tasks.corpus import url_key
from tasks.dataset.takedown import Purged, TakedownList, take_down
from tasks.download.addresses import canonical_url, parse_url
from tasks.download.errors import FetchError
from tasks.download.ledger import LEDGER, add_to_ledger
from tasks.evaluate.record import FOLDER as EVALUATIONS
from tasks.evaluate.sets.folder import PAIRS
from tasks.exports import OUTSIDE, outside_notes

if TYPE_CHECKING:
    import pyarrow as pa

_SHARD_FILE: Final = re.compile(r"([a-z][a-z0-9_]*/[0-9a-f]{16}/[A-Za-z0-9][A-Za-z0-9_-]*)\.[^/]+")
_SIDES: Final = (
    ("sample_id", "url", ("sha256", "stored_sha256", "source_member_sha256")),
    ("target_id", "target_url", ("target_sha256", "target_stored_sha256", "target_member_sha256")),
)
"""Columns that name one picture: its id, its address, the hashes of its bytes."""
EVALSETS: Final = "evalsets"
"""Folder of the evaluation sets under a root."""
_IMAGES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_WEIGHTS: Final = frozenset({".faiss", ".npy", ".lock"})
"""Without names inside: they go with their shard, or hold no picture."""
_SHEETS: Final = ("samples/", "tensorboard/", "wandb/")
"""What a training run draws of its pairs."""
_SQLITE: Final = b"SQLite format 3\0"
_MAX_PICTURE_BYTES: Final = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Purge:
    """What a purge did."""

    pictures: int
    """Pictures that were found."""
    versions: dict[str, VersionInfo | None]
    """Version that showed one -> the one that took its place, None where no sample was left."""
    removed: tuple[str, ...]
    """Paths under the root, sorted."""
    outside: tuple[str, ...]
    """What is known to lie outside the root and was made from one of the versions, in words."""
    unmatched: tuple[str, ...]
    """Entries of the list that nothing shows, sorted."""


@dataclass(kw_only=True)
class _Wanted:
    """All that the listed pictures are called."""

    keys: set[int]
    hashes: set[str]
    ids: set[str] = field(default_factory=set)
    urls: set[str] = field(default_factory=set)
    pixels: set[str] = field(default_factory=set)
    met: set[str] = field(default_factory=set)
    """Hashes that a table has."""
    image_ids: set[str] = field(default_factory=set)
    """Names of evaluation images that are such a picture."""

    def take_rows(self, rows: "pa.Table") -> bool:
        """Take on what the rows of a table call a listed picture; return whether that was anything new."""
        before = (len(self.ids), len(self.urls), len(self.hashes))
        for name, url, hashes in _SIDES:
            columns = [column for column in (name, url, *hashes) if column in rows.column_names]
            if name not in columns or len(columns) < 2:
                continue
            for row in rows.select(columns).to_pylist():
                held = {row[column] for column in hashes if row.get(column)}
                address = row.get(url)
                is_named = row[name] in self.ids or (address is not None and url_key(address) in self.keys)
                if row[name] and (is_named or held & self.hashes):
                    self.ids.add(row[name])
                    self.met |= held
                    self.hashes |= held
                    if address:
                        self.urls.add(address)
                        self.keys.add(url_key(address))
        return before != (len(self.ids), len(self.urls), len(self.hashes))

    def pattern(self) -> str:
        """Return a regular expression that finds an id, an address in any usual spelling or a hash in a text."""
        names = {*self.ids, *self.hashes}
        for url in self.urls:
            spelled = {url, canonical_url(url), quote(url, safe=""), quote(url, safe="/:?&=%")}
            with suppress(FetchError):
                spelled.add(parse_url(url).url)
            names |= {form for text in spelled for form in (text, html.escape(text), json.dumps(text)[1:-1])}
        return "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))


def purge(versions: VersionStore, listed: TakedownList) -> Purge:
    """Remove every trace of the listed pictures under the root but their hashes in the ledger.

    A purge that was killed is finished by the same command.

    Raises:
        CorruptFileError: the ledger is damaged.
    """
    files = versions.files
    wanted = _Wanted(keys={url_key(url) for url in listed.urls}, hashes=set(listed.hashes))
    # A copy of a picture has its hashes, and another address, of which there may be more copies.
    while sum(wanted.take_rows(rows) for rows in _tables(files)):
        pass
    add_to_ledger(files, urls=[*listed.urls, *wanted.urls], images=wanted.hashes)
    _take_pixels(files, wanted)
    for path in files.stats():
        if is_partial(path.rpartition("/")[2]):  # of a killed process: no name says what it holds
            files.sweep(path.rpartition("/")[0])
    search = _Search(files, wanted)
    gone = search.stage_files()
    shown = [name for name in versions.list() if search.shows_version(name) or _uses(versions, name, gone)]
    purged = Purged(ids=frozenset(wanted.ids), paths=frozenset(gone))
    complete = TakedownList(urls=listed.urls | wanted.urls, hashes=frozenset(wanted.hashes))
    replaced: dict[str, VersionInfo | None] = {}
    for name in shown:
        try:
            replaced[name] = take_down(versions, name, complete, purged=purged).version
        except (EmptyVersionError, CorruptFileError, MissingFileError):  # empty without them, or damaged anyway
            replaced[name] = None
    kept = {info.id for info in replaced.values() if info is not None}
    gone |= {path for name in set(shown) - kept for path in files.list(f"{VERSIONS}/{name}")}
    gone |= search.other_files(shown)
    notes = {path: note for path, note in outside_notes(files).items() if note.version in shown}
    # Markers and version.json first: what is half removed must not look finished.
    for path in sorted(gone, key=lambda path: (not path.endswith(".json"), path)):
        files.remove(path)
    for folder in sorted({path.partition("/")[0] for path in gone if "/" in path}):
        files.remove_empty_folders(folder)
    return Purge(
        pictures=len(wanted.ids),
        versions=replaced,
        removed=tuple(sorted(gone)),
        outside=tuple(
            f"{note.what} {note.address}"
            for _, note in sorted(notes.items())
            if not (files.is_local and Path(note.address).is_relative_to(files.root))
        ),
        unmatched=tuple(sorted(_unmatched(listed, wanted))),
    )


def _unmatched(listed: TakedownList, wanted: _Wanted) -> Iterator[str]:
    met = {url_key(url) for url in wanted.urls}
    yield from (url for url in listed.urls if url_key(url) not in met)
    yield from listed.hashes - wanted.met


def _uses(versions: VersionStore, version: str, gone: set[str]) -> bool:
    """Return whether a version lists a file that goes, or cannot be read, so that it may hold anything."""
    try:
        info = versions.load(version)
        rows = versions.shard_files(info).to_pylist()
    except (CorruptFileError, MissingFileError):
        return True
    listed = {file_path(row["stage"], row["fingerprint"], row["shard"], row["name"], row["sha256"]) for row in rows}
    return not gone.isdisjoint(listed | info.files.keys())


def _tables(files: Files) -> Iterator["pa.Table"]:
    """Yield of every table that says where pictures come from the columns that name them."""
    columns = [column for name, url, hashes in _SIDES for column in (name, url, *hashes)]
    for path in files.list():
        if path.endswith(".parquet") and (table := _read(files, path, columns)) is not None:
            yield table


def _read(files: Files, path: str, columns: Sequence[str] | None = None) -> "pa.Table | None":
    """Return a table, or those of some columns that it has; None where it cannot be read, for the search to decide."""
    try:
        with files.open(path) as stream:
            held = read_schema(stream, name=path).names
            stream.seek(0)
            return read_parquet(stream, name=path, columns=[name for name in columns or held if name in held])
    except (StorageError, OSError):
        return None


def _take_pixels(files: Files, wanted: _Wanted) -> None:
    """Take on the pixels of the listed pictures, from wherever their bytes lie."""
    for path in files.list():
        for _, data in _members(files, path) if path.endswith(".tar") else ():
            if hashlib.sha256(data).hexdigest() in wanted.hashes and (digest := _pixel_digest(data)):
                wanted.pixels.add(digest)
    for path in files.list(EVALSETS):
        folder, _, name = path.rpartition("/")
        rows = _read(files, path) if name == PAIRS else None
        for row in [] if rows is None else rows.select(["image_id", "image", "image_sha256"]).to_pylist():
            data = files.read_bytes(f"{folder}/{row['image']}") if files.exists(f"{folder}/{row['image']}") else b""
            if row["image_sha256"] in wanted.hashes or _pixel_digest(data, trusted=False) in wanted.pixels:
                wanted.image_ids.add(row["image_id"])


def _members(files: Files, path: str) -> Iterator[tuple[str, bytes]]:
    try:
        with files.open(path) as stream:
            for member, data in iter_tar(stream, name=path):
                yield member.name, data
    except (CorruptFileError, MissingFileError):
        return


def _pixel_digest(data: bytes, *, trusted: bool = True) -> str | None:
    try:
        image = decode_image(data, trusted=trusted)
    except ImageFileError:
        return None
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


class _Search:
    """Looks into every file under a root for the wanted pictures."""

    def __init__(self, files: Files, wanted: _Wanted) -> None:
        self._files, self._wanted = files, wanted
        self._pattern = wanted.pattern()
        self._bytes = re.compile(self._pattern.encode("utf-8", "surrogatepass")) if self._pattern else None

    def shows_version(self, version: str) -> bool:
        """Return whether a version holds a wanted picture, or says its name."""
        return any(self._is_hit(path) for path in self._files.list(f"{VERSIONS}/{version}"))

    def stage_files(self) -> set[str]:
        """Return the files of all shards of which one file is a hit, and what killed processes left."""
        shards: dict[str, list[str]] = {}
        for path in self._files.stats():
            if (found := _SHARD_FILE.fullmatch(path)) is not None and not path.startswith((VERSIONS, OUTSIDE)):
                shards.setdefault(found[1], []).append(path)
        return {path for paths in shards.values() if any(self._is_hit(path) for path in paths) for path in paths}

    def other_files(self, versions: Sequence[str]) -> set[str]:
        """Return all other files that are hits, and the sheets of the runs that were trained on one of the versions."""
        runs = [path.rpartition("/")[0] for path in self._files.list() if path.endswith("/run.json")]
        drawn = tuple(f"{run}/{sheet}" for run in runs if self._version_of(run) in versions for sheet in _SHEETS)
        gone = set[str]()
        for path in self._files.list():
            if _SHARD_FILE.fullmatch(path) or path == LEDGER or path.startswith((f"{VERSIONS}/", f"{OUTSIDE}/")):
                continue
            if self._is_database(path):
                self._free(path)
            elif (drawn and path.startswith(drawn)) or self._is_hit(path):
                # The pages of an evaluation show the images of its rows.
                gone |= set(self._files.list(path.rpartition("/")[0])) if path.startswith(EVALUATIONS) else {path}
        return gone

    def _version_of(self, run: str) -> str | None:
        try:
            return json.loads(self._files.read_bytes(f"{run}/run.json")).get("version")
        except (ValueError, AttributeError):
            return None

    def _is_hit(self, path: str) -> bool:
        name = PurePosixPath(path)
        if name.suffix == ".parquet":
            return self._in_table(path)
        if name.suffix == ".tar":
            return any(self._in_member(member, data) for member, data in _members(self._files, path))
        if name.suffix in _WEIGHTS:
            return False
        if name.suffix == ".safetensors":
            with self._files.open(path) as stream:
                return self._says(stream.read(int.from_bytes(stream.read(8), "little")))
        data = self._files.read_bytes(path)
        return self._says(data) or (name.suffix in _IMAGES and self._is_picture(data, trusted=False))

    def _in_member(self, name: str, data: bytes) -> bool:
        return (
            split_member(name)[0] in self._wanted.ids
            or self._is_picture(data)
            or (name.endswith(".json") and self._says(data))
        )

    def _in_table(self, path: str) -> bool:
        import pyarrow as pa

        pc = compute()
        if (table := _read(self._files, path)) is None:
            return True  # what cannot be read may hold anything, and is made again
        for column in table.columns:
            values = pc.list_flatten(column) if pa.types.is_list(column.type) else column
            if pa.types.is_string(values.type):
                if self._pattern and pc.any(pc.match_substring_regex(values, self._pattern)).as_py():
                    return True
            elif pa.types.is_binary(values.type) and any(self._is_picture(data) for data in values.to_pylist() if data):
                return True
        if "image_id" in table.column_names and self._wanted.image_ids:
            return bool(self._wanted.image_ids & set(table["image_id"].to_pylist()))
        return False

    def _is_picture(self, data: bytes, *, trusted: bool = True) -> bool:
        if hashlib.sha256(data).hexdigest() in self._wanted.hashes:
            return True
        return (
            bool(self._wanted.pixels)
            and len(data) < _MAX_PICTURE_BYTES
            and _pixel_digest(data, trusted=trusted) in self._wanted.pixels
        )

    def _says(self, data: bytes) -> bool:
        return self._bytes is not None and self._bytes.search(data) is not None

    def _is_database(self, path: str) -> bool:
        if not self._files.is_local or path.endswith(("-wal", "-shm")):
            return self._files.is_local
        with self._files.open(path) as stream:
            return stream.read(len(_SQLITE)) == _SQLITE

    def _free(self, path: str) -> None:
        """Remove the rows of a database (Prefect's own, say) that name a picture, or show any; its journals go too."""
        if path.endswith(("-wal", "-shm")):
            return
        with closing(sqlite3.connect(self._files.address(path))) as base:
            base.create_function("hit", 1, lambda text: self._says(str(text).encode()) or "data:image" in str(text))
            tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                columns = [row[1] for row in base.execute(f'PRAGMA table_info("{table}")')]
                where = " OR ".join(f'hit("{column}")' for column in columns)
                base.execute(f'DELETE FROM "{table}" WHERE {where}')  # noqa: S608 - names that the database gave
            base.commit()
            base.execute("VACUUM")
            base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
