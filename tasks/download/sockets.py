"""The connections of the SSRF-safe client: checked addresses, bounded waits and reads, few at once per host."""

import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Final, cast

from tasks.download.addresses import WebAddress
from tasks.download.errors import FetchError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_HEADER_BYTES: Final = 131_072
"""Bytes that may come before the body begins: 64 KiB of headers, and what the buffer takes of the body with them."""
_MOST_TRIED: Final = 3
"""Addresses of one host that are tried."""
_LOOK_EVERY_S: Final = 0.5
"""How often a waiting thread looks whether the work was given up, seconds."""


class Deadline:
    """The time limits of one image: for everything, and for one operation."""

    def __init__(self, *, total_s: float, operation_s: float) -> None:
        """Start the clock.

        Args:
            total_s: for everything together, seconds.
            operation_s: for one wait for the server, seconds.
        """
        self._end = time.monotonic() + total_s
        self._operation_s = operation_s

    def left_s(self) -> float:
        """Return how long the next operation may take, seconds.

        Raises:
            FetchError: ``timeout``, when no time is left.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise FetchError("timeout", "took longer than an image may")
        return min(left, self._operation_s)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out, such as waiting for a slot."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._end += time.monotonic() - start


class BoundedSocket(socket.socket):
    """A socket that reads within a deadline and an allowance of bytes, which may be raised later."""

    deadline: Deadline
    allowance: int = MAX_HEADER_BYTES
    num_read: int = 0

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int | None = None, flags: int = 0) -> int:
        """Read what there is, at most ``nbytes`` or the buffer's length; ``http.client`` reads in no other way.

        Raises:
            FetchError: ``timeout``; ``too_many_bytes`` when the allowance is used up; ``connection``.
        """
        with fetch_errors():
            self.settimeout(self.deadline.left_s())
            count = super().recv_into(buffer, nbytes or memoryview(buffer).nbytes, flags)
        self.num_read += count
        if self.num_read > self.allowance:
            raise FetchError("too_many_bytes", f"more than {self.allowance} bytes with the headers")
        return count


class _BoundedTlsSocket(BoundedSocket, ssl.SSLSocket):
    """The same for https."""


class GuardedConnection(http.client.HTTPConnection):
    """A connection for http or https that goes to given addresses, whatever the host's name means to the system."""

    bounded: BoundedSocket
    """The socket, also when ``http.client`` has let go of it because the answer is the last one."""

    def __init__(
        self,
        address: WebAddress,
        numbers: Sequence[str],
        deadline: Deadline,
        *,
        proxy: tuple[str, int] | None = None,
    ) -> None:
        """Connect with the first request.

        Args:
            address: whose name ``Host``, SNI and certificate are of.
            numbers: the host's checked addresses, in the order in which to try them.
            deadline: for the whole fetch.
            proxy: host and port of one to go through instead, which looks the name up itself.
        """
        super().__init__(address.host, address.port)
        self._address, self._numbers, self._deadline, self._proxy = address, numbers, deadline, proxy

    @property
    def target(self) -> str:
        """What the request line asks for: a proxy is told the whole URL, but for https, which is tunnelled."""
        return self._address.url if self._proxy and self._address.scheme == "http" else self._address.target

    def connect(self) -> None:
        """Connect to the first address that accepts, and secure the connection for https.

        Raises:
            FetchError: ``connection``, ``timeout`` or ``bad_certificate``.
        """
        with fetch_errors(), ExitStack() as held:
            bounded = self._first_that_accepts() if self._proxy is None else self._through_proxy(*self._proxy)
            held.callback(bounded.close)
            if self._address.scheme == "https":
                bounded.settimeout(self._deadline.left_s())
                # The handshake proves the name of the URL, not the number that we looked up.
                secured = tls_context().wrap_socket(bounded, server_hostname=self._address.host)
                bounded = cast("_BoundedTlsSocket", secured)
                held.callback(bounded.close)
            bounded.deadline = self._deadline
            bounded.settimeout(self._deadline.left_s())
            held.pop_all()
        self.sock = self.bounded = bounded

    def _through_proxy(self, host: str, port: int) -> BoundedSocket:
        """Return a connection to the proxy, for https a tunnel to the host."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        bounded = self._connected(str(found[0][4][0]), port)
        if self._address.scheme != "https":
            return bounded
        with ExitStack() as held:
            held.callback(bounded.close)
            bounded.deadline = self._deadline
            wanted = self._address.host_port
            bounded.sendall(f"CONNECT {wanted} HTTP/1.1\r\nHost: {wanted}\r\n\r\n".encode())
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):  # byte by byte: what follows belongs to the host
                if not bounded.recv_into(byte := bytearray(1)):
                    raise FetchError("connection", "the proxy closed the tunnel")
                answer += byte
            if answer.split(b" ", 2)[1:2] != [b"200"]:
                status = answer.split(b"\r\n", 1)[0].decode("latin-1")
                raise FetchError("connection", f"the proxy opens no tunnel: {status:.100}")
            held.pop_all()
        return bounded

    def _first_that_accepts(self) -> BoundedSocket:
        *others, last = self._numbers[:_MOST_TRIED]
        for number in others:
            with suppress(FetchError):
                return self._connected(number)
        return self._connected(last)

    def _connected(self, number: str, port: int | None = None) -> BoundedSocket:
        with fetch_errors(), ExitStack() as held:
            plain = BoundedSocket(socket.AF_INET6 if ":" in number else socket.AF_INET, socket.SOCK_STREAM)
            held.callback(plain.close)
            plain.settimeout(self._deadline.left_s())
            plain.connect((number, port or self._address.port))
            held.pop_all()
            return plain


_BY_ERROR: Final = (
    (TimeoutError, "timeout", "no answer in time"),
    (ssl.SSLCertVerificationError, "bad_certificate", "the certificate does not hold"),
    (ssl.SSLError, "connection", "no secure connection"),
    (http.client.IncompleteRead, "incomplete", "the connection closed before the end of the body"),
    (http.client.RemoteDisconnected, "connection", "closed without an answer"),
    (http.client.HTTPException, "bad_response", "this is no HTTP"),
    (OSError, "connection", "lost"),
    (MemoryError, "connection", "no memory for the answer"),
    (Exception, "bad_response", "it cannot be read"),
)


@contextmanager
def fetch_errors() -> Iterator[None]:
    """Turn whatever the block raises into ``FetchError``: one answer is one row, never the end of a shard.

    Nothing narrower is enough: what ``http.client``, ``email``, ``ssl``, ``zlib`` and the codecs raise on hostile bytes
    (ValueError, OverflowError, RecursionError, ...) is nowhere documented as a whole.
    """
    try:
        yield
    except FetchError:
        raise
    except Exception as error:
        error_class, message = next(entry[1:] for entry in _BY_ERROR if isinstance(error, entry[0]))
        if isinstance(error, ssl.SSLCertVerificationError):
            message = f"{message}: {error.verify_message}"
        elif message == "lost" and isinstance(error, OSError) and error.errno:
            message = os.strerror(error.errno)
        elif error_class == "bad_response":
            message = f"{message} ({type(error).__name__})"
        raise FetchError(error_class, message) from error


@cache
def tls_context() -> ssl.SSLContext:
    """Return what this process trusts for https: the system's certificates, or those of ``$SSL_CERT_FILE``."""
    context = ssl.create_default_context()
    context.sslsocket_class = _BoundedTlsSocket
    return context


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
        while not granted.wait(_LOOK_EVERY_S):
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
