"""img2dataset's own ``Downloader`` for one shard, with our fetch, decoder and writer in its places.

``Downloader.download_shard`` keeps what it is good at: the thread pool, the bound on what waits to be decoded, the
order of things. Decoder and writer are parameters of its constructor. Its fetch is not, so the method runs as a copy
whose one global name for it is ours: nothing of the module changes, and each shard has its own (ADR 0004).
"""

import io
import os
import tempfile
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Protocol

from tasks.download.image_body import CleanImage
from tasks.errors import DownloaderChangedError

_FETCH: Final = "download_image_with_retry"
_LOOK_S: Final = 1.0
_Row = tuple[int, str]


class ShardWork(Protocol):
    """What is done with each URL of a shard, by its number; each step returns None when it noted a failure."""

    def fetch(self, number: int, url: str) -> bytes | None:
        """Return the body at a URL; called from many threads."""
        ...

    def clean(self, number: int, data: bytes) -> CleanImage | None:
        """Return the picture in a body; called from one thread."""
        ...

    def keep(self, number: int, data: bytes) -> None:
        """Take an encoded picture; called from the same thread."""
        ...


def run_downloader(urls: Sequence[str], work: ShardWork, *, num_threads: int, stop: threading.Event) -> None:
    """Put every URL through ``work``, ``num_threads`` fetches at a time, in about the given order.

    Works in any thread. When this thread is interrupted, what is in flight ends first, bounded by its time limits.

    Args:
        urls: their places are the numbers that ``work`` is given.
        work: the three steps. What it raises ends the shard and is raised here.
        num_threads: fetches at the same time.
        stop: set when the work is given up, here or by the caller.

    Raises:
        DownloaderChangedError: the installed img2dataset is built otherwise than this module expects.
    """
    places = _Places(work, stop)
    with tempfile.TemporaryDirectory(prefix="iedit-") as folder:
        shard = Path(folder) / "urls.arrow"
        _write_urls(shard, urls)
        download = _guarded_download(places, folder=folder, num_urls=len(urls), num_threads=num_threads)
        _run_aside(lambda: download((0, str(shard))), stop)
    for error in places.escapes.found:
        raise error


def _guarded_download(
    places: "_Places", *, folder: str, num_urls: int, num_threads: int
) -> Callable[[tuple[int, str]], None]:
    # Its import asks a package index for updates otherwise.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    from img2dataset.downloader import Downloader

    downloader = Downloader(
        sample_writer_class=lambda *_: places,
        resizer=places.clean,
        thread_count=num_threads,
        save_caption=False,
        extract_exif=False,
        output_folder=folder,
        column_list=["url"],
        timeout=None,
        number_sample_per_shard=max(1, num_urls),
        oom_shard_count=5,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="png",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=None,
    )
    method = Downloader.download_shard
    if _FETCH not in set(_global_names(method.__code__)) or method.__closure__ is not None:
        raise DownloaderChangedError(
            f"img2dataset's Downloader does not call {_FETCH} any more, so its fetches could not be guarded; "
            "install the version of constraints.txt"
        )
    # Without urllib in reach, no fetch but ours can happen.
    names = {**method.__globals__, _FETCH: places.fetch, "urllib": None}
    guarded = types.FunctionType(method.__code__, names, method.__name__, method.__defaults__)
    return types.MethodType(guarded, downloader)


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _write_urls(path: Path, urls: Sequence[str]) -> None:
    import pyarrow as pa

    table = pa.table({"url": pa.array(urls, pa.string())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _run_aside(function: Callable[[], None], stop: threading.Event) -> None:
    # An exception that arrives inside img2dataset's loop (Ctrl-C, a task's time limit) would leave its pool waiting
    # for ever. It arrives here instead, and the loop runs to its end with nothing left to do.
    with ThreadPoolExecutor(1, thread_name_prefix="iedit-download") as aside:
        running = aside.submit(function)
        try:
            while not running.done():
                wait([running], timeout=_LOOK_S)
            running.result()
        except BaseException:
            stop.set()
            raise


class _Escapes(AbstractContextManager[None]):
    """Keeps errors that nobody expected: img2dataset would print them and go on, or hang."""

    def __init__(self, stop: threading.Event) -> None:
        self.found: list[BaseException] = []
        self._stop = stop

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is not None:
            self.found.append(error)
            self._stop.set()
        return True


class _NumberedStream(io.BytesIO):
    def __init__(self, number: int, data: bytes) -> None:
        super().__init__(data)
        self.number = number


class _Places:
    """What img2dataset calls: a fetch, a resizer and a sample writer, all in its own conventions."""

    def __init__(self, work: ShardWork, stop: threading.Event) -> None:
        self._work = work
        self._stop = stop
        self.escapes = _Escapes(stop)

    def fetch(self, row: _Row, **_: object) -> tuple[int, _NumberedStream | None, str | None]:
        number, url = row
        if not self._stop.is_set():
            with self.escapes:
                data = self._work.fetch(number, url)
                if data is not None:
                    return number, _NumberedStream(number, data), None
        return number, None, "failed"

    def clean(self, stream: _NumberedStream, _: object = None) -> tuple[Any, ...]:
        if not self._stop.is_set():
            with self.escapes:
                image = self._work.clean(stream.number, stream.getvalue())
                if image is not None:
                    sizes = (image.width, image.height, image.original_width, image.original_height)
                    return image.data, *sizes, None
        return None, None, None, None, None, "failed"

    def write(self, data: bytes | None, key: str, _: object, __: object) -> None:
        if data is not None and not self._stop.is_set():
            with self.escapes:
                self._work.keep(int(key), data)

    def close(self) -> None:
        """Be closed, as img2dataset's writers are; there is nothing to do."""
