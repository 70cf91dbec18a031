import ipaddress
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.download.addresses import AddressBook, Resolver, is_public, parse_url, system_addresses
from tasks.download.errors import FetchError

REFUSED_RANGES = {  # first and last address of what IANA's registries call private, local, shared, reserved or special
    "this network": ("0.0.0.0", "0.255.255.255"),  # noqa: S104 - refused, not listened at
    "private 10": ("10.0.0.0", "10.255.255.255"),
    "shared": ("100.64.0.0", "100.127.255.255"),
    "loopback": ("127.0.0.0", "127.255.255.255"),
    "link-local": ("169.254.0.0", "169.254.255.255"),
    "private 172": ("172.16.0.0", "172.31.255.255"),
    "private 192": ("192.168.0.0", "192.168.255.255"),
    "benchmarking": ("198.18.0.0", "198.19.255.255"),
    "multicast and reserved": ("224.0.0.0", "255.255.255.255"),
    "v6 unspecified, loopback": ("::", "::1"),
    "v6 unique local": ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    "v6 link-local": ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    "v6 site-local": ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    "v6 multicast": ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    "v6 documentation": ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    "v6 Teredo": ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff"),
    "v6 6to4": ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
}
PUBLIC = (
    *("1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"),
    *("169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"),
    *("198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2a00:1450:4001::200e", "2400:cb00::1"),
)

v4_numbers = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("first", "last"), REFUSED_RANGES.values(), ids=REFUSED_RANGES.keys())
def test_both_ends_of_every_special_range_are_refused(first: str, last: str) -> None:
    assert not is_public(ipaddress.ip_address(first))
    assert not is_public(ipaddress.ip_address(last))


@pytest.mark.parametrize("address", PUBLIC)
def test_the_neighbours_of_special_ranges_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@settings(deadline=None, max_examples=300)
@given(v4_numbers | st.integers(0, 2**128 - 1))
@example(0x7F000001)
@example(int(IPv6Address("::ffff:127.0.0.1")))
def test_what_is_public_for_us_is_global_for_python_too(number: int) -> None:
    addresses = [IPv6Address(number)] + ([IPv4Address(number)] if number < 2**32 else [])
    for address in addresses:
        inner = getattr(address, "ipv4_mapped", None) or address
        if is_public(address) and address not in ipaddress.ip_network("64:ff9b::/96"):
            assert inner.is_global
            assert not any((inner.is_multicast, inner.is_reserved, inner.is_loopback, inner.is_link_local))


@settings(deadline=None, max_examples=200)
@given(v4_numbers)
def test_an_ipv4_address_inside_an_ipv6_one_opens_nothing_that_it_does_not_open_itself(number: int) -> None:
    inner = IPv4Address(number)
    mapped, compatible = IPv6Address(0xFFFF << 32 | number), IPv6Address(number)
    nat64 = IPv6Address(int(IPv6Address("64:ff9b::")) | number)
    six_to_four = IPv6Address(0x2002 << 112 | number << 80 | 1)
    teredo = IPv6Address(0x20010000 << 96 | number ^ 0xFFFFFFFF)
    assert is_public(mapped) == is_public(nat64) == is_public(inner)
    assert not any(is_public(address) for address in (compatible, six_to_four, teredo))


def test_an_address_that_names_an_interface_is_refused() -> None:
    assert is_public(IPv6Address("2606:4700::1111"))
    assert not is_public(IPv6Address("2606:4700::1111%eth0"))


def _book(resolver: Resolver, *allowed: str) -> AddressBook:
    return AddressBook(resolver, allowed_hosts=allowed, num_threads=2)


def _error_class(book: AddressBook, url: str, timeout_s: float = 5.0) -> str:
    with pytest.raises(FetchError) as caught:
        book.addresses(parse_url(url), timeout_s=timeout_s)
    return caught.value.error_class


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::]", "2130706433", "0x7f000001"),  # noqa: S104 - as above
        *("0177.0.0.1", "127.1", "0x7f.1", "169.254.169.254", "[fe80::1]", "[64:ff9b::127.0.0.1]", "10.0.0.1"),
    ],
)
def test_every_way_to_write_a_private_address_is_refused_by_the_real_resolver(host: str) -> None:
    book = _book(system_addresses)
    assert _error_class(book, f"http://{host}:8080/a.png") in {"blocked_address", "dns"}
    if host not in {"localhost", "0177.0.0.1", "0x7f.1"}:  # what a system may not know how to resolve at all
        assert _error_class(book, f"http://{host}:8080/a.png") == "blocked_address"
    book.close()


def test_one_private_address_among_public_ones_refuses_the_host() -> None:
    book = _book(lambda host, port: ["1.1.1.1", "192.168.0.7"] if host == "mixed.example" else ["1.1.1.1"])
    assert _error_class(book, "http://mixed.example/a") == "blocked_address"
    assert book.addresses(parse_url("http://good.example/a"), timeout_s=5) == ["1.1.1.1"]
    book.close()


def test_something_that_is_no_address_is_refused() -> None:
    book = _book(lambda *_: ["not an address"])
    assert _error_class(book, "http://a.example/") == "blocked_address"
    book.close()


def test_an_allowed_host_is_allowed_under_its_own_name_and_port_only() -> None:
    book = _book(lambda *_: ["127.0.0.1"], "127.0.0.1:8765")
    assert book.addresses(parse_url("http://127.0.0.1:8765/a"), timeout_s=5) == ["127.0.0.1"]
    for other in ("http://127.0.0.1:8766/", "http://2130706433:8765/", "http://localhost:8765/", "http://127.0.0.1/"):
        assert _error_class(book, other) == "blocked_address"
    book.close()


def test_a_host_is_looked_up_once_and_a_failure_again_only_when_asked_to() -> None:
    asked: list[str] = []

    def resolver(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        if host == "dead.example":
            raise OSError("no such host")
        return ["1.1.1.1"]

    book = _book(resolver)
    for _ in range(3):
        book.addresses(parse_url("http://good.example/"), timeout_s=5)
        assert _error_class(book, "http://dead.example/") == "dns"
    assert asked == ["good.example", "dead.example"]
    book.forget_failures()
    book.addresses(parse_url("http://good.example/"), timeout_s=5)
    assert _error_class(book, "http://dead.example/") == "dns"
    assert asked == ["good.example", "dead.example", "dead.example"]
    book.close()


def test_a_name_server_that_hangs_costs_the_time_limit_and_no_more() -> None:
    hang = threading.Event()
    book = _book(lambda *_: ["1.1.1.1"] * hang.wait(20))
    assert _error_class(book, "http://slow.example/", timeout_s=0.05) == "timeout"
    hang.set()
    book.close()


def test_a_host_without_any_address_is_a_dns_failure() -> None:
    book = _book(lambda *_: [])
    assert _error_class(book, "http://empty.example/") == "dns"
    book.close()
