"""The front page of the web site: thumbnails with their alt texts and what is planted behind each URL.

One self-contained HTML page without scripts; choosing a kind and turning a page are ordinary links.
"""

from dataclasses import replace

from iedit_model.imaging.pages import render_page
from miniature.faults import KINDS, Outcome
from miniature.pictures import Picture
from miniature.site import Site

PER_PAGE = 60
"""Thumbnails on one page."""
_THUMB_PX = 256
_OUTCOME_WORDS: dict[Outcome, str] = {
    "image": "an image",
    "image_after_retry": "an image after a retry",
    "transient": "nothing for now",
    "permanent": "nothing, for good",
}


def thumbnail(picture: Picture) -> Picture:
    """Return the image as the front page shows it: 256 pixels on the longer side, WebP."""
    scale = _THUMB_PX / max(picture.width, picture.height)
    return replace(
        picture,
        format="webp",
        width=round(picture.width * scale),
        height=round(picture.height * scale),
        quality=85,
        has_alpha=False,
    )


def gallery_page(site: Site, *, kind: str = "all", page: int = 1) -> str:
    """Return one page of thumbnails as HTML.

    Args:
        site: the site.
        kind: a key of ``KINDS``, or "all".
        page: from 1; a number beyond the ends gives the page at that end.
    """
    indexes = [index for index in range(site.num_urls) if kind in ("all", site.kind(index))]
    num_pages = max(1, -(-len(indexes) // PER_PAGE))
    page = min(max(page, 1), num_pages)
    counts = site.counts()
    outcomes = [
        (outcome, words, [(name, counts[name]) for name in KINDS if KINDS[name].outcome == outcome and counts[name]])
        for outcome, words in _OUTCOME_WORDS.items()
    ]
    return render_page(
        "miniature",
        "site.html.j2",
        images="'self' data:",
        title="The miniature's web site",
        site=site,
        kind=kind,
        known=KINDS,
        outcomes=[entry for entry in outcomes if entry[2]],
        heading="All kinds" if kind == "all" else f"{kind.replace('_', ' ')}: {KINDS[kind].summary}",
        truths=[site.truth(index) for index in indexes[(page - 1) * PER_PAGE : page * PER_PAGE]],
        page=page,
        num_pages=num_pages,
    )
