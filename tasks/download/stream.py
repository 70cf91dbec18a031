"""Connections that cannot be held for ever: every read and write is bounded in time, and all reads in bytes."""

import io
import os
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

from tasks.download.errors import FetchError
from tasks.download.urls import WebAddress

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BUFFER_BYTES: Final = 65_536
_MOST_TRIED: Final = 3
"""Addresses of one host that are tried."""


class Deadline:
    """The time that one image may take, and the part of it that one operation may."""

    def __init__(self, *, total_s: float, operation_s: float) -> None:
        """Start the clock.

        Args:
            total_s: for everything together, seconds.
            operation_s: for one wait for the other side, seconds.
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
        """Do not count the time of the block: it is spent on waiting for ourselves."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._end += time.monotonic() - start


class BoundedStream(io.RawIOBase):
    """The reading side of a connection, within a deadline and an allowance of bytes."""

    def __init__(self, connection: socket.socket, deadline: Deadline, *, allowance: int) -> None:
        """Read from ``connection`` until ``allowance`` bytes have come; the allowance may be raised later."""
        self._connection = connection
        self._deadline = deadline
        self.allowance = allowance
        self.num_read = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read what there is, at most the buffer's length.

        Raises:
            FetchError: ``timeout``; ``too_many_bytes`` when the allowance is used up; ``connection``.
        """
        with connection_errors():
            self._connection.settimeout(self._deadline.left_s())
            count = self._connection.recv_into(buffer)
        self.num_read += count
        if self.num_read > self.allowance:
            raise FetchError("too_many_bytes", f"more than {self.allowance} bytes with the headers")
        return count

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a buffered reader over this stream, as ``http.client`` asks a socket for one."""
        del mode  # always "rb"
        return io.BufferedReader(self, _BUFFER_BYTES)


@contextmanager
def connected(address: WebAddress, numbers: Sequence[str], deadline: Deadline) -> Iterator[socket.socket]:
    """Yield a connection to the first of a host's checked addresses that accepts one, secured for https.

    Raises:
        FetchError: ``connection``, ``timeout`` or ``bad_certificate``.
    """
    plain = _plain_connection(numbers, address.port, deadline)
    try:
        if address.scheme == "http":
            yield plain
            return
        with connection_errors():
            plain.settimeout(deadline.left_s())
            # The handshake proves the name of the URL, not the number that we looked up.
            secured = tls_context().wrap_socket(plain, server_hostname=address.host)
        with secured:
            yield secured
    finally:
        plain.close()


@contextmanager
def connection_errors() -> Iterator[None]:
    """Turn what sockets raise in the block into ``FetchError``."""
    try:
        yield
    except TimeoutError as error:
        raise FetchError("timeout", "no answer in time") from error
    except ssl.SSLCertVerificationError as error:
        raise FetchError("bad_certificate", f"the certificate does not hold: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise FetchError("connection", "no secure connection") from error
    except OSError as error:
        raise FetchError("connection", os.strerror(error.errno) if error.errno else "lost") from error


def _plain_connection(numbers: Sequence[str], port: int, deadline: Deadline) -> socket.socket:
    *others, last = numbers[:_MOST_TRIED]
    for number in others:
        try:
            return _one_connection(number, port, deadline)
        except FetchError:
            continue
    return _one_connection(last, port, deadline)


def _one_connection(number: str, port: int, deadline: Deadline) -> socket.socket:
    with connection_errors():
        return socket.create_connection((number, port), timeout=deadline.left_s())


@cache
def tls_context() -> ssl.SSLContext:
    """Return what this process trusts for https: the system's certificates, or those of ``$SSL_CERT_FILE``."""
    return ssl.create_default_context()
