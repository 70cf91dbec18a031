"""One round over a shard by img2dataset's ``Downloader``, with our client, decoder and writer.

Decoder and writer are parameters of its constructor. Its fetch goes through ``urllib.request.urlopen``, which can be
taught a scheme of one's own: the rows that img2dataset is given are URLs ``iedit://<round>/<row>``, and the handler
that opens them is ours. So nothing of img2dataset is changed, and none of its fetches can get past our client: to
anything but our handler such a URL means nothing (ADR 0004).
"""

import io
import itertools
import os
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol
from urllib.error import URLError
from urllib.response import addinfourl

from tasks.download.errors import FetchError
from tasks.download.image_body import CleanImage

_SCHEME: Final = "iedit"
_LOOK_S: Final = 1.0
_NO_IMAGE: Final = (None,) * 5


class RowSteps(Protocol):
    """What is done with the rows of a round, by their index."""

    def fetch(self, index: int) -> bytes:
        """Return the body of a row; called from many threads. A ``FetchError`` goes to ``drop``."""
        ...

    def clean(self, data: bytes) -> CleanImage:
        """Return the image in a body; called from one thread. A ``FetchError`` goes to ``drop``."""
        ...

    def keep(self, index: int, image: CleanImage) -> None:
        """Take the image of a row; called from the same thread as ``clean``."""
        ...

    def drop(self, index: int, error: FetchError) -> None:
        """Take note that a row gave no image; called from any thread."""
        ...


def run_downloader(num_rows: int, steps: RowSteps, *, num_threads: int, stop: threading.Event) -> None:
    """Put every row through ``steps``, ``num_threads`` fetches at a time, in about their order.

    Works in any thread, and for several shards of a process at the same time. When this thread is interrupted, what is
    in flight ends first, bounded by its time limits. An opener that the process had installed for ``urllib`` before is
    replaced by one that does what ``urllib`` does by itself.

    Args:
        num_rows: rows, which ``steps`` knows by their index.
        steps: what they raise, beside ``FetchError``, ends the round and is raised here.
        num_threads: fetches at the same time.
        stop: set when the work is given up, here or by the caller.
    """
    rows, name = _Rows(steps, stop), str(next(_NAMES))
    with tempfile.TemporaryDirectory(prefix="iedit-") as folder:
        shard = Path(folder) / "urls.arrow"
        _write_urls(shard, [f"{_SCHEME}://{name}/{index}" for index in range(num_rows)])
        download = _img2dataset(rows, folder=folder, num_rows=num_rows, num_threads=num_threads)
        urllib.request.install_opener(urllib.request.build_opener(RowHandler()))
        _ROUNDS[name] = rows
        try:
            _run_aside(lambda: download((0, str(shard))), stop)
        finally:
            del _ROUNDS[name]
    for error in rows.escapes.found:
        raise error


class RowHandler(urllib.request.BaseHandler):
    """Teaches ``urllib`` what ``iedit://<round>/<row>`` is, as long as that round runs."""

    def iedit_open(self, request: urllib.request.Request) -> addinfourl:
        """Return the body of a row.

        Raises:
            URLError: it has none, or no such round runs.
        """
        if (rows := _ROUNDS.get(request.host)) is None:
            raise URLError(f"no download called {request.host} runs in this process")
        return addinfourl(io.BytesIO(rows.open(int(request.selector[1:]))), Message(), request.full_url, code=200)


def img2dataset() -> ModuleType:
    """Return img2dataset's module ``downloader``: the package's, or the same bytes where it cannot be imported.

    A wheel cannot require the package, and Python 3.13 not import it (docs/decisions/0002).
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # a package that it imports asks the network for news
    try:
        from img2dataset import downloader
    except ImportError:
        from third_party.img2dataset import downloader
    return downloader


def _img2dataset(rows: "_Rows", *, folder: str, num_rows: int, num_threads: int) -> Callable[[tuple[int, str]], None]:
    return (
        img2dataset()
        .Downloader(
            sample_writer_class=lambda *_: rows,
            resizer=rows.resize,
            thread_count=num_threads,
            save_caption=False,
            extract_exif=False,
            output_folder=folder,
            column_list=["url"],
            timeout=None,
            number_sample_per_shard=max(1, num_rows),
            oom_shard_count=5,
            compute_hash=None,
            verify_hash_type=None,
            encode_format="png",
            retries=0,
            user_agent_token=None,
            disallowed_header_directives=None,
        )
        .download_shard
    )


def _write_urls(path: Path, urls: list[str]) -> None:
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


class _Rows:
    """A round in img2dataset's conventions: what its ``urlopen`` reaches, its resizer and its sample writer."""

    def __init__(self, steps: RowSteps, stop: threading.Event) -> None:
        self._steps, self._stop = steps, stop
        self.escapes = _Escapes(stop)

    def open(self, index: int) -> bytes:
        if not self._stop.is_set():
            with self.escapes:
                try:
                    return self._steps.fetch(index)
                except FetchError as error:
                    self._steps.drop(index, error)
        raise URLError("no image")

    def resize(self, stream: io.BytesIO, _: object = None) -> tuple[Any, ...]:
        # What takes the place of the encoded image is handed on to ``write`` as it is, and so is the error's text.
        if not self._stop.is_set():
            with self.escapes:
                try:
                    image = self._steps.clean(stream.getvalue())
                except FetchError as error:
                    return *_NO_IMAGE, str(error)
                return image, image.width, image.height, image.original_width, image.original_height, None
        return *_NO_IMAGE, "given up"

    def write(self, image: CleanImage | None, key: str, _: object, meta: Mapping[str, Any]) -> None:
        if not self._stop.is_set():
            with self.escapes:
                if image is not None:
                    self._steps.keep(int(key), image)
                elif meta["status"] == "failed_to_resize":
                    self._steps.drop(int(key), FetchError.from_text(meta["error_message"]))

    def close(self) -> None:
        """Be closed, as img2dataset's writers are; there is nothing to do."""


_ROUNDS: Final[dict[str, _Rows]] = {}
"""The rounds that run in this process, by their names: ``urlopen`` belongs to the process as well."""
_NAMES: Final = itertools.count()
