import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.corpus import url_key
from tasks.download.addresses import canonical_url, is_url, parse_url, redirected
from tasks.download.errors import FAILURES, FetchError


def _error_class(url: str) -> str:
    with pytest.raises(FetchError) as caught:
        parse_url(url)
    return caught.value.error_class


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://Example.COM/a b.png?q=ü#part", "http://example.com/a%20b.png?q=%C3%BC"),
        ("https://example.com", "https://example.com/"),
        ("HTTPS://example.com:443/x", "https://example.com/x"),
        ("http://example.com:8080/%20x%zz", "http://example.com:8080/%20x%zz"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[2606:4700:0:0::1111]:8080/x", "http://[2606:4700::1111]:8080/x"),
        ("  http://example.com/x  ", "http://example.com/x"),
    ],
)
def test_a_url_is_brought_into_one_form(url: str, normal: str) -> None:
    assert parse_url(url).url == normal


@pytest.mark.parametrize(
    "url",
    [
        *("", "image.png", "//example.com/a", "http://", "http:///a", "http://user@example.com/", "http://u:p@e.com/"),
        *(
            "http://exa mple.com/",
            "http://example.com:port/",
            "http://example.com:99999/",
            "http://[::1/",
            "http://[a]/",
        ),
        *("http://a\r\nHost: b/", "http://example.com/\x00", "http://example.com\\@127.0.0.1/"),
        *("http://.example.com/", "http://a..b/", "http://[fe80::1%25eth0]/", "http://" + "a" * 64 + ".com/"),
        "http://example.com/" + "a" * 5000,
    ],
)
def test_what_is_no_url_or_carries_a_user_is_a_bad_url(url: str) -> None:
    assert _error_class(url) == "bad_url"
    assert not is_url(url)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        *(("http://-navarro-.tumblr.com/a.jpg", "-navarro-.tumblr.com"), ("http://-a.b-/", "-a.b-")),
        *(("http://_dmarc.a_b.com/", "_dmarc.a_b.com"), ("http://ex%41mple.com/", "example.com")),
        *(("http://faß.de/", "xn--fa-hia.de"), ("http://i❤.ws/", "xn--i-7iq.ws"), ("http://a。b/", "a.b")),
    ],
)
def test_hosts_that_break_the_rules_of_dns_are_taken_as_browsers_take_them(url: str, host: str) -> None:
    assert parse_url(url).host == host


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/hostname", "ftp://example.com/a", "data:image/png;base64,AA", "gopher://example.com:70/_"),
        *("javascript:alert(1)", "http://example.com:22/", "http://example.com:25/", "https://example.com:6667/"),
    ],
)
def test_other_schemes_and_ports_of_other_services_are_never_opened_but_are_urls(url: str) -> None:
    assert _error_class(url) == "blocked_address"
    assert is_url(url)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=60) | st.builds("http://{}/{}".format, st.text(max_size=30), st.text(max_size=30)))
def test_any_text_is_a_url_in_one_form_or_a_named_failure(text: str) -> None:
    if not is_url(text):
        assert _error_class(text) == "bad_url"
        return
    try:
        address = parse_url(text)
    except FetchError:
        assert _error_class(text) == "blocked_address"
        return
    assert address.url.isascii()
    assert not any(letter.isspace() for letter in address.url)
    assert parse_url(address.url) == address


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/b.png", "http://example.com/b.png"),
        ("b.png?x=1", "http://example.com/dir/b.png?x=1"),
        ("//other.example/b", "http://other.example/b"),
        ("https://other.example/b", "https://other.example/b"),
        ("/ü.png".encode().decode("latin-1"), "http://example.com/%C3%BC.png"),
        ("/\xfc.png", "http://example.com/%FC.png"),
    ],
)
def test_a_redirect_is_read_as_browsers_read_it(location: str, url: str) -> None:
    assert redirected(parse_url("http://example.com/dir/a.png"), location).url == url


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://example.com/"])
def test_a_redirect_to_another_scheme_is_refused(location: str) -> None:
    with pytest.raises(FetchError, match="blocked_address"):
        redirected(parse_url("http://example.com/"), location)


def test_a_failure_is_one_of_the_known_ones_and_its_message_is_short_and_printable() -> None:
    error = FetchError("throttled", "told\nto\x1b[31m wait " + "x" * 500, retry_after_s=3)
    assert (error.failure.kind, error.is_transient, error.retry_after_s) == ("transient", True, 3)
    assert len(error.message) == 200
    assert error.message.isprintable()
    with pytest.raises(KeyError):
        FetchError("no_such_class", "")
    assert {failure.kind for failure in FAILURES.values()} == {"permanent", "transient"}


def _respelled(url: str, choose: Callable[[int], int]) -> str:
    """Return another spelling of an http URL of plain letters: one choice for each of its parts."""
    host, _, path = url.removeprefix("http://").partition("/")
    host = "".join(letter.upper() if choose(2) else letter for letter in host)
    names = [
        ("./" if choose(4) == 0 else "")
        + ("x/../" if choose(4) == 0 else "")
        + "".join(_spelled(a, choose) for a in name)
        for name in path.split("/")
    ]
    start = ("http://", "HTTP://", "https://", " \thttp://", "http://user:pw@")[choose(5)]
    port = ("", ":80" if "s://" not in start else ":443")[choose(2)]
    return f"{start}{('', 'www.')[choose(2)]}{host}{port}/{'/'.join(names)}{('', '#top', ' ')[choose(3)]}"


def _spelled(letter: str, choose: Callable[[int], int]) -> str:
    escaped = "".join(f"%{byte:02x}" for byte in letter.encode())
    decomposed = unicodedata.normalize("NFD", letter)
    return (letter, escaped, escaped.upper(), decomposed)[choose(4)]


@given(
    names=st.lists(
        st.text("abcXYZ019 ~-_.,()\u00fc\u7d05'", min_size=1).filter(lambda name: name.strip(".")), min_size=1
    ),
    data=st.data(),
)
@settings(max_examples=400)
def test_all_spellings_of_an_address_are_one(names: list[str], data: st.DataObject) -> None:
    url = f"http://a.example/{'/'.join(name.strip() or 'x' for name in names)}"
    other = _respelled(url, lambda count: data.draw(st.integers(0, count - 1)))
    assert canonical_url(other) == canonical_url(url)
    assert url_key(other) == url_key(url)
    assert canonical_url(f"http://{canonical_url(url)}") == canonical_url(url)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://a.example/A.jpg", "http://a.example/a.jpg"),
        ("http://a.example/x?id=1", "http://a.example/x?id=2"),
        ("http://a.example/x?a=b%26c", "http://a.example/x?a=b&c"),
        ("http://a.example/a%2Fb", "http://a.example/a/b"),
        ("http://a.example/a%3Fb", "http://a.example/a?b"),
        ("http://a.example:8080/x", "http://a.example/x"),
        ("http://b.a.example/x", "http://a.example/x"),
        ("http://a.example/100%25", "http://a.example/100"),
    ],
)
def test_other_addresses_stay_others(one: str, other: str) -> None:
    assert url_key(one) != url_key(other)


@given(st.text(max_size=60))
def test_any_text_has_a_canonical_form(text: str) -> None:
    assert canonical_url(text) == canonical_url(f" {text} ")
    assert url_key(text) > 0
