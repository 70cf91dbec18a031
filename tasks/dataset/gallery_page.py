"""The gallery's page: HTML, style and script of one file that asks for nothing from anywhere.

A content security policy forbids every request and every script but ours, should a caption ever get past its escaping.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

_SAFE_SCHEMES: Final = ("http://", "https://")

STYLE: Final = """
:root{--ground:#f5f5f3;--card:#fff;--ink:#1d2126;--soft:#626a73;--line:#dcdbd6;--old:#b3263a;--old-bg:#fdecee;
--new:#13683c;--new-bg:#e3f5ea;--accent:#0b62b0}
@media (prefers-color-scheme:dark){:root{--ground:#15171b;--card:#1f2227;--ink:#e9e7e4;--soft:#a2a8b0;--line:#363b43;
--old:#ff8d9b;--old-bg:#3d1f25;--new:#66d39a;--new-bg:#17352a;--accent:#73b7ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main,.bar>div,.bar details,footer{max-width:1500px;margin:0 auto;padding:0 20px}
h1{font-size:22px;margin:22px 0 2px;letter-spacing:-.01em}
h1 code{font-size:.85em;color:var(--soft);overflow-wrap:anywhere}
header p{margin:0 0 12px;color:var(--soft);max-width:90ch}
button,select,input{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);border-radius:7px;
padding:5px 9px;min-width:0}
button{cursor:pointer}
button:hover,select:hover,input:hover{border-color:var(--soft)}
:focus-visible{outline:3px solid var(--accent);outline-offset:1px}
.bar{position:sticky;top:0;z-index:2;background:var(--ground);border-bottom:1px solid var(--line);padding:9px 0}
.bar>div{display:flex;flex-wrap:wrap;gap:8px;align-items:center}
.bar input[type=search]{flex:1 1 180px;max-width:340px}
.bar output{margin-left:auto;color:var(--soft);font-variant-numeric:tabular-nums;white-space:nowrap}
.bar label{display:inline-flex;gap:6px;align-items:center;color:var(--soft);min-width:0}
.bar summary{cursor:pointer;color:var(--accent);padding:7px 0 0;width:max-content}
.filters{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:8px 20px;padding:8px 0 4px;
max-height:46vh;overflow:auto}
.filters fieldset{border:0;margin:0;padding:0;display:flex;gap:6px;align-items:center;min-width:0}
.filters legend{float:left;width:118px;font-size:13px;line-height:1.2;padding:0;color:var(--soft)}
.filters input,.filters select{flex:1 1 0;padding:3px 6px;font-size:13px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(460px,100%),1fr));gap:16px;padding:0;
margin:18px 0;list-style:none}
.card{background:var(--card);border:1px solid var(--line);border-radius:11px;overflow:hidden;display:flex;
flex-direction:column;content-visibility:auto;contain-intrinsic-size:auto 400px}
.card[hidden]{display:none}
.pics{display:grid;grid-template-columns:repeat(4,1fr);gap:2px;border:0;border-radius:0;padding:0;width:100%;
background:var(--line);cursor:zoom-in}
.pics span{display:block;position:relative;aspect-ratio:1;background:var(--line) center/contain no-repeat}
.pics .fine{image-rendering:pixelated}
.pics .s{background-image:var(--s)}.pics .t{background-image:var(--t)}
.pics .sm{background-image:var(--sm),var(--s)}.pics .tm{background-image:var(--tm),var(--t)}
.pics i{position:absolute;left:5px;bottom:5px;background:#000b;color:#fff;font:600 11px/1.5 system-ui,sans-serif;
border-radius:4px;padding:0 5px}
.big{grid-column:1/-1}.big .pics{cursor:zoom-out;max-width:1400px;margin:0 auto}
.says{padding:11px 14px 13px;display:flex;flex-direction:column;gap:9px;flex:1}
.says p{margin:0;overflow-wrap:anywhere}
.prompts{font-size:16px}
.prompts .to{display:block}
.found{color:var(--soft);font-size:13px}
del,ins{text-decoration:none;border-radius:4px;padding:0 3px;margin:0 -1px}
del{color:var(--old);background:var(--old-bg)}
ins{color:var(--new);background:var(--new-bg)}
.tags{display:flex;flex-wrap:wrap;gap:5px;font-size:12px}
.tags span{border:1px solid var(--line);border-radius:99px;padding:0 8px;color:var(--soft)}
.scores{display:grid;grid-template-columns:repeat(auto-fill,minmax(148px,1fr));gap:1px 16px;margin:0;font-size:12.5px}
.scores div{display:flex;justify-content:space-between;gap:6px;border-radius:4px;padding:0 4px;margin:0 -4px}
.scores dt{color:var(--soft);line-height:1.25;padding:2px 0;overflow-wrap:anywhere}
.scores dd{margin:0;font-variant-numeric:tabular-nums}
.scores .on{background:var(--line)}
.facts{margin-top:auto!important;font-size:12px;color:var(--soft)}
a{color:inherit}
.none{display:none;color:var(--soft);padding:40px 0;text-align:center}
footer{border-top:1px solid var(--line);padding-top:14px;padding-bottom:30px;color:var(--soft);font-size:13px}
@media (max-width:640px){header,main,.bar>div,.bar details,footer{padding-left:12px;padding-right:12px}
.pics{grid-template-columns:repeat(2,1fr)}.cards{gap:12px;margin:12px 0}.bar{position:static}
.bar label{flex:1 1 60%}.bar select{flex:1}.bar input[type=search]{max-width:none;flex:1 1 100%}
.bar output{margin:0}.scores{grid-template-columns:repeat(2,minmax(0,1fr))}
button,select,input{padding:8px 10px}.filters input,.filters select{padding:6px 8px;font-size:15px}}
"""

SCRIPT: Final = """
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const list = document.getElementById("cards"), cards = [...list.children];
  const by = document.getElementById("by"), way = document.getElementById("way");
  const search = document.getElementById("search"), count = document.getElementById("count");
  const limits = [...document.querySelectorAll("[data-column]")];
  const addresses = (card) => [...card.querySelectorAll("a")].map((link) => link.href).join(" ");
  const texts = cards.map((card) => `${card.querySelector(".says").textContent} ${addresses(card)}`.toLowerCase());
  let down = true;

  const passes = (i) => limits.every((field) => {
    if (field.value === "") return true;
    const value = data.rows[i][field.dataset.column];
    if (field.dataset.side === "is") return value === field.value;
    if (value === null) return false;
    return field.dataset.side === "min" ? value >= Number(field.value) : value <= Number(field.value);
  });
  const show = () => {
    const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let shown = 0;
    cards.forEach((card, i) => {
      card.hidden = !(words.every((word) => texts[i].includes(word)) && passes(i));
      if (!card.hidden) shown += 1;
    });
    count.textContent = `${shown.toLocaleString("en")} of ${cards.length.toLocaleString("en")} pairs`;
    document.getElementById("none").style.display = shown ? "none" : "block";
    const used = limits.filter((field) => field.value !== "").length;
    document.getElementById("used").textContent = used ? ` (${used})` : "";
  };
  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === null || b === null) return a === null ? 1 : -1;
    const order = typeof a === "string" ? a.localeCompare(b, "en") : a - b;
    return down ? -order : order;
  };
  const sort = () => {
    const column = Number(by.value);
    const order = cards.map((_, i) => i);
    if (column >= 0) order.sort((i, j) => compare(data.rows[i][column], data.rows[j][column]) || i - j);
    list.append(...order.map((i) => cards[i]));
    way.textContent = down ? "\\u2193 high first" : "\\u2191 low first";
    way.disabled = column < 0;
    document.querySelectorAll(".on").forEach((line) => line.classList.remove("on"));
    document.querySelectorAll(`[data-score="${column}"]`).forEach((line) => line.classList.add("on"));
  };

  by.addEventListener("change", sort);
  way.addEventListener("click", () => { down = !down; sort(); });
  [search, ...limits].forEach((field) => field.addEventListener("input", show));
  document.getElementById("reset").addEventListener("click", () => {
    [search, ...limits].forEach((field) => { field.value = ""; });
    by.value = "-1"; down = true;
    sort(); show();
  });
  list.addEventListener("click", (event) => {
    const pictures = event.target.closest(".pics");
    if (pictures) pictures.setAttribute("aria-expanded", String(pictures.parentElement.classList.toggle("big")));
  });
  sort(); show();
})();
"""


@dataclass(frozen=True, kw_only=True)
class PageColumn:
    """One column that can be sorted and filtered by."""

    name: str
    title: str
    """What it means."""
    choices: tuple[str, ...] | None = None
    """Its values if it is a word, None for a number."""


@dataclass(frozen=True, kw_only=True)
class PageCard:
    """One pair as it is shown."""

    row: Mapping[str, Any]
    """Its row of the manifest."""
    images: Mapping[str, str]
    """``s``, ``t`` (source, target), ``sm``, ``tm`` (their masks) -> data URL; a broken part is missing."""
    is_small: bool
    """Whether its pictures have so few pixels that each should be seen."""


def html_page(
    title: str, summary: str, cards: Iterable[PageCard], columns: Sequence[PageColumn], *, footer: str
) -> Iterator[str]:
    """Yield the page piece by piece.

    Args:
        title: heading, as text.
        summary: sentence below it, as text.
        cards: the pairs, in the order in which they are first shown.
        columns: what can be sorted and filtered by, and is listed on each card if it is a number.
        footer: last line, as text.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    yield f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(summary)}</p></header>
{_bar(columns)}
<main>
<ul class="cards" id="cards">
"""
    rows = []
    for card in cards:
        rows.append([_value(card.row[column.name]) for column in columns])
        yield _card(card, columns)
    yield f"""</ul>
<p class="none" id="none">No pair passes these filters.</p>
</main>
<footer>{escape(footer)}</footer>
<script type="application/json" id="data">{_json({"rows": rows})}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def marked(text: str, word: str, other: str, tag: str) -> str:
    """Return ``text`` as HTML with the exchanged word marked.

    Args:
        text: the caption or the edit prompt.
        word: the word of it that was exchanged.
        other: the other of the two texts: the word stands where they begin to differ.
        tag: ``del`` or ``ins``.
    """
    same = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    start = text.find(word, max(0, same - len(word))) if word else -1
    if start < 0:
        return escape(text)
    end = start + len(word)
    return f"{escape(text[:start])}<{tag}>{escape(text[start:end])}</{tag}>{escape(text[end:])}"


def _bar(columns: Sequence[PageColumn]) -> str:
    options = "".join(f'<option value="{i}">{escape(_label(column.name))}</option>' for i, column in enumerate(columns))
    filters = "".join(_filter(i, column) for i, column in enumerate(columns))
    return f"""<div class="bar">
<div><label>Sort by <select id="by"><option value="-1">sample</option>{options}</select></label>
<button id="way" type="button">&darr; high first</button>
<input id="search" type="search" placeholder="Words of captions, prompts, addresses" aria-label="Search">
<button id="reset" type="button">Reset</button><output id="count" aria-live="polite"></output></div>
<details><summary>Filters<span id="used"></span></summary><div class="filters">{filters}</div></details>
</div>"""


def _filter(number: int, column: PageColumn) -> str:
    label = escape(_label(column.name))
    if column.choices is not None:
        choices = "".join(f'<option value="{escape(word)}">{escape(_label(word))}</option>' for word in column.choices)
        field = f'<select data-column="{number}" data-side="is" aria-label="{label}"><option value="">any</option>'
        field += f"{choices}</select>"
    else:
        field = "".join(
            f'<input type="number" step="any" data-column="{number}" data-side="{side}" placeholder="{side}" '
            f'aria-label="{label}, {side}">'
            for side in ("min", "max")
        )
    return f'<fieldset title="{escape(column.title)}"><legend>{label}</legend>{field}</fieldset>'


def _card(card: PageCard, columns: Sequence[PageColumn]) -> str:
    row = card.row
    style = ";".join(f"--{name}:url({address})" for name, address in card.images.items())
    fine = " fine" if card.is_small else ""
    names = {"s": "source", "sm": "source mask", "t": "target", "tm": "target mask"}
    pictures = "".join(
        f'<span class="{name}{fine}"><i>{words}{"" if name in card.images else ": damaged"}</i></span>'
        for name, words in names.items()
    )
    old = marked(row["caption"], row["swapped_from"], row["edit_prompt"], "del")
    new = marked(row["edit_prompt"], row["swapped_to"], row["caption"], "ins")
    tags = "".join(
        f'<span title="{escape(column.title)}">{escape(_label(str(row[column.name])))}</span>'
        for column in columns
        if column.choices is not None
    )
    return f"""<li class="card">
<button type="button" class="pics" style="{style}" aria-expanded="false"
 aria-label="{escape(f"source, target and their masks: {row['caption']}")}">{pictures}</button>
<div class="says">
<p class="prompts">{old} <span class="to">&rarr; {new}</span></p>
<p class="found">the target&rsquo;s own caption: {escape(row["target_caption"])}</p>
<div class="tags">{tags}<span title="Source mask prompt">{escape(row["source_diff"])}</span>
<span title="Target mask prompt">{escape(row["target_diff"])}</span></div>
<dl class="scores">{_scores(row, columns)}</dl>
<p class="facts">{escape(row["sample_id"])} &middot; {_link(row["url"], "source")} &middot;
{_link(row["target_url"], "target")}</p>
</div></li>
"""


def _scores(row: Mapping[str, Any], columns: Sequence[PageColumn]) -> str:
    return "".join(
        f'<div data-score="{i}" title="{escape(column.title)}"><dt>{escape(_label(column.name))}</dt>'
        f"<dd>{_number(row[column.name])}</dd></div>"
        for i, column in enumerate(columns)
        if column.choices is None
    )


def _link(address: str, words: str) -> str:
    if not address.lower().startswith(_SAFE_SCHEMES):
        return escape(words)
    return (
        f'<a href="{escape(address)}" rel="noopener noreferrer nofollow" target="_blank" '
        f'title="{escape(address)}">{escape(words)}</a>'
    )


def _label(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | None) -> str:
    value = _value(value)
    if value is None:
        return "&ndash;"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _value(value: Any) -> Any:
    """Return a value for JSON: numbers that are none become None."""
    return None if isinstance(value, float) and value - value != 0 else value


def _json(value: Any) -> str:
    """Return JSON that may stand inside a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
