"""What can happen at a URL of the web site: the kinds, what a careful downloader makes of each, and their shares."""

from dataclasses import dataclass, fields
from typing import Literal

from miniature.errors import SiteConfigError

Outcome = Literal["image", "image_after_retry", "transient", "permanent"]
"""What a careful downloader ends with: an image, an image once it tried again, or nothing for now or for ever."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of URL."""

    outcome: Outcome
    status: int
    """HTTP status of the first answer, or 0 when the URL is not one of the site's."""
    reason: str
    """Class of the failure; empty when the outcome is an image at once."""
    summary: str
    """One line for people."""


KINDS: dict[str, Kind] = {
    "fine": Kind(outcome="image", status=200, reason="", summary="an image"),
    "copy": Kind(outcome="image", status=200, reason="", summary="the same bytes as another URL"),
    "near_copy": Kind(outcome="image", status=200, reason="", summary="another URL's picture, re-encoded and resized"),
    "moved": Kind(outcome="image", status=302, reason="", summary="a redirect to the image"),
    "throttled_once": Kind(
        outcome="image_after_retry", status=429, reason="throttled", summary="429 with Retry-After, then an image"
    ),
    "error_once": Kind(
        outcome="image_after_retry", status=500, reason="server_error", summary="500 once, then an image"
    ),
    "throttled": Kind(outcome="transient", status=429, reason="throttled", summary="429, however often one asks"),
    "slow": Kind(outcome="transient", status=200, reason="timeout", summary="an answer that comes too late"),
    "dripping": Kind(outcome="transient", status=200, reason="timeout", summary="a few bytes at a time"),
    "cut_off": Kind(
        outcome="transient", status=200, reason="incomplete", summary="the connection closes before Content-Length"
    ),
    "not_found": Kind(outcome="permanent", status=404, reason="not_found", summary="404"),
    "gone": Kind(outcome="permanent", status=410, reason="gone", summary="410"),
    "truncated": Kind(
        outcome="permanent", status=200, reason="not_an_image", summary="a file that was stored incompletely"
    ),
    "html": Kind(outcome="permanent", status=200, reason="not_an_image", summary="a page sent as image/jpeg"),
    "empty": Kind(outcome="permanent", status=200, reason="not_an_image", summary="zero bytes"),
    "bomb": Kind(outcome="permanent", status=200, reason="too_many_pixels", summary="a decompression bomb"),
    "oversized": Kind(outcome="permanent", status=200, reason="too_many_bytes", summary="a body without an end"),
    "redirect_private": Kind(
        outcome="permanent", status=302, reason="blocked_address", summary="a redirect to a private address"
    ),
    "redirect_loop": Kind(outcome="permanent", status=302, reason="redirect_loop", summary="redirects in a circle"),
    "noai": Kind(outcome="permanent", status=200, reason="refused_by_robots", summary="X-Robots-Tag: noai"),
    "private_url": Kind(
        outcome="permanent", status=0, reason="blocked_address", summary="a private address in the metadata itself"
    ),
    "local_file": Kind(outcome="permanent", status=0, reason="blocked_address", summary="a file: URL in the metadata"),
}
"""Every kind; each URL of a site is exactly one of them."""

PRIVATE_TARGETS = (
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/admin.png",
    "http://192.168.1.1/logo.png",
    "http://[::1]:9/image.png",
    "http://127.0.0.1:9/image.png",
    "http://localhost:9/image.png",
    "http://2130706433:9/image.png",
    "http://[::ffff:169.254.169.254]/image.png",
    "http://0.0.0.0:9/image.png",
)
"""Where hostile metadata or a hostile page may send a downloader; none of them may ever be asked."""

LOCAL_FILE = "file:///etc/hostname"
"""A URL that a careless opener reads from the downloader's own disk."""


@dataclass(frozen=True, kw_only=True)
class FaultShares:
    """How many of all URLs are of each kind, 0 to 1; the rest is ``fine``. The names are those of ``KINDS``."""

    copy: float = 0.03
    """Same bytes under another URL."""
    near_copy: float = 0.03
    """Same picture, re-encoded and slightly resized, under another URL."""
    moved: float = 0.04
    """A redirect that leads to the image."""
    throttled_once: float = 0.02
    """429 until ``Retry-After`` has passed."""
    error_once: float = 0.02
    """500 on the first request."""
    throttled: float = 0.01
    """429 always."""
    slow: float = 0.005
    """An answer after ``slow_s``."""
    dripping: float = 0.005
    """A body that takes ``drip_s``."""
    cut_off: float = 0.01
    """Fewer bytes than ``Content-Length`` says."""
    not_found: float = 0.06
    """404."""
    gone: float = 0.01
    """410."""
    truncated: float = 0.01
    """A complete answer with an incomplete file."""
    html: float = 0.02
    """HTML with an image's content type."""
    empty: float = 0.005
    """No bytes."""
    bomb: float = 0.002
    """A PNG of ``bomb_side_px`` squared."""
    oversized: float = 0.002
    """A body of ``oversized_bytes``."""
    redirect_private: float = 0.005
    """A redirect to one of ``PRIVATE_TARGETS`` or to ``LOCAL_FILE``."""
    redirect_loop: float = 0.005
    """Two addresses that name each other."""
    noai: float = 0.02
    """A good image with ``X-Robots-Tag: noai``."""
    private_url: float = 0.002
    """One of ``PRIVATE_TARGETS`` stands in the metadata."""
    local_file: float = 0.001
    """``LOCAL_FILE`` stands in the metadata."""

    def __post_init__(self) -> None:
        for name, share in self.named():
            if not 0 <= share <= 1:
                raise SiteConfigError(f"share of {name} is {share}, expected 0 to 1")
        total = sum(share for _, share in self.named())
        if total > 1 + 1e-9:
            raise SiteConfigError(f"the shares of all kinds add up to {total:.4f}, expected 1 at most")

    @classmethod
    def only(cls, **shares: float) -> "FaultShares":
        """Return shares that are zero but for those given: ``only(not_found=0.5)``; without any, all is fine.

        Raises:
            SiteConfigError: a name is not a kind, or a share is out of range.
        """
        names = [field.name for field in fields(cls)]
        if unknown := sorted(set(shares) - set(names)):
            raise SiteConfigError(f"unknown kind {', '.join(unknown)}; expected some of {', '.join(names)}")
        return cls(**{name: shares.get(name, 0.0) for name in names})

    def named(self) -> tuple[tuple[str, float], ...]:
        """Return (kind, share) of every kind but ``fine``."""
        return tuple((field.name, getattr(self, field.name)) for field in fields(self))

    def counts(self, num_urls: int) -> dict[str, int]:
        """Return how many of ``num_urls`` are of each kind, ``fine`` included: less than one away from the share."""
        counts, before, total = {}, 0, 0.0
        for name, share in self.named():
            total += share
            upto = min(num_urls, int(total * num_urls + 0.5 + 1e-9))
            counts[name] = upto - before
            before = upto
        return {"fine": num_urls - before, **counts}
