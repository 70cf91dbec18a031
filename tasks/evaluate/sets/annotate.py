"""A page on this machine to paint the masks of an evaluation set by hand, as the paper did.

Only this machine is listened to. A request must name this very address as its host (so that no name from elsewhere can
be made to point here), and whoever writes must know the token that stands in the page (so that no other page can).
"""

import base64
import hashlib
import hmac
import json
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final
from urllib.parse import unquote, urlsplit

import numpy as np
from markupsafe import Markup

from iedit_model.imaging.decode import LIMITS
from iedit_model.imaging.encode import encode_image
from iedit_model.imaging.pages import page_environment
from storage import StorageError
from tasks.evaluate.errors import EvalSetError, UnknownPairError
from tasks.evaluate.sets.evalset import EvalPair, EvalSet
from tasks.evaluate.sets.folder import open_evalset, replace_masks
from tasks.evaluate.sets.pixels import mask_bytes, set_mask

_PACKAGE: Final = "tasks.evaluate.sets"
HOST: Final = "127.0.0.1"
_TIMEOUT_S: Final = 30
_JSON, _HTML, _PNG = "application/json", "text/html; charset=utf-8", "image/png"


class Annotator:
    """The set that is painted on; one writer at a time."""

    def __init__(self, evalset: EvalSet) -> None:
        """Take a set that was opened."""
        self._evalset = evalset
        self._lock = threading.Lock()
        self.token = secrets.token_urlsafe(24)
        """What a request that writes must know."""

    def listing(self) -> dict[str, Any]:
        """Return the pairs in words."""
        return {"name": self._evalset.info.name, "pairs": [_in_words(pair) for pair in self._evalset.pairs]}

    def image(self, pair_id: str) -> bytes:
        """Return the source image of a pair as PNG, decoded and encoded anew.

        Raises:
            EvalSetError: there is no such pair, or its image cannot be read.
        """
        return encode_image(self._evalset.image(self._evalset.pair(pair_id)))

    def mask(self, pair_id: str) -> bytes:
        """Return the mask of a pair as PNG, black all over where it has none.

        Raises:
            EvalSetError: there is no such pair, or its image cannot be read.
        """
        pair = self._evalset.pair(pair_id)
        size = self._evalset.image(pair).size
        mask = self._evalset.mask(pair, size=size)
        return mask_bytes(np.zeros(size[::-1], bool) if mask is None else mask)

    def save(self, pair_id: str, data: bytes) -> dict[str, Any]:
        """Write a painted mask into the set; one without any pixel takes the mask away.

        Raises:
            EvalSetError: there is no such pair, or the mask is no image of its image's size.
            DiskFullError: no room.
        """
        with self._lock:
            # Another process may have written since: its masks must not be lost.
            evalset = open_evalset(self._evalset.files.root)
            size = evalset.image(evalset.pair(pair_id)).size
            mask = set_mask(data, name="the painted mask", size=size)
            self._evalset = replace_masks(evalset, {pair_id: mask if mask.any() else None}, origin="hand")
        origin = self._evalset.pair(pair_id).mask_origin
        return {"origin": origin, "inside": int(mask.sum()), "pixels": int(mask.size)}


@contextmanager
def annotation_server(evalset: EvalSet, *, port: int = 0) -> Iterator[str]:
    """Serve the page in threads as long as the block runs, and yield its address.

    Args:
        evalset: the set; it is written where it lies.
        port: 0 takes a free one.

    Raises:
        EvalSetError: the port is taken.
    """
    handler = type("_BoundHandler", (_Handler,), {"annotator": Annotator(evalset)})
    try:
        server = _Server((HOST, port), handler)
    except OSError as error:
        raise EvalSetError(f"the page cannot listen at port {port}: {error.strerror}") from error
    thread = threading.Thread(target=server.serve_forever, name="annotate", daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that left before its answer was sent; anything else as usual."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    annotator: ClassVar[Annotator]
    timeout = _TIMEOUT_S
    server_version, sys_version = "iedit", ""

    def do_GET(self) -> None:
        """Answer the page, the list, an image or a mask."""
        if not self._is_ours():
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._answer(HTTPStatus.OK, _HTML, _page(self.annotator.token))
        elif path == "/pairs.json":
            self._answer(HTTPStatus.OK, _JSON, _json(self.annotator.listing()))
        else:
            self._answer_image(path)

    def do_POST(self) -> None:
        """Take a painted mask."""
        if not self._is_ours() or not self._may_write():
            return
        kind, _, pair_id = urlsplit(self.path).path.removeprefix("/").partition("/")
        length = self.headers.get("Content-Length", "")
        if kind != "mask" or not length.isdigit() or int(length) > LIMITS.max_bytes:
            self._refuse(HTTPStatus.BAD_REQUEST, f"a mask of at most {LIMITS.max_bytes} bytes is taken at /mask/PAIR")
            return
        try:
            found = self.annotator.save(unquote(pair_id), self.rfile.read(int(length)))
        except UnknownPairError as error:
            self._refuse(HTTPStatus.NOT_FOUND, str(error))
        except (EvalSetError, StorageError) as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        else:
            self._answer(HTTPStatus.OK, _JSON, _json(found))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Keep quiet: the page says what happened."""

    def _answer_image(self, path: str) -> None:
        kind, _, pair_id = path.removeprefix("/").partition("/")
        reader = {"image": self.annotator.image, "mask": self.annotator.mask}.get(kind)
        if reader is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing at this address")
            return
        try:
            self._answer(HTTPStatus.OK, _PNG, reader(unquote(pair_id)))
        except UnknownPairError as error:
            self._refuse(HTTPStatus.NOT_FOUND, str(error))
        except EvalSetError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))

    def _is_ours(self) -> bool:
        """Return whether the request names this address; a name from elsewhere that points here does not."""
        port = self.connection.getsockname()[1]
        known = {f"{name}:{port}" for name in (HOST, "localhost")}
        if self.headers.get("Host", "") in known:
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "this page is served to this machine alone")
        return False

    def _may_write(self) -> bool:
        """Return whether the request comes from our page: it knows the token, and no other origin sent it."""
        origin, host = self.headers.get("Origin"), self.headers.get("Host", "")
        token = self.headers.get("X-Iedit-Token", "")
        if origin in {None, f"http://{host}"} and hmac.compare_digest(token.encode(), self.annotator.token.encode()):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "masks are taken from the page of this server alone; load it again")
        return False

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True  # what is left of the body is not read
        self._answer(status, _JSON, _json({"error": message}))

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Content-Security-Policy", _policy()),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _page(token: str) -> bytes:
    template = page_environment(_PACKAGE).get_template("annotate.html.j2")
    # The policy is a header of every answer, and the script is our own file.
    page = template.render(title="Paint masks", token=token, policy=None, script=Markup(_script()))  # noqa: S704
    return page.encode()


def _script() -> str:
    return page_environment(_PACKAGE).get_template("annotate.js").render()


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )


def _in_words(pair: EvalPair) -> dict[str, str | None]:
    return {
        "id": pair.pair_id,
        "source": pair.source_prompt,
        "edit": pair.edit_prompt,
        "word": pair.word,
        "origin": pair.mask_origin,
    }


def _json(content: object) -> bytes:
    return json.dumps(content).encode()
