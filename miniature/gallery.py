"""The web site's front page for people: thumbnails with their alt texts and what is planted behind each URL.

One self-contained HTML page without scripts; choosing a kind and turning a page are ordinary links.
"""

from dataclasses import replace
from html import escape

from miniature.faults import KINDS, Outcome
from miniature.pictures import Picture
from miniature.site import Site, UrlTruth

PER_PAGE = 60
"""Thumbnails on one page."""
_THUMB_PX = 256
_OUTCOME_WORDS: dict[Outcome, str] = {
    "image": "an image",
    "image_after_retry": "an image after a retry",
    "transient": "nothing for now",
    "permanent": "nothing, for good",
}

_STYLE = """
:root{--ground:#f6f5f2;--card:#fff;--ink:#1f2328;--soft:#656d76;--line:#dedcd6;--image:#1a7f4b;
--image_after_retry:#0b6bb8;--transient:#a35a00;--permanent:#b3263a}
@media (prefers-color-scheme:dark){:root{--ground:#16181c;--card:#202329;--ink:#e8e6e3;--soft:#a0a6ae;--line:#343942;
--image:#4cc38a;--image_after_retry:#6cb6ff;--transient:#e0a04a;--permanent:#ff8595}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main,footer{max-width:1240px;margin:0 auto;padding:0 20px}
h1{font-size:24px;margin:28px 0 4px;letter-spacing:-.01em}
header p{margin:0 0 16px;color:var(--soft);max-width:70ch}
a{color:inherit}
a:focus-visible{outline:3px solid var(--image_after_retry);outline-offset:2px}
nav.kinds{display:grid;grid-template-columns:max-content 1fr;gap:6px 14px;align-items:baseline;margin-bottom:20px}
nav.kinds b{font-weight:600;font-size:13px}
nav.kinds div{display:flex;flex-wrap:wrap;gap:6px}
.chip{border:1px solid var(--line);background:var(--card);border-radius:99px;padding:2px 11px;text-decoration:none;
font-size:13px;white-space:nowrap}
.chip span{color:var(--soft);font-variant-numeric:tabular-nums}
.chip:hover{border-color:var(--ink)}
.chip[aria-current]{background:var(--ink);color:var(--ground);border-color:var(--ink)}
.chip[aria-current] span{color:inherit}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(180px,1fr));gap:14px;padding:0;margin:0;list-style:none}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;overflow:hidden;display:flex;
flex-direction:column}
.card>a{display:block;position:relative;background:var(--line);aspect-ratio:1}
.card img{position:absolute;inset:0;width:100%;height:100%;object-fit:contain}
.lost img{opacity:.35;filter:grayscale(1)}
.says{padding:10px 12px 12px;display:flex;flex-direction:column;gap:6px;flex:1}
.alt{margin:0;overflow:hidden;display:-webkit-box;-webkit-line-clamp:3;-webkit-box-orient:vertical;
overflow-wrap:anywhere}
.alt.none{color:var(--soft);font-style:italic}
.badge{align-self:flex-start;font-size:12px;font-weight:600;border:1px solid currentColor;border-radius:5px;
padding:0 6px}
.image{color:var(--image)}.image_after_retry{color:var(--image_after_retry)}
.transient{color:var(--transient)}.permanent{color:var(--permanent)}
.facts{margin:auto 0 0;font-size:12px;color:var(--soft);display:flex;justify-content:space-between;gap:8px}
h2{font-size:15px;margin:0 0 10px}
.pages{display:flex;justify-content:center;align-items:center;gap:14px;margin:24px 0}
.pages .off{visibility:hidden}
footer{border-top:1px solid var(--line);padding-top:14px;padding-bottom:30px;color:var(--soft);font-size:13px}
@media (max-width:600px){header,main,footer{padding-left:12px;padding-right:12px}
.cards{grid-template-columns:repeat(2,1fr);gap:10px}nav.kinds{display:block}nav.kinds b{display:block;margin:8px 0 4px}
.chip{padding:5px 11px}.says{padding:8px 9px 10px}
.alt{font-size:14px}}
"""


def thumbnail(picture: Picture) -> Picture:
    """Return the picture as the front page shows it: 256 pixels on the longer side, WebP."""
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
    shown = indexes[(page - 1) * PER_PAGE : page * PER_PAGE]
    cards = "\n".join(_card(site.truth(index)) for index in shown)
    heading = "All kinds" if kind == "all" else f"{kind.replace('_', ' ')}: {KINDS[kind].summary}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The miniature's web site</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>The miniature&rsquo;s web site</h1>
<p>{site.num_urls:,} picture URLs of world {site.seed}, with the faults of the web planted among them.
The badge says what a careful downloader meets; a pale picture is one that it never gets.</p>
{_kind_links(site, kind)}
</header>
<main>
<h2>{escape(heading)}</h2>
<ul class="cards">
{cards}
</ul>
{_page_links(kind, page, num_pages)}
</main>
<footer>Metadata: <a href="/metadata/00000.parquet">/metadata/00000.parquet</a> &middot;
truth of all URLs: <a href="/truth.parquet">/truth.parquet</a> &middot;
truth of one: <a href="/truth/0.json">/truth/0.json</a> &middot; drawings: OpenMoji, CC BY-SA 4.0</footer>
</body>
</html>
"""


def _kind_links(site: Site, chosen: str) -> str:
    counts = site.counts()
    rows = [f"<b>everything</b><div>{_chip('all', site.num_urls, chosen)}</div>"]
    for outcome, words in _OUTCOME_WORDS.items():
        chips = [_chip(kind, counts[kind], chosen) for kind in KINDS if KINDS[kind].outcome == outcome and counts[kind]]
        if chips:
            rows.append(f'<b class="{outcome}">{words}</b><div>{"".join(chips)}</div>')
    return f'<nav class="kinds" aria-label="Kinds">{"".join(rows)}</nav>'


def _chip(kind: str, count: int, chosen: str) -> str:
    current = ' aria-current="page"' if kind == chosen else ""
    return f'<a class="chip" href="/?kind={kind}"{current}>{kind.replace("_", " ")} <span>{count:,}</span></a>'


def _card(truth: UrlTruth) -> str:
    text = truth.alt_text.strip()
    alt = f'<p class="alt" title="{escape(text)}">{escape(text)}</p>' if text else '<p class="alt none">no alt text</p>'
    # An address outside the site is there to be refused; nobody should reach it by a click.
    target = truth.address if truth.address.startswith("/") else f"/truth/{truth.index}.json"
    return f"""<li class="card{"" if truth.gives_image else " lost"}">
<a href="{escape(target)}"><img src="/thumbs/{truth.index:08d}.webp" alt="{escape(text)}" loading="lazy"></a>
<div class="says">
<span class="badge {truth.outcome}" title="{escape(KINDS[truth.kind].summary)}">{truth.kind.replace("_", " ")}</span>
{alt}
<p class="facts"><span>{truth.width}&times;{truth.height} {truth.format}</span>
<a href="/truth/{truth.index}.json" title="all that is known about it">#{truth.index}</a></p></div></li>"""


def _page_links(kind: str, page: int, num_pages: int) -> str:
    def link(number: int, words: str) -> str:
        hidden = "" if 1 <= number <= num_pages else " off"
        return f'<a class="chip{hidden}" href="/?kind={kind}&amp;page={number}">{words}</a>'

    before, after = link(page - 1, "&larr; before"), link(page + 1, "next &rarr;")
    return f'<nav class="pages" aria-label="Pages">{before}page {page} of {num_pages}{after}</nav>'
