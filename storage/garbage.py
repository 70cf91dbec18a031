"""What no kept dataset version refers to: listed first, removed only on request."""

import time
from collections.abc import Collection
from dataclasses import dataclass

from storage.errors import UnknownVersionError
from storage.files import FileStat
from storage.reports import file_path, marker_of_log, marker_path
from storage.versions import FOLDER, VersionStore, version_path

DAY_S = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Files that no kept version needs, sorted by path, and the versions that are not kept."""

    files: dict[str, int]
    """Path -> size, bytes."""
    versions: tuple[str, ...]
    removed: bool
    """Whether they were removed, or only listed."""

    @property
    def num_bytes(self) -> int:
        """Bytes that removing them frees."""
        return sum(self.files.values())

    def folders(self) -> dict[str, int]:
        """Return stage folder or version folder -> bytes to free, for a short listing."""
        sizes: dict[str, int] = {}
        for path, size in self.files.items():
            folder = path.rpartition("/")[0]
            sizes[folder] = sizes.get(folder, 0) + size
        return sizes


def collect_garbage(
    versions: VersionStore,
    *,
    stages: Collection[str],
    keep: Collection[str] | None = None,
    older_than_s: float = DAY_S,
    remove: bool = False,
) -> Garbage:
    """List, or remove, what no kept version refers to: shards, tars, leftovers of killed runs, versions not kept.

    Only the folders of ``stages`` and ``versions/`` are looked at; training runs and results never are.

    Args:
        versions: the versions of a store.
        stages: names of the stages that datasets are made by.
        keep: ids of the versions to keep, or their beginnings; None keeps all.
        older_than_s: what was written in this many last seconds stays, versions with all that they need included; set
            it to more than the time that a running build has taken so far.
        remove: whether to remove what was found.

    Raises:
        UnknownVersionError: ``keep`` names a version that is not there, or is empty.
        CorruptFileError: the list of files of a kept version is damaged, so that nothing can be called garbage.
    """
    known = versions.list()
    chosen = known if keep is None else [versions.load(name).id for name in keep]
    if keep is not None and not chosen:
        raise UnknownVersionError("gc needs at least one version to keep; to remove everything, remove the store")
    newest, candidates = time.time() - older_than_s, _candidates(versions, stages)
    kept = {name for name in known if name in chosen or candidates[version_path(name)].modified >= newest}
    needed = {path for version in kept for path in _needed(versions, version)}
    found = {
        path: stat.size
        for path, stat in sorted(candidates.items())
        # A log is kept with its shard: no version lists it, but the shard's marker does.
        if path not in needed and marker_of_log(path) not in needed and stat.modified < newest
    }
    if remove:
        # Markers and version.json first: what is half removed must not look finished.
        for path in sorted(found, key=lambda path: (not path.endswith(".json"), path)):
            versions.files.remove(path)
        for folder in {path.partition("/")[0] for path in found}:
            versions.files.remove_empty_folders(folder)
    return Garbage(files=found, versions=tuple(sorted(set(known) - kept)), removed=remove)


def _candidates(versions: VersionStore, stages: Collection[str]) -> dict[str, FileStat]:
    return {path: stat for folder in (*stages, FOLDER) for path, stat in versions.files.stats(folder).items()}


def _needed(versions: VersionStore, version: str) -> set[str]:
    needed = set(versions.files.list(f"{FOLDER}/{version}"))
    # The tars are among the files of the pack stage's shards.
    for row in versions.shard_files(versions.load(version)).to_pylist():
        place = (row["stage"], row["fingerprint"], row["shard"])
        needed |= {file_path(*place, row["name"], row["sha256"]), marker_path(*place)}
    return needed
