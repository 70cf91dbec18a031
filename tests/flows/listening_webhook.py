"""A small web server of a test that keeps what is posted to it, as a chat's incoming webhook would."""

import json
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ListeningWebhook(ThreadingHTTPServer):
    """Listens at a free port of this machine."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._posts: queue.Queue[tuple[str, Any]] = queue.Queue()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"

    def told(self, count: int, *, timeout_s: float) -> list[tuple[str, Any]]:
        """Return content type and JSON of the next posts: so many, or those that come in time."""
        found = []
        end = time.monotonic() + timeout_s
        with suppress(queue.Empty):
            while len(found) < count:
                found.append(self._posts.get(timeout=max(0.0, end - time.monotonic())))
        return found

    def keep(self, content_type: str, body: bytes) -> None:
        self._posts.put((content_type, json.loads(body)))


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, ListeningWebhook)
        self.server.keep(self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing."""


@contextmanager
def listening_webhook() -> Iterator[ListeningWebhook]:
    """Listen for as long as the block runs."""
    with ListeningWebhook() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
