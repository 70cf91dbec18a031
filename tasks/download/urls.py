"""URLs taken apart: only http and https, no user names, no ports that belong to other services."""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Final
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from tasks.download.errors import FetchError

MAX_URL_BYTES: Final = 4096
"""Longest URL, bytes of UTF-8."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):", re.ASCII)
_HOST: Final = re.compile(
    r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?", re.ASCII
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LOWEST_FREE_PORT: Final = 1024
# Ports above 1023 on which a browser never speaks HTTP either: "port blocking" of the Fetch standard.
_BAD_PORTS: Final = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670), 6679, 6697, 10080}
)
# What stays as it is in path and query: reserved and unreserved characters of RFC 3986, and escapes.
_SAFE: Final = "%/:?#[]@!$&'()*+,;=-._~"


@dataclass(frozen=True, kw_only=True, slots=True)
class WebAddress:
    """A URL that may be asked for, once its host's address is found to be public."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """ASCII, lower case; an IPv6 address without brackets."""
    port: int
    target: str
    """Path and query, percent-encoded."""

    @property
    def host_port(self) -> str:
        """Host and port as they stand in a list of allowed hosts: ``127.0.0.1:8765``, ``[::1]:80``."""
        return f"{self._bracketed}:{self.port}"

    @property
    def host_header(self) -> str:
        """Value of the ``Host`` header."""
        return self._bracketed if self.port == _DEFAULT_PORTS[self.scheme] else self.host_port

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.scheme}://{self.host_header}{self.target}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def is_url(text: str) -> bool:
    """Return whether a text is a URL at all, be it one that would never be asked for."""
    try:
        parse_url(text)
    except FetchError as error:
        return error.error_class == "blocked_address"
    return True


def parse_url(url: str) -> WebAddress:
    """Return the parts of an http(s) URL; nothing is asked or looked up.

    Raises:
        FetchError: ``blocked_address`` for another scheme or a port that is not the web's, ``bad_url`` for anything
            else that is wrong with it.
    """
    url = url.strip(" ")
    if len(url.encode("utf-8", "replace")) > MAX_URL_BYTES:
        raise FetchError("bad_url", f"longer than {MAX_URL_BYTES} bytes")
    if _CONTROL.search(url) or "\\" in url:
        raise FetchError("bad_url", "a control character or backslash")
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise FetchError("bad_url", "no scheme")
    if scheme[1].lower() not in _DEFAULT_PORTS:
        raise FetchError("blocked_address", f"the scheme {scheme[1][:20]} is never opened")
    return _checked_parts(scheme[1].lower(), _split(url))


def redirected(address: WebAddress, location: str) -> WebAddress:
    """Return where a ``Location`` header leads from an address.

    Raises:
        FetchError: as ``parse_url``.
    """
    try:
        # HTTP's headers come as Latin-1, but what servers put there is UTF-8.
        location = location.encode("latin-1").decode()
    except UnicodeError:
        location = quote(location, safe=_SAFE, encoding="latin-1", errors="replace")
    try:
        return parse_url(urljoin(address.url, location.strip()))
    except ValueError as error:
        raise FetchError("bad_url", "a redirect to something that is no URL") from error


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise FetchError("bad_url", "not a URL") from error


def _checked_parts(scheme: str, parts: SplitResult) -> WebAddress:
    if "@" in parts.netloc:
        raise FetchError("bad_url", "a user name or password in the URL")
    try:
        port = _DEFAULT_PORTS[scheme] if parts.port is None else parts.port
    except ValueError as error:
        raise FetchError("bad_url", "not a port") from error
    is_web_port = port in _DEFAULT_PORTS.values() or (port >= _LOWEST_FREE_PORT and port not in _BAD_PORTS)
    if not is_web_port:
        raise FetchError("blocked_address", f"port {port} belongs to another service than the web")
    path = quote(parts.path or "/", safe=_SAFE, errors="replace")
    query = f"?{quote(parts.query, safe=_SAFE, errors='replace')}" if parts.query else ""
    return WebAddress(scheme=scheme, host=_checked_host(parts.hostname or ""), port=port, target=path + query)


def _checked_host(host: str) -> str:
    if ":" in host:
        try:
            # A zone ("%eth0") names an interface of this machine: only link-local addresses have one.
            return str(IPv6Address("" if "%" in host else host))
        except AddressValueError as error:
            raise FetchError("bad_url", "not an IPv6 address") from error
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise FetchError("bad_url", "not a host name") from error
    if len(host) > 253 or not _HOST.fullmatch(host.lower()):
        raise FetchError("bad_url", "not a host name")
    return host.lower()
