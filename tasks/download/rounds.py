"""Every URL of a shard tried until it gives an image, fails for good, or runs out of tries.

Tries come in rounds over all that is left, so that no thread sleeps while there is work: a transient failure waits,
with backoff and jitter or as long as the server asks, for the next round.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field

from iedit_model.configuration import configuration
from storage import sample_seed
from tasks.download.client import Fetched, Fetcher
from tasks.download.downloader import run_downloader
from tasks.download.errors import FetchError
from tasks.download.image_body import CleanImage, ImageConfig, clean_image
from tasks.errors import ShardError

_Row = TypeVar("_Row")
_GOLDEN: Final = (5**0.5 - 1) / 2
_HASHES: Final = {32: "md5", 64: "sha256"}
"""Digits of a promised hash -> what it is."""


@configuration
class RetryConfig:
    """How often and when a transient failure is tried again."""

    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """Further tries after the first, in one run."""
    base_s: Annotated[float, Field(ge=0, le=86_400)] = 1.0
    """Wait before the second try, seconds; it doubles with each further one."""
    cap_s: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    """Longest wait by backoff, seconds."""
    jitter: Annotated[float, Field(ge=0, le=86_400)] = 0.5
    """Each wait is longer by a random share of itself up to this, so that tries do not come all at once."""
    max_retry_after_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """Longest ``Retry-After`` that is waited for, seconds; after a longer one there is no further try in this run."""

    def wait_s(self, sample_id: str, *, tries: int, retry_after_s: float | None) -> float | None:
        """Return how long to wait after ``tries`` tries, seconds, or None when that would be too long.

        Args:
            sample_id: decides the jitter.
            tries: 1 or more.
            retry_after_s: the server's Retry-After; the wait is never shorter.
        """
        if retry_after_s is not None and retry_after_s > self.max_retry_after_s:
            return None
        backoff = min(self.cap_s, self.base_s * 2.0 ** (tries - 1))
        rng = np.random.default_rng((sample_seed(0, "download", sample_id), tries))
        return max(backoff, retry_after_s or 0.0) * (1 + self.jitter * rng.random())


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlTask:
    """One URL to be fetched."""

    sample_id: str
    url: str
    expected_hash: str | None = None
    """md5 (32 hex characters) or sha256 (64) that the bytes must have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one URL."""

    attempts: int
    """Tries in this run."""
    error: FetchError | None = None
    """None for an image."""
    fetched: Fetched | None = None
    """The last body that came, without its bytes."""
    num_bytes: int = 0
    """Length of that body."""
    image: CleanImage | None = None
    """The stored image, without its bytes."""
    offset: int = 0
    """Where the stored image begins in the spill."""
    size: int = 0
    """Length of the stored image, bytes."""


class Spill:
    """A local file that takes images in the order in which they come and gives them back in any other."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` anew; ``close`` ends it."""
        self._file = path.open("w+b", buffering=0)
        self._end = 0

    def add(self, data: bytes) -> int:
        """Append bytes and return where they begin."""
        offset = self._end
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self._end += len(data)
        return offset

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes that were added."""
        return os.pread(self._file.fileno(), size, offset)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def fetch_rounds(
    tasks: Sequence[UrlTask],
    *,
    fetcher: Fetcher,
    spill: Spill,
    image: ImageConfig,
    retry: RetryConfig,
    num_threads: int,
) -> dict[str, Outcome]:
    """Return sample id -> what became of its URL; the images are in ``spill``.

    Raises:
        ShardError: img2dataset lost a row.
    """
    outcomes: dict[str, Outcome] = {}
    due = [(0.0, task) for task in spread_over_hosts([(task, _host(task.url)) for task in tasks])]
    for tries in range(1, retry.retries + 2):
        if not due:
            break
        fetcher.begin_round()
        steps = _Round(due, fetcher=fetcher, spill=spill, image=image)
        run_downloader(len(due), steps, num_threads=min(num_threads, len(due)), stop=fetcher.stop)
        failed = []
        for task, outcome in steps.results():
            outcomes[task.sample_id] = replace(outcome, attempts=tries)
            if outcome.error is not None and outcome.error.is_transient:
                wait_s = retry.wait_s(task.sample_id, tries=tries, retry_after_s=outcome.error.retry_after_s)
                if wait_s is not None:
                    failed.append((time.monotonic() + wait_s, task))
        due = sorted(failed, key=lambda entry: entry[0])
    return outcomes


class _Round:
    """One try of every URL that is left: the ``RowSteps`` of one run of the Downloader."""

    def __init__(
        self, due: Sequence[tuple[float, UrlTask]], *, fetcher: Fetcher, spill: Spill, image: ImageConfig
    ) -> None:
        self._due, self._fetcher, self._spill, self._image = due, fetcher, spill, image
        self._came: dict[int, Outcome] = {}
        self._outcomes: dict[int, Outcome] = {}

    def results(self) -> list[tuple[UrlTask, Outcome]]:
        if lost := [task.url for index, (_, task) in enumerate(self._due) if index not in self._outcomes]:
            raise ShardError(
                f"img2dataset lost {len(lost)} rows without an error, the first is {lost[0]:.200}: "
                "install the version of constraints.txt"
            )
        return [(task, self._outcomes[index]) for index, (_, task) in enumerate(self._due)]

    def fetch(self, index: int) -> bytes:
        due, task = self._due[index]
        self._fetcher.stop.wait(max(0.0, due - time.monotonic()))
        fetched = self._fetcher.fetch(task.url)
        self._came[index] = Outcome(attempts=1, fetched=replace(fetched, data=b""), num_bytes=len(fetched.data))
        _check_hash(fetched, task.expected_hash)
        return fetched.data

    def clean(self, data: bytes) -> CleanImage:
        return clean_image(data, self._image)

    def keep(self, index: int, image: CleanImage) -> None:
        offset = self._spill.add(image.data)
        came, bare = self._came.pop(index), replace(image, data=b"")
        self._outcomes[index] = replace(came, image=bare, offset=offset, size=len(image.data))

    def drop(self, index: int, error: FetchError) -> None:
        self._outcomes[index] = replace(self._came.pop(index, Outcome(attempts=1)), error=error)


def spread_over_hosts(rows: Sequence[tuple[_Row, str]]) -> list[_Row]:
    """Return rows, each given with its host, so that every host's rows lie evenly over the whole.

    Metadata lists many pages of one host in a row; requested in that order, all threads would wait for that host.
    """
    total: dict[str, int] = {}
    for _, host in rows:
        total[host] = total.get(host, 0) + 1
    # Multiples of the golden ratio lie evenly however many there are: so the hosts with one row do, too.
    starts = {host: number * _GOLDEN % 1 for number, host in enumerate(total)}
    seen: dict[str, int] = {}
    positions = []
    for position, (row, host) in enumerate(rows):
        rank = seen.get(host, 0)
        seen[host] = rank + 1
        positions.append(((rank + starts[host]) / total[host], position, row))
    return [row for _, _, row in sorted(positions, key=lambda entry: entry[:2])]


def _check_hash(fetched: Fetched, expected: str | None) -> None:
    if expected is None or (kind := _HASHES.get(len(expected))) is None:
        return
    found = fetched.sha256 if kind == "sha256" else hashlib.md5(fetched.data, usedforsecurity=False).hexdigest()
    if found != expected.lower():
        raise FetchError("hash_mismatch", f"{kind} is {found}, expected {expected}")


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""
