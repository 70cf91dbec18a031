"""The web site's answers over HTTP: routes, and the sending of slow, dripping and broken bodies."""

import json
import re
import selectors
from dataclasses import asdict
from functools import lru_cache
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs

from miniature.answers import NOT_FOUND, Answer, planted_answer, whole_image
from miniature.faults import KINDS
from miniature.gallery import gallery_page, thumbnail
from miniature.metadata import ROWS_PER_SHARD, metadata_table, parquet_bytes, truth_table
from miniature.pictures import picture_bytes
from miniature.site import Site

if TYPE_CHECKING:
    from miniature.server import SiteServer

_PARQUET = "application/vnd.apache.parquet"
_ROUTE = re.compile(
    r"/(?P<place>images|moved|loop|thumbs|truth)/(?P<number>[0-9]{1,8})(?P<suffix>\.[a-z]{3,4})?", re.ASCII
)
_SHARD = re.compile(r"/metadata/(?P<number>[0-9]{5})\.parquet", re.ASCII)
_PAGE_HEADERS = (
    ("Content-Security-Policy", "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'"),
    ("X-Content-Type-Options", "nosniff"),
)
_DRIP_STEPS = 40


class SiteHandler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "miniature"
    sys_version = ""
    # Headers and body go out in two writes; without this the second waits for the client's acknowledgement.
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """Bound how long an idle or stalled client can hold its connection."""
        super().setup()
        self.connection.settimeout(self._running.idle_s)

    @property
    def _running(self) -> "SiteServer":
        return cast("SiteServer", self.server)

    def do_GET(self) -> None:
        """Send what stands at the path."""
        self._refuse_body()
        self._send(self._answer())

    def do_HEAD(self) -> None:
        """Send the headers of the same answer; the site does not remember the request."""
        self.do_GET()

    def do_POST(self) -> None:
        """Forget all requests (``/reset``)."""
        self._refuse_body()
        if self.path != "/reset":
            self._send(Answer(status=405, body=b"only /reset takes POST\n", headers=(("Allow", "GET, HEAD"),)))
            return
        self._running.visits.forget()
        self._send(Answer(status=200, body=b"reset\n"))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Keep quiet."""

    def _refuse_body(self) -> None:
        # An unread body would be taken for the next request, so the connection ends with this answer.
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True

    def _answer(self) -> Answer:
        site = self._running.site
        path, _, query = self.path.partition("?")
        if path == "/":
            return self._page(query)
        if path == "/truth.parquet":
            return Answer(status=200, body=_truth_bytes(site), content_type=_PARQUET)
        if path == "/robots.txt":
            return Answer(status=200, body=b"User-agent: *\nAllow: /\n")
        if found := _SHARD.fullmatch(path):
            shard = _metadata_shard(site, self._running.base_url, int(found["number"]))
            return NOT_FOUND if shard is None else Answer(status=200, body=shard, content_type=_PARQUET)
        if (found := _ROUTE.fullmatch(path)) and int(found["number"]) < site.num_urls:
            return self._answer_url(found["place"], int(found["number"]), path)
        return NOT_FOUND

    def _answer_url(self, place: str, index: int, path: str) -> Answer:
        site = self._running.site
        if place == "truth" and path.endswith(".json"):
            return _truth_answer(site, index)
        if place == "thumbs" and path.endswith(".webp"):
            body = picture_bytes(site.scene(index), thumbnail(site.picture(index)))
            return Answer(status=200, body=body, content_type="image/webp")
        if place == "images" and path == site.address(index):
            visits = self._running.visits
            visit = visits.look(index) if self.command == "HEAD" else visits.note(index)
            return planted_answer(site, index, visit)
        if place == "moved" and site.kind(index) == "moved":
            return whole_image(site, index)
        if place == "loop" and site.kind(index) == "redirect_loop":
            return Answer(status=302, headers=(("Location", site.address(index)),))
        return NOT_FOUND

    def _page(self, query: str) -> Answer:
        fields = parse_qs(query[:200])
        kind = fields.get("kind", ["all"])[0]
        number = fields.get("page", ["1"])[0]
        if (kind != "all" and kind not in KINDS) or not re.fullmatch(r"[0-9]{1,7}", number, re.ASCII):
            return NOT_FOUND
        page = gallery_page(self._running.site, kind=kind, page=int(number)).encode()
        return Answer(status=200, body=page, content_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    def _send(self, answer: Answer) -> None:
        if answer.delay_s and not self._wait(answer.delay_s):
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        for name, value in answer.headers:
            self.send_header(name, value)
        if answer.blocks is None:
            declared = len(answer.body) if answer.declared_bytes is None else answer.declared_bytes
            self.send_header("Content-Length", str(declared))
        if answer.blocks is not None or answer.declared_bytes is not None or self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(answer)

    def _send_body(self, answer: Answer) -> None:
        if answer.blocks is not None:
            for block in answer.blocks:
                self.wfile.write(block)
        elif not answer.drip_s:
            self.wfile.write(answer.body)
        else:
            step = -(-len(answer.body) // _DRIP_STEPS)
            for start in range(0, len(answer.body), step):
                if not self._wait(answer.drip_s / _DRIP_STEPS):
                    return
                self.wfile.write(answer.body[start : start + step])

    def _wait(self, seconds: float) -> bool:
        """Wait, but no longer than the client stays and the server runs; return whether the time has passed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.connection, selectors.EVENT_READ)
            # A client that waits for an answer sends nothing: whatever arrives is the end of the connection.
            if selector.select(seconds):
                self.close_connection = True
                return False
        return True


def _truth_answer(site: Site, index: int) -> Answer:
    truth = {**asdict(site.truth(index)), "sha256": site.sha256(index)}
    body = json.dumps(truth, ensure_ascii=False, indent=1).encode()
    return Answer(status=200, body=body, content_type="application/json")


@lru_cache(maxsize=2)
def _truth_bytes(site: Site) -> bytes:
    return parquet_bytes(truth_table(site))


@lru_cache(maxsize=4)
def _metadata_shard(site: Site, base_url: str, number: int) -> bytes | None:
    table = _metadata(site, base_url).slice(number * ROWS_PER_SHARD, ROWS_PER_SHARD)
    return parquet_bytes(table) if table.num_rows else None


@lru_cache(maxsize=1)
def _metadata(site: Site, base_url: str) -> Any:
    return metadata_table(site, base_url=base_url)
