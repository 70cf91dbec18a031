"""Politeness: how many requests of this process a host has at the same time, whatever shard they are for."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from tasks.download.errors import FetchError

_Row = TypeVar("_Row")
_LOOK_S: Final = 0.5
"""How often a waiting thread looks whether the work was given up, seconds."""
_GOLDEN: Final = (5**0.5 - 1) / 2


class HostSlots:
    """Counts the requests in flight to each host; holds nothing of a host that has none."""

    def __init__(self) -> None:
        """Begin with no request in flight."""
        self._lock = threading.Lock()
        self._busy: dict[str, int] = {}
        self._waiting: dict[str, list[threading.Event]] = {}

    @contextmanager
    def slot(self, host: str, *, limit: int, stop: threading.Event) -> Iterator[None]:
        """Hold one of a host's ``limit`` slots for the block, waiting for one in the order of arrival.

        Raises:
            FetchError: ``connection``, when ``stop`` was set while this waited.
        """
        self._enter(host, limit, stop)
        try:
            yield
        finally:
            with self._lock:
                self._leave(host)

    def num_hosts(self) -> int:
        """Return how many hosts have a request in flight."""
        return len(self._busy)

    def _enter(self, host: str, limit: int, stop: threading.Event) -> None:
        granted = threading.Event()
        with self._lock:
            if self._busy.get(host, 0) < limit:
                self._busy[host] = self._busy.get(host, 0) + 1
                return
            self._waiting.setdefault(host, []).append(granted)
        while not granted.wait(_LOOK_S):
            if stop.is_set():
                self._give_up(host, granted)
                raise FetchError("connection", "given up while it waited for its host")

    def _give_up(self, host: str, granted: threading.Event) -> None:
        with self._lock:
            if granted.is_set():  # the slot was handed over in this moment
                self._leave(host)
            else:
                self._waiting[host].remove(granted)

    def _leave(self, host: str) -> None:
        # The slot goes to the next in the queue, so that the count stays as it is.
        if waiting := self._waiting.get(host):
            waiting.pop(0).set()
            return
        self._waiting.pop(host, None)
        self._busy[host] -= 1
        if not self._busy[host]:
            del self._busy[host]


HOST_SLOTS: Final = HostSlots()
"""The slots of this process, which all its shards share."""


def spread_over_hosts(rows: Sequence[tuple[_Row, str]]) -> list[_Row]:
    """Return rows, each given with its host, so that every host's rows lie evenly over the whole.

    Metadata lists many pages of one host in a row; asked for in that order, all threads would wait for that host.
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
