"""The gallery's page: the HTML of one file that asks for nothing from anywhere."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from iedit_model.imaging.pages import render_page


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
    """Whether its images have so few pixels that each should be seen."""


def html_page(
    title: str, summary: str, cards: Iterable[PageCard], columns: Sequence[PageColumn], *, footer: str
) -> str:
    """Return the page.

    Args:
        title: heading, as text.
        summary: sentence below it, as text.
        cards: the pairs, in the order in which they are first shown.
        columns: what can be sorted and filtered by, and is listed on each card if it is a number.
        footer: last line, as text.
    """
    shown = [
        {
            "row": card.row,
            "images": {name: Markup(url) for name, url in card.images.items()},  # noqa: S704 - base64
            "is_small": card.is_small,
            "numbers": [_value(card.row[column.name]) for column in columns],
        }
        for card in cards
    ]
    return render_page(
        "tasks.dataset",
        "gallery.html.j2",
        script="gallery.js",
        title=title,
        summary=summary,
        cards=shown,
        columns=columns,
        footer=footer,
        marked=marked,
    )


def marked(text: str, word: str, other: str, tag: str) -> Markup:
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
    return Markup("{0}<{3}>{1}</{3}>{2}").format(text[:start], text[start:end], text[end:], tag)


def _value(value: Any) -> Any:
    """Return a value for JSON: numbers that are none become None."""
    return None if isinstance(value, float) and value - value != 0 else value
