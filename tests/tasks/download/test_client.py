import contextlib
import gzip
import hashlib
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from iedit_model.errors import ConfigError
from miniature.faults import FaultShares
from miniature.server import serve
from miniature.site import Site
from tasks.download.client import FetchConfig, Fetched, Fetcher
from tasks.download.errors import FetchError
from tasks.download.sockets import tls_context

Script = Callable[[socket.socket], None]
QUICK = FetchConfig(max_bytes=10_000, socket_timeout_s=5, total_timeout_s=10)


class ScriptedServer:
    """Plays whatever a test says to each request path, byte by byte, and keeps what was asked."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port = self._listener.getsockname()[1]
        self.scripts: dict[str, Script] = {}
        self.asked: list[bytes] = []
        self.tls: ssl.SSLContext | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def host_port(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str, script: Script | bytes) -> str:
        self.scripts[path] = script if callable(script) else lambda connection: connection.sendall(script)
        return f"http://{self.host_port}{path}"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._play, args=(connection,), daemon=True).start()

    def _play(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, UnicodeDecodeError), contextlib.ExitStack() as held:
            held.callback(connection.close)
            if self.tls is not None:
                connection = held.enter_context(self.tls.wrap_socket(connection, server_side=True))
            request = b""
            while b"\r\n\r\n" not in request and (block := connection.recv(4096)):
                request += block
            self.asked.append(request)
            self.scripts[request.split(b" ")[1].decode()](connection)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    running = ScriptedServer()
    yield running
    running.close()


def _answer(body: bytes = b"", *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _fetch(server: ScriptedServer, url: str, config: FetchConfig = QUICK) -> Fetched:
    with contextlib.closing(Fetcher(replace(config, allowed_hosts=(server.host_port,)), num_threads=2)) as fetcher:
        return fetcher.fetch(url)


def _error(server: ScriptedServer, url: str, config: FetchConfig = QUICK) -> FetchError:
    with pytest.raises(FetchError) as caught:
        _fetch(server, url, config)
    return caught.value


def test_a_body_comes_whole_with_its_hash_and_the_request_says_who_asks(server: ScriptedServer) -> None:
    body = bytes(range(256)) * 20
    fetched = _fetch(server, server.url("/a%20b?x=1", _answer(body)))
    assert (fetched.data, fetched.sha256, fetched.http_status) == (body, hashlib.sha256(body).hexdigest(), 200)
    request = server.asked[0].decode()
    assert request.startswith("GET /a%20b?x=1 HTTP/1.1\r\n")
    assert f"Host: {server.host_port}\r\n" in request
    assert "compatible; iedit/" in request
    assert "Accept-Encoding: identity\r\n" in request


@pytest.mark.parametrize(
    ("status", "error_class"),
    [
        *(("404 Not Found", "not_found"), ("410 Gone", "gone"), ("401 No", "forbidden"), ("403 No", "forbidden")),
        *(("451 No", "forbidden"), ("400 Bad", "client_error"), ("418 Teapot", "client_error")),
        *(("408 Late", "timeout"), ("425 Early", "throttled"), ("429 Slow", "throttled"), ("500 Oh", "server_error")),
        *(("503 Busy", "server_error"), ("304 Same", "bad_response"), ("206 Part", "bad_response")),
    ],
)
def test_each_status_has_its_class(server: ScriptedServer, status: str, error_class: str) -> None:
    error = _error(server, server.url("/x", _answer(b"sorry", status=status)))
    assert (error.error_class, error.http_status) == (error_class, int(status[:3]))


@pytest.mark.parametrize(
    ("answer", "error_class"),
    [
        (b"", "connection"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, "too_many_bytes"),
        (_answer(b"abc", length=10), "incomplete"),
        (_answer(b"", length=10_001), "too_many_bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 20_000, "too_many_bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "incomplete"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-0x1\r\nhello\r\n0\r\n\r\n", "incomplete"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\xd9\xa5\r\nhello\r\n0\r\n\r\n", "incomplete"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\nhello", "incomplete"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n" + b"x" * 100_000, "too_many_bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 40_000, "too_many_bytes"),
        (_answer(gzip.compress(bytes(20_000), mtime=0), "Content-Encoding: gzip"), "too_many_bytes"),
        (_answer(gzip.compress(b"abc" * 100, mtime=0)[:-12], "Content-Encoding: gzip"), "incomplete"),
        (_answer(b"no gzip", "Content-Encoding: gzip"), "bad_response"),
        (_answer(b"abc", "Content-Encoding: br"), "bad_response"),
        (_answer(b"", status="302 Found"), "bad_response"),
        (_answer(b"abc", "Content-Encoding: gzip, br"), "bad_response"),
        (_answer(b"abc", "Content-Encoding: " + "gzip," * 9), "bad_response"),
        (_answer(b"abc", "X-Robots-Tag: noai"), "refused_by_robots"),
        (_answer(b"abc", "X-Robots-Tag: all", "x-robots-tag: iedit: NoAI"), "refused_by_robots"),
        (_answer(b"", "X-Robots-Tag: noai", "Location: /y", status="302 Found"), "refused_by_robots"),
    ],
)
def test_each_broken_answer_has_its_class(server: ScriptedServer, answer: bytes, error_class: str) -> None:
    assert _error(server, server.url("/x", answer)).error_class == error_class


@pytest.mark.parametrize(
    ("label", "packed"),
    [
        ("gzip", gzip.compress(b"abc" * 99, mtime=0)),
        ("deflate", zlib.compress(b"abc" * 99)),
        ("deflate", zlib.compress(b"abc" * 99, wbits=-15)),
        ("X-GZIP, deflate", zlib.compress(gzip.compress(b"abc" * 99, mtime=0))),
        ("aws-chunked,gzip", gzip.compress(b"abc" * 99, mtime=0)),
    ],
)
def test_a_packed_body_that_was_not_asked_for_is_unpacked(server: ScriptedServer, label: str, packed: bytes) -> None:
    assert _fetch(server, server.url("/x", _answer(packed, f"Content-Encoding: {label}"))).data == b"abc" * 99


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(label=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20))
def test_a_label_that_names_no_coding_changes_nothing(server: ScriptedServer, label: str) -> None:
    assume(
        not {"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"} & set(re.split("[ ,]", label.lower()))
    )
    assert _fetch(server, server.url("/x", _answer(b"a body", f"Content-Encoding: {label}"))).data == b"a body"


@pytest.mark.parametrize("raised", [ValueError, OverflowError, RecursionError, UnicodeError, zlib.error, MemoryError])
def test_whatever_is_raised_for_one_url_is_a_failure_of_that_url(
    server: ScriptedServer, raised: type[Exception]
) -> None:
    def resolver(*_: object) -> list[str]:
        raise raised("what nobody expected")

    with contextlib.closing(Fetcher(QUICK, num_threads=1, resolver=resolver)) as fetcher, pytest.raises(FetchError):
        fetcher.fetch("http://site.example/")


def test_a_chunked_body_and_one_without_a_length_come_whole(server: ScriptedServer) -> None:
    head = b"HTTP/1.1 200 OK\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
    assert _fetch(server, server.url("/x", chunked)).data == b"hello world"
    assert _fetch(server, server.url("/y", head + b"\r\nhello")).data == b"hello"


def test_robots_can_be_ignored(server: ScriptedServer) -> None:
    url = server.url("/x", _answer(b"abc", "X-Robots-Tag: noai"))
    assert _fetch(server, url, replace(QUICK, honour_robots=False)).data == b"abc"


def test_retry_after_is_read_as_seconds_and_as_a_date(server: ScriptedServer) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    waits = []
    for number, value in enumerate(("7", date, "soon", "-3", "9" * 40)):
        answer = _answer(b"", f"Retry-After: {value}", status="429 Slow")
        waits.append(_error(server, server.url(f"/{number}", answer)).retry_after_s)
    assert waits[0] == 7
    assert 90 < (waits[1] or 0) <= 100
    assert waits[2:] == [None, None, None]


def test_the_time_of_an_image_is_bounded_although_every_byte_comes_in_time(server: ScriptedServer) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(_answer(b"", length=1000))
        for _ in range(200):
            connection.sendall(b"x")
            threading.Event().wait(0.05)

    start = time.monotonic()
    config = replace(QUICK, socket_timeout_s=2, total_timeout_s=0.5)
    assert _error(server, server.url("/x", drip), config).error_class == "timeout"
    assert time.monotonic() - start < 4


def test_a_silent_server_is_a_timeout(server: ScriptedServer) -> None:
    def wait(_: socket.socket) -> None:
        threading.Event().wait(3)

    config = replace(QUICK, socket_timeout_s=0.2)
    assert _error(server, server.url("/x", wait), config).error_class == "timeout"


def test_redirects_are_followed_counted_and_remembered(server: ScriptedServer) -> None:
    for number in range(6):
        server.url(f"/{number}", _answer(b"", f"Location: {number + 1}", status="302 Found"))
    server.url("/6", _answer(b"the end"))
    base = f"http://{server.host_port}"
    assert _fetch(server, f"{base}/1").data == b"the end"
    assert _error(server, f"{base}/0").error_class == "redirect_loop"
    server.url("/loop", _answer(b"", "Location: /loop", status="301 Moved"))
    asked = len(server.asked)
    error = _error(server, f"{base}/loop")
    assert (error.error_class, error.http_status, len(server.asked) - asked) == ("redirect_loop", 301, 1)


@pytest.mark.parametrize(
    "location",
    [
        *("http://127.0.0.1:{other}/", "http://localhost:{port}/", "http://2130706433:{port}/", "http://[::1]:{port}/"),
        *("http://[::ffff:127.0.0.1]:{port}/", "http://0.0.0.0:{port}/", "file:///etc/hostname", "http://10.0.0.1/"),
        *("http://169.254.169.254/latest/", "//0x7f000001:{port}/", "ftp://127.0.0.1:{port}/"),
    ],
)
def test_a_redirect_never_leads_to_a_private_address(server: ScriptedServer, location: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.05)
        target = location.format(port=server.port, other=other.getsockname()[1])
        error = _error(server, server.url("/x", _answer(b"", f"Location: {target}", status="302 Found")))
        assert error.error_class in {"blocked_address", "dns"}  # a system may not know hexadecimal addresses
        assert error.http_status == 302
        with pytest.raises(TimeoutError):
            other.accept()
    assert len(server.asked) == 1


def test_a_name_that_a_dns_answer_points_to_us_is_never_connected_to(server: ScriptedServer) -> None:
    config = replace(QUICK, allowed_hosts=("good.example:80",))
    fetcher = Fetcher(config, num_threads=1, resolver=lambda *_: ["127.0.0.1"])
    with pytest.raises(FetchError) as caught, contextlib.closing(fetcher):
        fetcher.fetch(f"http://rebound.example:{server.port}/x")
    assert caught.value.error_class == "blocked_address"
    assert server.asked == []


def test_the_checked_address_is_the_one_connected_to_whatever_the_name_means_later(server: ScriptedServer) -> None:
    answers = [["127.0.0.1"], ["203.0.113.9"]]
    config = replace(QUICK, allowed_hosts=(f"site.example:{server.port}",))
    fetcher = Fetcher(config, num_threads=1, resolver=lambda *_: answers.pop(0))
    with contextlib.closing(fetcher):
        server.url("/x", _answer(b"abc"))
        assert fetcher.fetch(f"http://site.example:{server.port}/x").data == b"abc"
    assert f"Host: site.example:{server.port}\r\n".encode() in server.asked[0]
    assert len(answers) == 1


def test_the_next_address_of_a_host_is_tried_when_one_does_not_answer(server: ScriptedServer) -> None:
    config = replace(QUICK, allowed_hosts=(f"site.example:{server.port}",))
    fetcher = Fetcher(config, num_threads=1, resolver=lambda *_: ["127.0.0.2", "127.0.0.1"])
    with contextlib.closing(fetcher):
        server.url("/x", _answer(b"abc"))
        assert fetcher.fetch(f"http://site.example:{server.port}/x").data == b"abc"


def test_proxies_of_the_environment_are_not_used(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert _fetch(server, server.url("/x", _answer(b"abc"))).data == b"abc"


def test_a_server_that_speaks_no_tls_is_a_passing_failure(server: ScriptedServer) -> None:
    error = _error(server, f"https://{server.host_port}/x", replace(QUICK, socket_timeout_s=0.3))
    assert (error.error_class, error.is_transient) in {("connection", True), ("timeout", True)}


@pytest.fixture
def tls_server(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """Serve TLS with a certificate for site.example, which the process trusts."""
    certificate, key = _self_signed("site.example")
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    tls_context.cache_clear()
    yield server
    tls_context.cache_clear()


def _self_signed(host: str) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def test_the_certificate_must_be_of_the_name_in_the_url_although_a_number_is_connected_to(
    tls_server: ScriptedServer,
) -> None:
    port = tls_server.port
    tls_server.url("/x", _answer(b"abc"))
    config = replace(QUICK, allowed_hosts=(f"site.example:{port}", f"other.example:{port}"))
    with contextlib.closing(Fetcher(config, num_threads=1, resolver=lambda *_: ["127.0.0.1"])) as fetcher:
        assert fetcher.fetch(f"https://site.example:{port}/x").data == b"abc"
        with pytest.raises(FetchError) as caught:
            fetcher.fetch(f"https://other.example:{port}/x")
    assert caught.value.error_class == "bad_certificate"


def test_a_refused_connection_is_a_passing_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    fetcher = Fetcher(replace(QUICK, allowed_hosts=(f"127.0.0.1:{port}",)), num_threads=1)
    with pytest.raises(FetchError) as caught, contextlib.closing(fetcher):
        fetcher.fetch(f"http://127.0.0.1:{port}/x")
    assert (caught.value.error_class, caught.value.message) == ("connection", "Connection refused")


def test_the_private_urls_of_the_miniature_are_refused_without_a_request() -> None:
    site = Site(seed=5, num_urls=18, faults=FaultShares.only(private_url=0.5, local_file=0.5))
    with serve(site) as running:
        config = replace(QUICK, allowed_hosts=(running.base_url.removeprefix("http://"),))
        with contextlib.closing(Fetcher(config, num_threads=1)) as fetcher:
            for index in range(site.num_urls):
                with pytest.raises(FetchError) as caught:
                    fetcher.fetch(running.url(index))
                assert caught.value.error_class == site.truth(index).reason == "blocked_address"
        assert running.num_requests() == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_bytes": 0},
        {"total_timeout_s": 0},
        {"socket_timeout_s": float("nan")},
        {"per_host": 0},
        {"max_redirects": -1},
        {"user_agent": "two words"},
        {"user_agent": "x\r\nHost: evil"},
        {"allowed_hosts": ("127.0.0.1",)},
        {"allowed_hosts": ("http://127.0.0.1:80",)},
    ],
)
def test_a_config_out_of_range_names_its_field(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FetchConfig(**wrong)  # pyright: ignore[reportArgumentType]


def _through(proxy: ScriptedServer, url: str) -> Fetched:
    config = replace(QUICK, proxy=f"http://{proxy.host_port}")
    with contextlib.closing(Fetcher(config, num_threads=2, resolver=_no_names)) as fetcher:
        return fetcher.fetch(url)


def _no_names(host: str, port: int) -> list[str]:
    if host == "127.0.0.1":
        return [host]
    raise OSError(f"{host}:{port}: no name server here")


def test_a_proxy_is_asked_for_the_whole_url_of_a_host_that_only_it_knows(server: ScriptedServer) -> None:
    server.scripts["http://pictures.example/a?b"] = lambda connection: connection.sendall(_answer(b"abc"))
    assert _through(server, "http://pictures.example/a?b").data == b"abc"
    assert b"Host: pictures.example\r\n" in server.asked[0]


def test_https_goes_through_a_tunnel_of_the_proxy(tls_server: ScriptedServer) -> None:
    context, tls_server.tls = tls_server.tls, None

    def tunnel(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        assert context is not None
        with context.wrap_socket(connection, server_side=True) as secured:
            tls_server.asked.append(secured.recv(4096))
            secured.sendall(_answer(b"abc"))

    tls_server.scripts["site.example:443"] = tunnel
    assert _through(tls_server, "https://site.example/x").data == b"abc"
    assert tls_server.asked[-1].startswith(b"GET /x HTTP/1.1\r\n")


def test_a_proxy_that_opens_no_tunnel_is_told_with_its_answer(server: ScriptedServer) -> None:
    server.scripts["pictures.example:443"] = lambda connection: connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    with pytest.raises(FetchError, match="opens no tunnel: HTTP"):
        _through(server, "https://pictures.example/")


def test_what_is_known_to_be_private_is_refused_behind_a_proxy_too(server: ScriptedServer) -> None:
    with pytest.raises(FetchError) as caught:
        _through(server, "http://127.0.0.1:8080/x")
    assert caught.value.error_class == "blocked_address"
    assert server.asked == []


def test_allowed_hosts_are_reached_without_the_proxy(server: ScriptedServer) -> None:
    nobody = replace(QUICK, proxy="http://127.0.0.1:9")
    assert _fetch(server, server.url("/x", _answer(b"abc")), nobody).data == b"abc"


@pytest.mark.parametrize("proxy", ["proxy:3128", "socks5://proxy:1080", "http://me:secret@proxy:1", "http://proxy"])
def test_a_proxy_is_named_by_host_and_port(proxy: str) -> None:
    with pytest.raises(ConfigError, match="expected like 'http://proxy:3128'"):
        FetchConfig(proxy=proxy)
