"""The running web site: every kind of fault over real HTTP, each URL accounted for, many clients at once."""

import hashlib
import http.client
import io
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from urllib.parse import urljoin, urlsplit

import pyarrow.parquet as pq
import pytest
from PIL import Image

from miniature.errors import SiteAddressError
from miniature.faults import LOCAL_FILE, PRIVATE_TARGETS, FaultShares
from miniature.metadata import metadata_table, parquet_bytes, truth_table
from miniature.server import RunningSite, serve
from miniature.site import Site

EVERY_KIND = FaultShares(**{field.name: 0.04 for field in fields(FaultShares)})
SITE = Site(
    num_urls=50, faults=EVERY_KIND, slow_s=1, drip_s=4, retry_after_s=1, bomb_side_px=4_000, oversized_bytes=400_000
)
PATIENT = replace(SITE, slow_s=60, drip_s=60)
FINE = Site(num_urls=12, faults=FaultShares.only())


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningSite]:
    with serve(SITE) as running:
        yield running


@pytest.fixture
def running(shared: RunningSite) -> RunningSite:
    shared.reset()
    return shared


Reply = tuple[int, http.client.HTTPMessage, bytes]


def ask(running: RunningSite, path: str, *, method: str = "GET", timeout: float = 60) -> Reply:
    parts = urlsplit(running.base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def first(kind: str, site: Site = SITE) -> int:
    return next(index for index in range(site.num_urls) if site.kind(index) == kind)


def get(running: RunningSite, kind: str, **options) -> Reply:
    return ask(running, SITE.address(first(kind)), **options)


@pytest.mark.parametrize("kind", ["fine", "copy", "near_copy"])
def test_a_good_url_gives_the_bytes_of_its_plan(running: RunningSite, kind: str) -> None:
    status, headers, body = get(running, kind)
    assert (status, body) == (200, SITE.image_bytes(first(kind)))
    assert headers["Content-Type"] == SITE.picture(first(kind)).content_type
    assert headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize(("kind", "status"), [("not_found", 404), ("gone", 410)])
def test_a_lost_url_answers_its_status_every_time(running: RunningSite, kind: str, status: int) -> None:
    assert [get(running, kind)[0] for _ in range(3)] == [status] * 3


def test_a_throttled_url_gives_its_image_only_after_retry_after(running: RunningSite) -> None:
    index = first("throttled_once")
    began = time.monotonic()
    status, headers, _ = get(running, "throttled_once")
    assert (status, headers["Retry-After"]) == (429, "1")
    while get(running, "throttled_once")[0] == 429:
        threading.Event().wait(0.1)
    assert time.monotonic() - began >= 1
    assert get(running, "throttled_once")[2] == SITE.image_bytes(index)
    running.reset()
    assert get(running, "throttled_once")[0] == 429


def test_a_url_that_is_always_throttled_never_gives_an_image(running: RunningSite) -> None:
    assert {(r[0], r[1]["Retry-After"]) for r in (get(running, "throttled") for _ in range(4))} == {(429, "1")}


def test_a_server_error_comes_once_and_again_after_a_reset(running: RunningSite) -> None:
    assert [get(running, "error_once")[0] for _ in range(3)] == [500, 200, 200]
    assert ask(running, "/reset", method="POST")[0] == 200
    assert [get(running, "error_once")[0] for _ in range(2)] == [500, 200]


def test_a_slow_answer_passes_a_time_limit_and_comes_in_the_end(running: RunningSite) -> None:
    with pytest.raises(TimeoutError):
        get(running, "slow", timeout=0.2)
    began = time.monotonic()
    assert get(running, "slow")[2] == SITE.image_bytes(first("slow"))
    assert time.monotonic() - began >= SITE.slow_s


def test_a_dripping_body_stays_under_the_socket_limit_and_over_the_whole(running: RunningSite) -> None:
    began = time.monotonic()
    # Each wait is 1/40 of the whole, so a limit on single reads never strikes.
    assert get(running, "dripping", timeout=3)[2] == SITE.image_bytes(first("dripping"))
    assert time.monotonic() - began >= SITE.drip_s * 0.9


def test_a_body_that_is_cut_off_is_shorter_than_declared(running: RunningSite) -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        get(running, "cut_off")
    whole = SITE.image_bytes(first("cut_off"))
    assert caught.value.partial == whole[: len(whole) // 3]


def test_a_truncated_file_arrives_whole_and_does_not_decode(running: RunningSite) -> None:
    _, headers, body = get(running, "truncated")
    assert headers["Content-Length"] == str(len(body))
    with pytest.raises(OSError, match=r"truncated|identify|decod"), Image.open(io.BytesIO(body)) as image:
        image.load()


def test_a_page_and_an_empty_body_come_as_images(running: RunningSite) -> None:
    status, headers, body = get(running, "html")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert body.startswith(b"<!doctype html>")
    status, headers, body = get(running, "empty")
    assert (status, headers.get_content_maintype(), headers["Content-Length"], body) == (200, "image", "0", b"")


def test_the_bomb_declares_its_pixels(running: RunningSite) -> None:
    _, headers, body = get(running, "bomb")
    assert headers["Content-Type"] == "image/png"
    with Image.open(io.BytesIO(body)) as image:
        assert image.size == (4_000, 4_000)
    assert len(body) < 10_000


def test_an_oversized_body_has_no_declared_length(running: RunningSite) -> None:
    _, headers, body = get(running, "oversized")
    assert headers["Content-Length"] is None
    assert len(body) == SITE.oversized_bytes


def test_a_moved_url_leads_to_its_image(running: RunningSite) -> None:
    status, headers, _ = get(running, "moved")
    assert status == 302
    assert ask(running, headers["Location"])[2] == SITE.image_bytes(first("moved"))


def test_a_loop_leads_back_to_itself(running: RunningSite) -> None:
    status, headers, _ = get(running, "redirect_loop")
    second = ask(running, headers["Location"])
    assert (status, second[0]) == (302, 302)
    assert second[1]["Location"] == SITE.address(first("redirect_loop"))


def test_a_hostile_redirect_names_an_address_that_is_not_ours(running: RunningSite) -> None:
    status, headers, _ = get(running, "redirect_private")
    assert status == 302
    assert headers["Location"] in (*PRIVATE_TARGETS, LOCAL_FILE)


def test_a_site_that_refuses_robots_says_so_and_still_sends_the_image(running: RunningSite) -> None:
    status, headers, body = get(running, "noai")
    assert (status, headers["X-Robots-Tag"]) == (200, "noai")
    assert body == SITE.image_bytes(first("noai"))


@pytest.mark.parametrize(
    "path",
    [
        "/images/99999999.jpg",
        "/images/00000000.gif",
        "/images/0.jpg",
        "/images/../etc/passwd",
        "/images/٣.jpg",
        "/loop/00000000",
        "/moved/00000000.jpg",
        "/truth/50.json",
        "/thumbs/00000000.png",
        "/metadata/00001.parquet",
        "/?kind=nonsense",
        "/?page=-1",
        "/?page=%D9%A3",
        "/nowhere",
        "http://[",
    ],
)
def test_an_unknown_path_is_not_found(running: RunningSite, path: str) -> None:
    assert SITE.kind(0) not in ("moved", "redirect_loop")
    raw = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    assert b" 404 " in exchange(running, raw).split(b"\r\n")[0]


def test_head_tells_the_same_headers_without_a_body_and_is_not_remembered(running: RunningSite) -> None:
    for kind in ("fine", "noai", "html", "gone", "cut_off", "oversized", "throttled_once", "error_once"):
        status, headers, body = get(running, kind, method="HEAD")
        assert body == b""
        assert running.num_requests() == {}
        assert status == SITE.truth(first(kind)).status
        if kind in ("fine", "noai"):
            assert headers["Content-Length"] == str(len(SITE.image_bytes(first(kind))))


def test_one_connection_serves_many_requests(running: RunningSite) -> None:
    parts = urlsplit(running.base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.connect()
    own = connection.sock
    for index in (first("not_found"), first("fine"), first("gone"), first("noai"), first("moved")):
        connection.request("GET", SITE.address(index))
        response = connection.getresponse()
        response.read()
        assert response.status == SITE.truth(index).status
        assert connection.sock is own
    connection.close()


def test_answers_do_not_wait_for_the_clients_acknowledgement(running: RunningSite) -> None:
    # Headers and body are two writes; with Nagle's algorithm each answer took 40 ms longer.
    parts = urlsplit(running.base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.request("GET", SITE.address(first("fine")))
    connection.getresponse().read()
    (ours,) = [found for found in running._server._open if found.getpeername() == connection.sock.getsockname()]
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    connection.close()


def test_a_request_with_a_body_cannot_smuggle_a_second_one(running: RunningSite) -> None:
    inner = b"GET /images/00000000.jpg HTTP/1.1\r\nHost: x\r\n\r\n"
    raw = b"GET /robots.txt HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner
    assert exchange(running, raw).count(b"HTTP/1.1") == 1


def test_malformed_requests_are_refused_and_the_site_goes_on(running: RunningSite) -> None:
    raws = (b"\r\n\r\n", b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70_000, b"\x16\x03\x01\x00")
    for raw in raws:
        exchange(running, raw)
    assert b" 405 " in exchange(running, b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b" 501 " in exchange(running, b"DELETE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert get(running, "fine")[0] == 200


def test_the_truth_over_http_is_the_truth_in_python(running: RunningSite) -> None:
    for index in range(0, SITE.num_urls, 7):
        told = json.loads(ask(running, f"/truth/{index}.json")[2])
        truth = SITE.truth(index)
        assert told["sha256"] == SITE.sha256(index)
        assert (told["sha256"] is not None) is truth.gives_image
        assert (told["kind"], told["caption"], told["alt_text"]) == (truth.kind, truth.caption, truth.alt_text)
    table = pq.read_table(io.BytesIO(ask(running, "/truth.parquet")[2]))
    assert table == truth_table(SITE)


def test_the_metadata_over_http_is_what_would_be_written(running: RunningSite) -> None:
    body = ask(running, "/metadata/00000.parquet")[2]
    assert body == parquet_bytes(metadata_table(SITE, base_url=running.base_url))
    assert b"User-agent" in ask(running, "/robots.txt")[2]


def test_a_careful_downloader_accounts_for_every_url() -> None:
    digests = [PATIENT.sha256(index) for index in range(50)]  # drawn beforehand, so that no good answer comes late
    with serve(PATIENT) as running, ThreadPoolExecutor(16) as pool:
        table = pq.read_table(io.BytesIO(ask(running, "/metadata/00000.parquet")[2]))
        urls = table.column("URL").unique().to_pylist()
        found = dict(zip(urls, pool.map(lambda url: careful_download(running, url), urls), strict=True))
        base_url = running.base_url
    assert len(found) == 50
    outcomes = Counter()
    for index in range(50):
        truth = PATIENT.truth(index)
        assert found[PATIENT.url(index, base_url)] == (truth.outcome, truth.reason, digests[index]), truth
        outcomes[truth.outcome] += 1
    assert outcomes == {"image": 14, "image_after_retry": 4, "transient": 8, "permanent": 24}


class RefusedError(Exception):
    """Why a careful downloader gives up; ``again`` when another try may help."""

    def __init__(self, reason: str, *, again: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.again, self.wait_s = reason, again, wait_s


def careful_download(running: RunningSite, url: str) -> tuple[str, str, str | None]:
    """Download as a cautious stranger would, knowing nothing of the site's code."""
    reasons: list[str] = []
    for _ in range(2):
        try:
            body = careful_get(running, url)
        except RefusedError as refusal:
            reasons.append(refusal.reason)
            if not refusal.again:
                return "permanent", refusal.reason, None
            threading.Event().wait(refusal.wait_s)
            continue
        outcome, reason = ("image_after_retry", reasons[0]) if reasons else ("image", "")
        return outcome, reason, hashlib.sha256(body).hexdigest()
    return "transient", reasons[0], None


def careful_get(running: RunningSite, url: str) -> bytes:
    seen = set()
    while True:
        if not url.startswith(running.base_url + "/"):
            raise RefusedError("blocked_address")
        if url in seen:
            raise RefusedError("redirect_loop")
        seen.add(url)
        status, headers, body = bounded_get(running, urlsplit(url).path)
        if status != 302:
            break
        url = urljoin(url, headers["Location"])
    if status == 429:
        raise RefusedError("throttled", again=True, wait_s=float(headers["Retry-After"]))
    if status >= 500:
        raise RefusedError("server_error", again=True)
    if status in (404, 410):
        raise RefusedError({404: "not_found", 410: "gone"}[status])
    if "noai" in headers.get("X-Robots-Tag", ""):
        raise RefusedError("refused_by_robots")
    return decoded(body)


def bounded_get(running: RunningSite, path: str) -> Reply:
    parts, deadline = urlsplit(running.base_url), time.monotonic() + 4
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=4)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = b""
        while block := response.read1(16_384):
            body += block
            if len(body) > 300_000:
                raise RefusedError("too_many_bytes")
            if time.monotonic() > deadline:
                raise RefusedError("timeout", again=True)
        if len(body) < int(response.headers.get("Content-Length", "0")):
            raise RefusedError("incomplete", again=True)
    except TimeoutError:
        raise RefusedError("timeout", again=True) from None
    except http.client.IncompleteRead:
        raise RefusedError("incomplete", again=True) from None
    finally:
        connection.close()
    return response.status, response.headers, body


def decoded(body: bytes) -> bytes:
    try:
        with Image.open(io.BytesIO(body)) as image:
            if image.width * image.height > 2_000_000:
                raise RefusedError("too_many_pixels")
            image.load()
    except OSError:
        raise RefusedError("not_an_image") from None
    return body


def exchange(running: RunningSite, raw: bytes) -> bytes:
    """Send raw bytes and return all that comes back until the server closes or pauses."""
    parts = urlsplit(running.base_url)
    out = b""
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while block := connection.recv(65_536):
                out += block
        except OSError:
            return out
    return out


def test_slow_answers_and_stalled_clients_do_not_hold_up_others() -> None:
    site = Site(num_urls=20, faults=FaultShares.only(slow=0.5), slow_s=60)
    with serve(site) as running:
        parts = urlsplit(running.base_url)
        stalled = [socket.create_connection((parts.hostname, parts.port)) for _ in range(10)]
        for index in (i for i in range(20) if site.kind(i) == "slow"):
            stalled.append(socket.create_connection((parts.hostname, parts.port)))
            stalled[-1].sendall(f"GET {site.address(index)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        began = time.monotonic()
        assert ask(running, site.address(first("fine", site)))[0] == 200
        assert time.monotonic() - began < 40
        began = time.monotonic()
    # Sixty-second answers were under way: closing did not wait for them.
    assert time.monotonic() - began < 40
    for connection in stalled:
        connection.close()


def test_a_client_that_leaves_frees_its_place() -> None:
    site = Site(num_urls=4, faults=FaultShares.only(slow=1.0), slow_s=3600)
    with serve(site, max_connections=1) as running:

        def is_kept_waiting() -> bool:
            try:
                return ask(running, site.address(0), timeout=0.3)[0] != 503
            except TimeoutError:
                return True
            except ConnectionError:
                return False

        for _ in range(3):
            wait_until(is_kept_waiting)
        assert running.num_requests()[0] >= 3


def test_one_connection_too_many_is_told_so() -> None:
    with serve(FINE, max_connections=2) as running:

        def answer() -> tuple[int, str | None]:
            try:
                status, headers, _ = ask(running, FINE.address(0))
            except ConnectionError:
                return 0, None
            return status, headers["Retry-After"]

        parts = urlsplit(running.base_url)
        held = [socket.create_connection((parts.hostname, parts.port)) for _ in range(2)]
        wait_until(lambda: answer() == (503, "1"))
        assert running.num_requests() == {}
        held[0].close()
        wait_until(lambda: answer() == (200, None))
        held[1].close()


def test_an_idle_client_loses_its_connection() -> None:
    with serve(FINE, idle_s=0.2) as running:
        parts = urlsplit(running.base_url)
        with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
            assert connection.recv(1) == b""


def test_many_clients_at_once_get_the_right_bytes() -> None:
    with serve(FINE) as running, ThreadPoolExecutor(12) as pool:
        indexes = [index for _ in range(10) for index in range(12)]
        bodies = list(pool.map(lambda index: ask(running, FINE.address(index))[2], indexes))
        assert bodies == [FINE.image_bytes(index) for index in indexes]
        assert running.num_requests() == dict.fromkeys(range(12), 10)


def test_nothing_is_left_running_after_the_block() -> None:
    before = set(threading.enumerate())
    with serve(FINE) as running:
        held = socket.create_connection((urlsplit(running.base_url).hostname, urlsplit(running.base_url).port))
        ask(running, FINE.address(0))
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectionRefusedError):
        ask(running, "/")
    held.close()


def test_a_taken_port_is_one_clear_error() -> None:
    with serve(FINE) as running:
        port = urlsplit(running.base_url).port or 0
        with (
            pytest.raises(SiteAddressError, match=f"cannot serve at 127.0.0.1:{port}: Address already in use"),
            serve(FINE, port=port),
        ):
            pass
    with pytest.raises(SiteAddressError, match="70000"), serve(FINE, port=70_000):
        pass


def wait_until(happens) -> None:
    deadline = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline, "waited a minute in vain"
        threading.Event().wait(0.02)
