"""The web site as a plan: what stands behind each of its URLs, decided by a seed and known in advance."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from miniature.alt_text import AltText, alt_text
from miniature.errors import SiteConfigError
from miniature.faults import KINDS, LOCAL_FILE, PRIVATE_TARGETS, FaultShares, Outcome
from miniature.pictures import Picture, draw_picture, near_copy_of, picture_bytes
from miniature.plan import MetadataShares, Plan, draw_plan
from miniature.world import TWO_OBJECT_SHARE, Scene, Share, World

MOST_URLS = 10_000_000
"""Largest site, URLs."""
_PICTURE_STREAM, _NEAR_COPY_STREAM, _ALT_TEXT_STREAM = 11, 12, 13


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlTruth:
    """All there is to know about one URL."""

    index: int
    """Number of the URL, from 0."""
    address: str
    """Its path on the site, or the whole URL when it is not one of the site's."""
    kind: str
    """A key of ``KINDS``."""
    outcome: Outcome
    """What a careful downloader ends with."""
    reason: str
    """Class of the failure, empty when an image comes at once."""
    status: int
    """HTTP status of the first answer, 0 for a URL that is not one of the site's."""
    scene_index: int
    """Number of the scene in the site's world; also for a fault, whose picture would have shown it."""
    copy_of: int | None
    """The URL whose picture this one repeats."""
    format: str
    """``jpeg``, ``png`` or ``webp``."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    alt_text: str
    """The text of the URL's first row in the metadata."""
    alt_kind: str
    """How that text came about."""
    language: str
    """ISO 639-1 code of that text."""
    names_scene: bool
    """Whether that text names what is in the picture."""
    caption: str
    """The plain caption of the scene."""
    nouns: tuple[str, ...]
    """What is in the picture, one an object."""
    colours: tuple[str, ...]
    """Its colours, one an object."""
    background: str
    """Colour word of the ground."""
    unsafe: bool
    """Marked by a high ``punsafe``."""
    watermarked: bool
    """Marked by a high ``pwatermark``."""
    small: bool
    """A side under 64 pixels."""
    unscored: bool
    """Without scores in the metadata."""

    @property
    def gives_image(self) -> bool:
        """Whether a careful downloader gets an image, be it after a retry."""
        return self.outcome.startswith("image")


@dataclass(frozen=True, kw_only=True)
class Site:
    """A web site of ``num_urls`` picture URLs; the same fields give the same plan and the same bytes."""

    seed: int = 3
    """Which site and which world, 0 or more."""
    num_urls: int = 2_000
    """Number of distinct URLs, 1 or more."""
    faults: FaultShares = field(default_factory=FaultShares)
    """How many URLs are of each kind."""
    metadata: MetadataShares = field(default_factory=MetadataShares)
    """How many URLs a filter on the metadata would drop."""
    world_share: Share = "seen"
    """Which noun-colour combinations the pictures may show."""
    two_object_share: float = TWO_OBJECT_SHARE
    """Probability of a picture with two objects."""
    slow_s: float = 30.0
    """Delay of a ``slow`` answer, seconds; above a downloader's time limit for its outcome to come out."""
    drip_s: float = 90.0
    """Time that a ``dripping`` body takes, seconds; above a downloader's limit on the whole of an image."""
    retry_after_s: int = 1
    """``Retry-After`` of a 429, seconds; ``throttled_once`` gives its image only after it has passed."""
    bomb_side_px: int = 30_000
    """Side of a decompression bomb, pixels; above a downloader's limit."""
    oversized_bytes: int = 48 * 2**20
    """Length of an ``oversized`` body, bytes; above a downloader's limit."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise SiteConfigError(f"seed is {self.seed}, expected 0 or more")
        if not 1 <= self.num_urls <= MOST_URLS:
            raise SiteConfigError(f"num_urls is {self.num_urls}, expected 1 to {MOST_URLS}")
        if not 0 <= self.two_object_share <= 1:
            raise SiteConfigError(f"two_object_share is {self.two_object_share}, expected 0 to 1")
        for name in ("slow_s", "drip_s", "retry_after_s"):
            if not 0 <= getattr(self, name) <= 3600:
                raise SiteConfigError(f"{name} is {getattr(self, name)}, expected 0 to 3600 seconds")
        if not 1 <= self.bomb_side_px <= 65_535:
            raise SiteConfigError(f"bomb_side_px is {self.bomb_side_px}, expected 1 to 65535")
        if not 1 <= self.oversized_bytes <= 2**32:
            raise SiteConfigError(f"oversized_bytes is {self.oversized_bytes}, expected 1 to {2**32}")

    @cached_property
    def plan(self) -> Plan:
        """Which URL is of which kind; drawn once.

        Raises:
            SiteConfigError: copies are asked for, but there is nothing to copy.
        """
        return draw_plan(self.seed, self.num_urls, faults=self.faults, metadata=self.metadata)

    @cached_property
    def world(self) -> World:
        """The world whose scenes the site shows."""
        return World(self.seed, share=self.world_share, two_object_share=self.two_object_share)

    def counts(self) -> dict[str, int]:
        """Return the number of URLs of each kind; they add up to ``num_urls``."""
        return self.faults.counts(self.num_urls)

    def kind(self, index: int) -> str:
        """Return the kind of a URL, a key of ``KINDS``."""
        return self.plan.kinds[index]

    def original(self, index: int) -> int:
        """Return the URL whose picture this one shows: itself, unless it is a copy."""
        return self.plan.copy_of.get(index, index)

    def marked(self, index: int, mark: str) -> bool:
        """Return whether a URL has a mark of ``MetadataShares``; a copy has those of its original's picture."""
        return (index if mark == "foreign" else self.original(index)) in self.plan.marks[mark]

    def scene(self, index: int) -> Scene:
        """Return what the picture of a URL shows, or would show."""
        return self.world.scene(self.original(index))

    def picture(self, index: int) -> Picture:
        """Return the format and size of the picture of a URL."""
        original = self.original(index)
        rng = np.random.default_rng((self.seed, original, _PICTURE_STREAM))
        picture = draw_picture(rng, small=self.marked(original, "small"))
        if self.kind(index) != "near_copy":
            return picture
        return near_copy_of(picture, np.random.default_rng((self.seed, index, _NEAR_COPY_STREAM)))

    def image_bytes(self, index: int) -> bytes:
        """Return the whole, good picture file of a URL, whatever its kind."""
        return picture_bytes(self.scene(index), self.picture(index))

    def alt_text(self, index: int, mention: int = 0) -> AltText:
        """Return the alt text of a URL's first or, with ``mention=1``, second row in the metadata.

        Every other repeated row repeats the text as well.
        """
        rng = np.random.default_rng((self.seed, index, _ALT_TEXT_STREAM, 1 + mention * (index % 2)))
        return alt_text(self.scene(index), rng, kind="foreign" if self.marked(index, "foreign") else None)

    def address(self, index: int) -> str:
        """Return the path of a URL on the site, or the whole URL when it leads elsewhere; no two are the same."""
        kind = self.kind(index)
        if kind == "private_url":
            return f"{PRIVATE_TARGETS[index % len(PRIVATE_TARGETS)]}#{index}"
        if kind == "local_file":
            return f"{LOCAL_FILE}#{index}"
        return f"/images/{index:08d}{self.picture(index).suffix}"

    def url(self, index: int, base_url: str) -> str:
        """Return the URL as the metadata names it.

        Args:
            index: number of the URL.
            base_url: where the site runs, "http://127.0.0.1:8765".
        """
        address = self.address(index)
        return base_url.rstrip("/") + address if address.startswith("/") else address

    def truth(self, index: int) -> UrlTruth:
        """Return all there is to know about a URL.

        Raises:
            IndexError: there is no such URL.
        """
        if not 0 <= index < self.num_urls:
            raise IndexError(f"URL {index} does not exist, expected 0 to {self.num_urls - 1}")
        kind, scene, picture, text = self.kind(index), self.scene(index), self.picture(index), self.alt_text(index)
        return UrlTruth(
            index=index,
            address=self.address(index),
            kind=kind,
            outcome=KINDS[kind].outcome,
            reason=KINDS[kind].reason,
            status=KINDS[kind].status,
            scene_index=self.original(index),
            copy_of=self.plan.copy_of.get(index),
            format=picture.format,
            width=picture.width,
            height=picture.height,
            alt_text=text.text,
            alt_kind=text.kind,
            language=text.language,
            names_scene=text.names_scene,
            caption=scene.caption,
            nouns=tuple(thing.noun for thing in scene.objects),
            colours=tuple(thing.colour for thing in scene.objects),
            background=scene.background,
            unsafe=self.marked(index, "unsafe"),
            watermarked=self.marked(index, "watermarked"),
            small=self.marked(index, "small"),
            unscored=self.marked(index, "unscored"),
        )

    def sha256(self, index: int) -> str | None:
        """Return the digest of the bytes that a careful downloader stores for a URL, None when it stores nothing."""
        if not KINDS[self.kind(index)].outcome.startswith("image"):
            return None
        return hashlib.sha256(self.image_bytes(index)).hexdigest()


def truth_columns(site: Site) -> dict[str, list[Any]]:
    """Return the truth of every URL of a site as columns, in the order of ``UrlTruth``'s fields."""
    names = tuple(UrlTruth.__slots__)
    rows = [site.truth(index) for index in range(site.num_urls)]
    return {name: [getattr(row, name) for row in rows] for name in names}
