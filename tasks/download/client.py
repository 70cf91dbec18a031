"""An SSRF-safe HTTP client: GET, bounded in time, bytes and redirects, and never at a private address.

No proxy but a configured one, no cookie and no user name is ever used. Each redirect is a new URL with all its checks.
``X-Robots-Tag`` is obeyed. A failure is a ``FetchError`` with its class; see ``errors``.
"""

import hashlib
import http.client
import re
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Final

from pydantic import Field, NonNegativeInt, PositiveInt

from iedit_model.configuration import configuration
from tasks.download.addresses import AddressBook, Resolver, WebAddress, parse_url, redirected, system_addresses
from tasks.download.errors import FetchError
from tasks.download.sockets import (
    HOST_SLOTS,
    MAX_HEADER_BYTES,
    BoundedSocket,
    Deadline,
    GuardedConnection,
    fetch_errors,
)

FORBIDDING: Final = ("noai", "noimageai", "noindex", "noimageindex", "none")
"""Rules that forbid our use: img2dataset's list, and ``none``, which is short for ``noindex, nofollow``."""

# Rules that have a value behind a colon themselves, and so are no robot's name.
_VALUED: Final = re.compile(r"max-(snippet|image-preview|video-preview)\s*:[^,;]*", re.IGNORECASE)
_ROBOT: Final = re.compile(r"([a-z0-9_.*-]+)(/[a-z0-9_.-]*)?")
# A date may have a comma behind its weekday, and colons between its hours and minutes.
_DATED: Final = re.compile(
    r"unavailable_after\s*:\s*((?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\s*,)?[^,;]*)", re.IGNORECASE
)


def is_forbidden(values: Iterable[str], *, agent: str, rules: Sequence[str] = FORBIDDING) -> bool:
    """Return whether any ``X-Robots-Tag`` header has one of ``rules`` for everybody or for the robot ``agent``.

    A value is a list of rules, each of which may be meant for one robot: ``noai, noimageai`` or ``otherbot: noindex,
    ourbot: noai``. A name counts for the rules behind it until the next name. ``unavailable_after`` is ``noindex`` once
    its date has passed.
    """
    forbidding, ours = {rule.lower() for rule in rules}, agent.lower()
    for value in values:
        robot = ""
        undated = _DATED.sub(lambda found: "noindex" if _has_passed(found[1]) else "", value)
        for part in re.split("[,;]", _VALUED.sub("", undated).lower()):
            name, colon, said = part.partition(":")
            named = _ROBOT.fullmatch(name.strip()) if colon else None
            if named is not None:
                robot = named[1]
            if robot in {"", "*", ours} and not forbidding.isdisjoint((said if colon else part).split()):
                return True
    return False


def _has_passed(text: str) -> bool:
    when = _date(text)
    return when is not None and when <= datetime.now(UTC)


def _date(text: str) -> datetime | None:
    """Return a date of an HTTP header, in UTC where it names no zone; None for what is no date."""
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        with suppress(TypeError, ValueError, IndexError, OverflowError):
            when = read(text.strip())
            return when if when.tzinfo else when.replace(tzinfo=UTC)
    return None


_TOKEN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ALLOWED_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+):[0-9]{1,5}")
_PROXY: Final = re.compile(r"http://(?P<host>\[[0-9a-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})/?")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_BY_STATUS: Final = {
    401: "forbidden",
    403: "forbidden",
    404: "not_found",
    408: "timeout",
    410: "gone",
    425: "throttled",
    429: "throttled",
    451: "forbidden",
}
_PACKED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_CODINGS: Final = _PACKED | {"br", "zstd", "compress", "x-compress", "dcb", "dcz"}
_MOST_CODINGS: Final = 4
_BLOCK_BYTES: Final = 65_536
_SPEED: Final[dict[str, Any]] = {"fingerprint": False}


@configuration
class FetchConfig:
    """How a URL is requested; what decides only whether an answer comes in time is no part of the fingerprint."""

    max_bytes: PositiveInt = 20 * 2**20
    """Longest body, bytes, before and after its transfer encoding is undone."""
    honour_robots: bool = True
    """Whether ``X-Robots-Tag`` is obeyed."""
    robots_rules: tuple[str, ...] = FORBIDDING
    """Rules of ``X-Robots-Tag`` that forbid our use."""
    user_agent: str = "iedit"
    """Our name, sent to servers in ``User-Agent`` and in ``X-Robots-Tag``: letters, digits, ``.``, ``_``, ``-``."""
    max_redirects: NonNegativeInt = field(default=5, metadata=_SPEED)
    """Redirects that are followed, 0 or more."""
    socket_timeout_s: Annotated[float, Field(gt=0, le=3600)] = field(default=10.0, metadata=_SPEED)
    """Longest wait for the server in one operation, seconds."""
    total_timeout_s: Annotated[float, Field(gt=0, le=3600)] = field(default=30.0, metadata=_SPEED)
    """Longest time of one try with all its redirects, seconds; waiting for a slot of the host does not count."""
    per_host: PositiveInt = field(default=8, metadata=_SPEED)
    """Requests to one host at the same time, all shards of this process together."""
    allowed_hosts: tuple[str, ...] = field(default=(), metadata=_SPEED)
    """``host:port`` of servers that may have any address, written as in their URLs (``127.0.0.1:8765``)."""
    proxy: str | None = field(default=None, metadata=_SPEED)
    """Proxy for all but ``allowed_hosts``: ``http://host:port``. It looks names up itself, so that what it may reach is
    its own affair; a URL is still refused whose host is known here and not public. None: no proxy is used."""

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.user_agent):
            raise ValueError(f"user_agent is {self.user_agent!r}, expected a word like 'iedit'")
        for host in self.allowed_hosts:
            if not _ALLOWED_HOST.fullmatch(host):
                raise ValueError(f"allowed_hosts holds {host!r}, expected like '127.0.0.1:8765'")
        if self.proxy is not None and not _PROXY.fullmatch(self.proxy):
            raise ValueError(f"proxy is {self.proxy!r}, expected like 'http://proxy:3128', without a user's name")

    @property
    def proxy_address(self) -> tuple[str, int] | None:
        """Host and port of the proxy."""
        found = _PROXY.fullmatch(self.proxy) if self.proxy is not None else None
        return (found["host"].strip("[]"), int(found["port"])) if found else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """The body of a URL."""

    data: bytes
    sha256: str
    """Of ``data``, 64 hex characters."""
    http_status: int


class Fetcher:
    """Requests URLs from any number of threads; made for one shard, closed at its end."""

    def __init__(self, config: FetchConfig, *, num_threads: int, resolver: Resolver = system_addresses) -> None:
        """Begin without knowing any host.

        Args:
            config: limits, robots rules and user agent.
            num_threads: how many threads will call ``fetch``.
            resolver: looks up a host's addresses, which are then checked.
        """
        self._config = config
        self._book = AddressBook(resolver, allowed_hosts=config.allowed_hosts, num_threads=num_threads)
        self.stop = threading.Event()
        """Set to give up: threads that wait for a host fail."""

    def close(self) -> None:
        """Give up what is waiting."""
        self.stop.set()
        self._book.close()

    def begin_round(self) -> None:
        """Look up anew the hosts that had no address before."""
        self._book.forget_failures()

    def fetch(self, url: str) -> Fetched:
        """Return the body behind a URL.

        Raises:
            FetchError: there is none, or the server forbids its use.
        """
        status, seen = None, set[str]()
        deadline = Deadline(total_s=self._config.total_timeout_s, operation_s=self._config.socket_timeout_s)
        try:
            with fetch_errors():
                address = parse_url(url)
                while True:
                    self._note(address, seen)
                    answer = self._request(address, deadline)
                    if isinstance(answer, Fetched):
                        return answer
                    status = answer.http_status
                    address = redirected(address, answer.location)
        except FetchError as error:
            error.http_status = error.http_status or status
            raise

    def _note(self, address: WebAddress, seen: set[str]) -> None:
        if address.url in seen or len(seen) > self._config.max_redirects:
            raise FetchError("redirect_loop", f"{len(seen)} redirects and no end")
        seen.add(address.url)

    def _request(self, address: WebAddress, deadline: Deadline) -> "Fetched | _Redirect":
        # The address is checked before a slot of the host is waited for: what is never requested need not wait.
        proxy = None if address.host_port in self._config.allowed_hosts else self._config.proxy_address
        numbers: Sequence[str] = ()
        try:
            numbers = self._book.addresses(address, timeout_s=deadline.left_s())
        except FetchError as error:
            if proxy is None or error.error_class != "dns":  # behind a proxy there may be no names
                raise
        connection = GuardedConnection(address, numbers, deadline, proxy=proxy)
        with self._slot(address, deadline), closing(connection):
            connection.request("GET", connection.target, headers=self._headers(address))
            with closing(connection.getresponse()) as response:
                return self._answer(response, connection.bounded)

    @contextmanager
    def _slot(self, address: WebAddress, deadline: Deadline) -> Iterator[None]:
        with ExitStack() as held:
            with deadline.paused():
                held.enter_context(HOST_SLOTS.slot(address.host, limit=self._config.per_host, stop=self.stop))
            yield

    def _headers(self, address: WebAddress) -> dict[str, str]:
        return {
            "Host": address.host_header,
            "User-Agent": f"Mozilla/5.0 (compatible; {self._config.user_agent}/1.0)",
            "Accept": "image/*,*/*;q=0.8",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }

    def _answer(self, response: http.client.HTTPResponse, connection: BoundedSocket) -> "Fetched | _Redirect":
        status = response.status
        if status not in _REDIRECTS:
            _check_status(status, response.getheader("Retry-After"))
        if self._config.honour_robots and is_forbidden(
            response.headers.get_all("X-Robots-Tag", ()),
            agent=self._config.user_agent,
            rules=self._config.robots_rules,
        ):
            raise FetchError("refused_by_robots", "X-Robots-Tag forbids it", http_status=status)
        if status in _REDIRECTS:
            if (location := response.getheader("Location")) is None:
                raise FetchError("bad_response", "a redirect to nowhere", http_status=status)
            return _Redirect(location=location, http_status=status)
        try:
            data = _body(response, connection, self._config.max_bytes)
        except FetchError as error:
            error.http_status = status
            raise
        return Fetched(data=data, sha256=hashlib.sha256(data).hexdigest(), http_status=status)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Redirect:
    location: str
    http_status: int


def _check_status(status: int, retry_after: str | None) -> None:
    if 200 <= status < 300 and status != http.client.PARTIAL_CONTENT:
        return
    by_range = {4: "client_error", 5: "server_error"}
    error_class = _BY_STATUS.get(status) or by_range.get(status // 100, "bad_response")
    raise FetchError(
        error_class, f"HTTP status {status}", http_status=status, retry_after_s=_retry_after_s(retry_after)
    )


def _retry_after_s(value: str | None) -> float | None:
    if value is None:
        return None
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", value, re.ASCII):
        return float(value)
    when = _date(value)
    return None if when is None else max(0.0, (when - datetime.now(UTC)).total_seconds())


def _body(response: http.client.HTTPResponse, connection: BoundedSocket, max_bytes: int) -> bytes:
    if response.length is not None and response.length > max_bytes:
        raise FetchError("too_many_bytes", f"more than {max_bytes} bytes")
    # Chunks may be as short as one byte, which costs six; a body that is mostly such overhead is not worth more.
    connection.allowance = connection.num_read + 2 * max_bytes + MAX_HEADER_BYTES
    data = bytearray()
    while block := response.read(_BLOCK_BYTES):
        data += block
        if len(data) > max_bytes:
            raise FetchError("too_many_bytes", f"more than {max_bytes} bytes")
    if response.length:
        raise FetchError("incomplete", "the connection closed before the end of the body")
    return _plain(bytes(data), response.getheader("Content-Encoding") or "", max_bytes)


def _plain(data: bytes, label: str, max_bytes: int) -> bytes:
    """Return a body without its content codings; a word that names none means nothing, as in browsers."""
    codings = [word for word in label.lower().replace(",", " ").split() if word in _CODINGS]
    if len(codings) > _MOST_CODINGS or not _PACKED.issuperset(codings):
        raise FetchError("bad_response", "a content encoding that was not requested")
    for coding in reversed(codings):
        try:
            data = _unpacked(data, max_bytes, wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, as its first bytes say
        except zlib.error as error:
            if coding != "deflate":
                raise FetchError("bad_response", "a content encoding that does not hold") from error
            data = _unpacked(data, max_bytes, wbits=-zlib.MAX_WBITS)  # what many servers call so
    return data


def _unpacked(data: bytes, max_bytes: int, *, wbits: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=wbits)
    plain = unpacker.decompress(data, max_bytes + 1)
    if len(plain) > max_bytes:
        raise FetchError("too_many_bytes", f"more than {max_bytes} bytes when unpacked")
    if not unpacker.eof:
        raise FetchError("incomplete", "the packed body ends before its end")
    return plain
