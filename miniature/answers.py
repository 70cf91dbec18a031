"""What the web site answers for each of its URLs, as data: the server only has to send it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from miniature.bodies import HTML_PAGE, decompression_bomb, endless_blocks
from miniature.faults import LOCAL_FILE, PRIVATE_TARGETS
from miniature.site import Site
from miniature.visits import Visit


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One HTTP answer and how it is sent."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    """Further headers."""
    declared_bytes: int | None = None
    """``Content-Length`` where it is not the body's length; the connection closes after the body."""
    blocks: Iterable[bytes] | None = None
    """A body that is made while it is sent; no length is declared and the connection closes behind it."""
    delay_s: float = 0.0
    """Wait before the first byte, seconds."""
    drip_s: float = 0.0
    """Time over which the body is spread, seconds; 0 sends it at once."""


NOT_FOUND = Answer(status=404, body=b"not found\n")


def planted_answer(site: Site, index: int, visit: Visit) -> Answer:
    """Return what the site answers to ``visit`` of a URL."""
    return _ANSWERS.get(site.kind(index), _whole)(site, index, visit)


def whole_image(site: Site, index: int) -> Answer:
    """Return the good picture of a URL, whatever its kind."""
    return Answer(status=200, body=site.image_bytes(index), content_type=site.picture(index).content_type)


def _whole(site: Site, index: int, _: Visit) -> Answer:
    return whole_image(site, index)


def _moved(site: Site, index: int, _: Visit) -> Answer:
    return _redirect(f"/moved/{site.address(index).rpartition('/')[2]}")


def _throttled_once(site: Site, index: int, visit: Visit) -> Answer:
    if visit.num_before and visit.waited_s >= site.retry_after_s:
        return whole_image(site, index)
    return _too_many_requests(site.retry_after_s - visit.waited_s)


def _throttled(site: Site, _: int, __: Visit) -> Answer:
    return _too_many_requests(site.retry_after_s)


def _error_once(site: Site, index: int, visit: Visit) -> Answer:
    return whole_image(site, index) if visit.num_before else Answer(status=500, body=b"internal server error\n")


def _slow(site: Site, index: int, _: Visit) -> Answer:
    return replace(whole_image(site, index), delay_s=site.slow_s)


def _dripping(site: Site, index: int, _: Visit) -> Answer:
    return replace(whole_image(site, index), drip_s=site.drip_s)


def _cut_off(site: Site, index: int, _: Visit) -> Answer:
    answer = whole_image(site, index)
    return replace(answer, body=_first_part(answer.body), declared_bytes=len(answer.body))


def _not_found(_: Site, __: int, ___: Visit) -> Answer:
    return NOT_FOUND


def _gone(_: Site, __: int, ___: Visit) -> Answer:
    return Answer(status=410, body=b"gone\n")


def _truncated(site: Site, index: int, _: Visit) -> Answer:
    answer = whole_image(site, index)
    return replace(answer, body=_first_part(answer.body))


def _html(_: Site, __: int, ___: Visit) -> Answer:
    return Answer(status=200, body=HTML_PAGE, content_type="image/jpeg")


def _empty(site: Site, index: int, _: Visit) -> Answer:
    return Answer(status=200, content_type=site.picture(index).content_type)


def _bomb(site: Site, _: int, __: Visit) -> Answer:
    return Answer(status=200, body=decompression_bomb(site.bomb_side_px), content_type="image/png")


def _oversized(site: Site, index: int, _: Visit) -> Answer:
    answer = whole_image(site, index)
    return replace(answer, body=b"", blocks=endless_blocks(answer.body, num_bytes=site.oversized_bytes))


def _redirect_private(_: Site, index: int, __: Visit) -> Answer:
    targets = (*PRIVATE_TARGETS, LOCAL_FILE)
    return _redirect(targets[index % len(targets)])


def _redirect_loop(_: Site, index: int, __: Visit) -> Answer:
    return _redirect(f"/loop/{index:08d}")


def _noai(site: Site, index: int, _: Visit) -> Answer:
    return replace(whole_image(site, index), headers=(("X-Robots-Tag", "noai"),))


# Kinds that are not here answer with their picture.
_ANSWERS: dict[str, Callable[[Site, int, Visit], Answer]] = {
    "moved": _moved,
    "throttled_once": _throttled_once,
    "throttled": _throttled,
    "error_once": _error_once,
    "slow": _slow,
    "dripping": _dripping,
    "cut_off": _cut_off,
    "not_found": _not_found,
    "gone": _gone,
    "truncated": _truncated,
    "html": _html,
    "empty": _empty,
    "bomb": _bomb,
    "oversized": _oversized,
    "redirect_private": _redirect_private,
    "redirect_loop": _redirect_loop,
    "noai": _noai,
    "private_url": _not_found,
    "local_file": _not_found,
}


def _first_part(data: bytes) -> bytes:
    return data[: len(data) // 3]


def _redirect(location: str) -> Answer:
    return Answer(status=302, headers=(("Location", location),))


def _too_many_requests(wait_s: float) -> Answer:
    retry_after = str(max(0, math.ceil(wait_s)))
    return Answer(status=429, body=b"too many requests\n", headers=(("Retry-After", retry_after),))
