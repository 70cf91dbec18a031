"""What a process keeps open between the shards of a stage: the index, which takes longer to open than to search."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from storage import ShardReport, ShardStore
from tasks.index.vector_index import SearchSettings, VectorIndex, open_index

_Key = tuple[str, str, str, SearchSettings]


class _Held:
    """The index that is open at the moment, if any."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.key: _Key | None = None
        self.index: VectorIndex | None = None
        self.stack = ExitStack()


_HELD = _Held()


@contextmanager
def resident_index(report: ShardReport, store: ShardStore, settings: SearchSettings) -> Iterator[VectorIndex]:
    """Give the opened index of a report; it stays open for the next call, until another one is asked for.

    Raises:
        IndexMismatchError: a file is damaged.
        MissingFileError: a file is gone.
    """
    key = (store.files.root, report.fingerprint, report.digest, settings)
    with _HELD.lock:
        if _HELD.index is None or _HELD.key != key:
            _release()
            _HELD.index = _HELD.stack.enter_context(open_index(report, store, settings))
            _HELD.key = key
        index = _HELD.index
    yield index


def release_index() -> None:
    """Close the index that is kept open; what still searches it keeps its mapped memory."""
    with _HELD.lock:
        _release()


def _release() -> None:
    """Close it; the caller holds the lock."""
    _HELD.index, _HELD.key = None, None
    _HELD.stack.close()
    _HELD.stack = ExitStack()
