"""The running web site: one thread a connection, bounded in number, and a clean end at any moment."""

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from miniature.errors import SiteAddressError
from miniature.handler import SiteHandler
from miniature.site import Site
from miniature.visits import Visits

MAX_CONNECTIONS = 256
"""Open connections, and so threads, at any time; one more is told 503."""
IDLE_S = 15.0
"""A connection ends when its client neither sends nor takes anything for so long, seconds."""
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class SiteServer(ThreadingHTTPServer):
    """The listening socket and the open connections."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 256

    def __init__(self, site: Site, address: tuple[str, int], *, max_connections: int, idle_s: float) -> None:
        """Listen at ``address``; see ``serve`` for the rest."""
        self.site = site
        self.visits = Visits()
        self.idle_s = idle_s
        self._slots = threading.BoundedSemaphore(max_connections)
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, SiteHandler)

    @property
    def base_url(self) -> str:
        """Where the site is, without a slash at the end."""
        return f"http://{self.server_name}:{self.server_port}"

    def server_bind(self) -> None:
        """Bind the socket; unlike the base class, without asking a name server for the host's name."""
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or tell it that all are taken."""
        if not self._slots.acquire(blocking=False):
            _turn_away(request)
            super().shutdown_request(request)
            return
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection and free its thread's place."""
        with self._open_lock:
            known = request in self._open
            self._open.discard(request)
        super().shutdown_request(request)
        if known:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about clients that went away; report everything else as the base class does."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def end_connections(self) -> None:
        """Wake every thread that waits for its client or for a planted delay."""
        with self._open_lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was faster


class RunningSite:
    """A site that answers at ``base_url`` until ``serve`` ends."""

    def __init__(self, server: SiteServer) -> None:
        """Wrap a listening server."""
        self._server = server
        self.site = server.site
        self.base_url = server.base_url

    def url(self, index: int) -> str:
        """Return a URL as the metadata names it."""
        return self.site.url(index, self.base_url)

    def num_requests(self) -> dict[int, int]:
        """Return how often each URL was asked for since the start or the last reset, without those never asked for."""
        return self._server.visits.counts()

    def reset(self) -> None:
        """Forget all requests, so that 429 and 500 come once more where they come once."""
        self._server.visits.forget()


@contextmanager
def serve(
    site: Site,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    max_connections: int = MAX_CONNECTIONS,
    idle_s: float = IDLE_S,
) -> Iterator[RunningSite]:
    """Run a site in the background for as long as the ``with`` block lasts.

    Args:
        site: what to serve.
        host: address to listen at.
        port: 0 takes a free one.
        max_connections: open connections, and so threads, at any time; one more is told 503.
        idle_s: a connection ends when its client neither sends nor takes anything for so long, seconds.

    Raises:
        SiteAddressError: the address is taken or is not one of this machine's.
        SiteConfigError: the site's settings do not fit together.
    """
    _ = site.plan  # a site that cannot be planned fails here and not in a connection's thread
    try:
        server = SiteServer(site, (host, port), max_connections=max_connections, idle_s=idle_s)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SiteAddressError(f"cannot serve at {host}:{port}: {reason}; choose another port") from error
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="miniature-site", daemon=True)
    thread.start()
    try:
        yield RunningSite(server)
    finally:
        server.shutdown()
        thread.join()
        server.end_connections()
        server.server_close()


def _turn_away(request: socket.socket) -> None:
    try:
        request.sendall(_BUSY)
        # Closing on an unread request would reset the connection and swallow the answer.
        request.shutdown(socket.SHUT_WR)
        request.settimeout(0.2)
        request.recv(65_536)
    except OSError:
        return  # the client went away by itself
