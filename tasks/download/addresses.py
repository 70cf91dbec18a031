"""The address guard: names are looked up once, and only addresses of the public internet are ever connected to.

Which addresses are public follows IANA's special-purpose registries (RFC 6890 and its updates), written out here,
because the answer of Python's ``ipaddress`` changes between patch releases. Everything that is not known to be public
is refused, and so are the ways to write an IPv4 address as an IPv6 one, unless the inner address is public.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from tasks.download.errors import FetchError
from tasks.download.urls import WebAddress

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
            resolver: asks for a host's addresses.
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
        """Look hosts without an address up again when they are next asked for."""
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
        # One private address among public ones is how a name server plays with us: all or none.
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
