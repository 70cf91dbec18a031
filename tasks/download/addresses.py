"""Where a URL may lead: http(s) on ports of the web, names looked up once, addresses of the public internet alone.

Which addresses are public follows IANA's special-purpose registries (RFC 6890 and its updates), written out here,
because the answer of Python's ``ipaddress`` changes between patch releases. Everything that is not known to be public
is refused, and so are the ways to write an IPv4 address as an IPv6 one, unless the inner address is public.
"""

import re
import socket
import threading
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from tasks.download.errors import FetchError

MAX_URL_BYTES: Final = 4096
"""Longest URL, bytes of UTF-8."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):", re.ASCII)
# Hyphens at a label's ends break the rules of DNS, but such hosts exist, and so do underscores.
_HOST: Final = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", re.ASCII)
_WHITE: Final = re.compile(r"[\t\r\n]")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_PLAIN: Final = re.compile(r"[/:?@!$&'()*,;=._~0-9A-Za-z-]*")
_ANY: Final = "surrogateescape"
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
    """A URL that may be requested, once its host's address is found to be public."""

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
    """Return whether a text is a URL at all, also one that would never be requested."""
    try:
        parse_url(text)
    except FetchError as error:
        return error.error_class == "blocked_address"
    return True


def parse_url(url: str) -> WebAddress:
    """Return the parts of an http(s) URL; nothing is requested or looked up.

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


def canonical_url(url: str) -> str:
    """Return what all spellings of an address have in common: ``host/path?query``.

    Scheme (http or https) and ``www.``, case and international form of the host, default ports, user names, fragments,
    percent-encoding, dot segments and spaces around make no difference. Paths keep their case and queries count:
    servers tell images apart by them.
    """
    text = _WHITE.sub("", url.strip())
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").strip("."), parts.port
    except ValueError:  # no address at all: then only the very same text is equal
        return text
    with suppress(FetchError):
        host = _checked_host(host)
    port_text = "" if port is None or port == _DEFAULT_PORTS.get(parts.scheme) else f":{port}"
    path, query = parts.path.replace("\\", "/"), parts.query.replace("+", "%20")
    return f"{host.removeprefix('www.')}{port_text}{_without_dots(_one_spelling(path, b'/?#%'))}" + (
        f"?{_one_spelling(query, b'&=+;#%')}" if query else ""
    )


def _one_spelling(text: str, kept: bytes) -> str:
    """Return a path or a query in which every character is written in one way; escapes of ``kept`` stay escapes."""

    def plain(found: re.Match[bytes]) -> bytes:
        byte = bytes.fromhex((found[1] or b"25").decode())
        return b"%%%02X" % byte[0] if byte in kept else byte

    if _PLAIN.fullmatch(text):
        return text
    data = _ESCAPE.sub(plain, text.encode("utf-8", "surrogatepass"))
    # One letter and its accent may be written as one character or as two.
    return quote(unicodedata.normalize("NFC", data.decode(errors="surrogateescape")), safe=_SAFE, errors=_ANY)


def _without_dots(path: str) -> str:
    names: list[str] = []
    for name in path.removeprefix("/").split("/"):
        if name == "..":
            del names[-1:]
        elif name != ".":
            names.append(name)
    return "/" + "/".join(names) + ("/" if names and path.endswith(("/.", "/..")) else "")


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
    host = unquote(host)
    if not host.isascii():
        host = _punycode(host)
    if len(host) > 253 or not _HOST.fullmatch(host.lower()):
        raise FetchError("bad_url", "not a host name")
    return host.lower()


def _punycode(host: str) -> str:
    """Return a host name in ASCII as browsers do (UTS 46); the standard library's tables are of 2003."""
    import idna

    try:
        labels = idna.uts46_remap(host, std3_rules=False).split(".")
        return ".".join(text if text.isascii() else f"xn--{text.encode('punycode').decode()}" for text in labels)
    except (idna.IDNAError, UnicodeError) as error:
        raise FetchError("bad_url", "not a host name") from error


Resolver = Callable[[str, int], Sequence[str]]
"""(host, port) -> addresses as text, in the order in which to try them; raises ``OSError`` when there is none."""

_REFUSED_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
_GLOBAL_V6: Final = IPv6Network("2000::/3")
# 2001::/23 holds Teredo, ORCHID and benchmarking, 2002::/16 is 6to4; the others are for documentation and AS112.
_REFUSED_V6: Final = tuple(
    IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOW_32_BITS: Final = 0xFFFF_FFFF
_MOST_ADDRESSES: Final = 8
_MOST_HOSTS_REMEMBERED: Final = 100_000


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is one of the public internet, to which an untrusted URL may lead."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & _LOW_32_BITS))
    has_zone = address.scope_id is not None
    return not has_zone and address in _GLOBAL_V6 and not any(address in network for network in _REFUSED_V6)


def system_addresses(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host as the operating system finds them.

    Raises:
        OSError: it finds none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class AddressBook:
    """Addresses of hosts, each looked up once; made for one shard and shared by its threads."""

    def __init__(self, resolver: Resolver, *, allowed_hosts: Sequence[str], num_threads: int) -> None:
        """Open an empty book; ``close`` it at the end.

        Args:
            resolver: looks up a host's addresses.
            allowed_hosts: ``host:port`` of those that may have any address, exactly as in their URLs.
            num_threads: lookups at the same time.
        """
        self._resolver = resolver
        self._allowed = frozenset(allowed_hosts)
        # The system's lookup knows no time limit: one that hangs is left behind in its thread.
        self._lookups = ThreadPoolExecutor(num_threads, thread_name_prefix="iedit-dns")
        self._known: dict[str, Future[Sequence[str]]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the lookups that have not begun."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    def forget_failures(self) -> None:
        """Look hosts without an address up again at their next request."""
        with self._lock:
            for host, lookup in list(self._known.items()):
                if not lookup.done() or lookup.cancelled() or lookup.exception() is not None:
                    del self._known[host]

    def addresses(self, address: WebAddress, *, timeout_s: float) -> Sequence[str]:
        """Return the numeric addresses at which a host may be connected to, in the order in which to try them.

        Raises:
            FetchError: ``blocked_address`` when any of them is not public and the host is not an allowed one, ``dns``
                when there is none, ``timeout`` when the lookup takes too long.
        """
        found = self._looked_up(address, timeout_s)[:_MOST_ADDRESSES]
        # One private address among public ones is how a hostile name server works: all or none.
        if address.host_port not in self._allowed and not all(_is_public_text(text) for text in found):
            raise FetchError("blocked_address", f"{address.host} has an address that is not public")
        return found

    def _looked_up(self, address: WebAddress, timeout_s: float) -> Sequence[str]:
        with self._lock:
            if len(self._known) >= _MOST_HOSTS_REMEMBERED:
                self._known.clear()
            lookup = self._known.get(address.host)
            if lookup is None:
                lookup = self._known[address.host] = self._lookups.submit(self._resolver, address.host, address.port)
        try:
            found = lookup.result(timeout=timeout_s)
        except TimeoutError as error:
            raise FetchError("timeout", "the name server did not answer in time") from error
        except (OSError, UnicodeError) as error:
            raise FetchError("dns", f"{address.host} has no address") from error
        if not found:
            raise FetchError("dns", f"{address.host} has no address")
        return found


def _is_public_text(text: str) -> bool:
    try:
        return is_public(ip_address(text))
    except ValueError:
        return False
