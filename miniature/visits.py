"""What the web site remembers between requests: how often each URL was asked for, and when first."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """One request for a URL, seen against those before it."""

    num_before: int
    """Requests for the URL before this one."""
    waited_s: float
    """Seconds since the first of them, 0 for the first itself."""


@dataclass
class Visits:
    """The visits of all URLs; safe for threads."""

    _counts: Counter[int] = field(default_factory=Counter)
    _first_s: dict[int, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, index: int) -> Visit:
        """Count one more request for a URL and return it."""
        with self._lock:
            visit = self._look(index)
            self._counts[index] += 1
            self._first_s.setdefault(index, time.monotonic())
            return visit

    def look(self, index: int) -> Visit:
        """Return what ``note`` would, without counting a request."""
        with self._lock:
            return self._look(index)

    def counts(self) -> dict[int, int]:
        """Return how often each URL was asked for, without those that never were."""
        with self._lock:
            return dict(self._counts)

    def forget(self) -> None:
        """Begin anew: every URL as if it had never been asked for."""
        with self._lock:
            self._counts.clear()
            self._first_s.clear()

    def _look(self, index: int) -> Visit:
        now = time.monotonic()
        # Reading a missing key of a Counter does not add it.
        return Visit(num_before=self._counts[index], waited_s=now - self._first_s.get(index, now))
