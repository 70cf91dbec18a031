"""Filters on the metadata, before anything is fetched: each row passes or has the first reason why it does not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from iedit_model.configuration import Cosine, Share, configuration


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataRow:
    """One row of the metadata in our words; None is unknown."""

    url: str | None
    alt_text: str | None
    width: float | None
    height: float | None
    similarity: float | None
    punsafe: float | None
    pwatermark: float | None
    aesthetic_score: float | None
    language: str | None


@configuration
class FilterConfig:
    """Which rows of the metadata are kept; None switches a filter off."""

    min_side_px: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Least side that the metadata may claim, pixels."""
    max_aspect: Annotated[float, Field(ge=1, le=65_535)] | None = None
    """Longer to shorter side, at most."""
    max_punsafe: Share | None = None
    """Highest probability of being unsafe; LAION's own subsets use 0.5."""
    max_pwatermark: Share | None = None
    """Highest probability of a watermark; LAION's own subsets use 0.8."""
    min_aesthetic: Annotated[float, Field(ge=-100, le=100)] | None = None
    """Least aesthetic score."""
    min_similarity: Cosine | None = None
    """Least CLIP similarity of image and alt text."""
    languages: tuple[str, ...] | None = None
    """Languages of the alt text that are kept, ISO 639-1."""
    min_text_chars: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """Shortest alt text, characters without the space around it."""
    max_text_chars: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Longest alt text, characters without the space around it."""
    keep_unknown: bool = True
    """Whether a row passes a filter whose column is empty in it; if not, its reason is ``unknown_`` and the column.
    Sets of one language and sets without watermark scores may then lack these columns altogether, which is logged."""

    def __post_init__(self) -> None:
        if self.languages is not None and not self.languages:
            raise ValueError("languages is empty, so nothing would pass: use None to switch it off")

    def needed(self) -> tuple[str, ...]:
        """Return the fields of ``MetadataRow`` that the filters which are on look at."""
        return tuple(dict.fromkeys(name for option, name, _ in _ON_COLUMNS if getattr(self, option) is not None))

    def required(self) -> tuple[str, ...]:
        """Return those of ``needed`` that the metadata must have a column for."""
        return tuple(name for name in self.needed() if not (self.keep_unknown and name in _MAY_LACK))


def reason_against(row: MetadataRow, config: FilterConfig) -> str | None:
    """Return why a row is dropped, as one word, or None when it passes every filter."""
    for option, name, reason in _ON_COLUMNS:
        limit = getattr(config, option)
        if limit is None:
            continue
        value = getattr(row, name)
        if value is None:
            if not config.keep_unknown:
                return f"unknown_{name}"
        elif not _PASSES[option](value, limit):
            return reason
    return _shape_reason(row, config)


def _shape_reason(row: MetadataRow, config: FilterConfig) -> str | None:
    # With one side known, the aspect is not.
    if config.max_aspect is None or row.width is None or row.height is None:
        return None
    long, short = max(row.width, row.height), min(row.width, row.height)
    return "bad_aspect" if long > config.max_aspect * short else None


_MAY_LACK: Final = ("language", "pwatermark")
_ON_COLUMNS: Final = (
    ("min_side_px", "width", "too_small"),
    ("min_side_px", "height", "too_small"),
    ("max_aspect", "width", "bad_aspect"),
    ("max_aspect", "height", "bad_aspect"),
    ("max_punsafe", "punsafe", "unsafe"),
    ("max_pwatermark", "pwatermark", "watermarked"),
    ("min_aesthetic", "aesthetic_score", "low_aesthetic"),
    ("min_similarity", "similarity", "low_similarity"),
    ("languages", "language", "other_language"),
    ("min_text_chars", "alt_text", "short_text"),
    ("max_text_chars", "alt_text", "long_text"),
)
"""(option, field of the row, reason), in the order in which they are asked."""

_PASSES: Final[dict[str, Callable[..., bool]]] = {
    "min_side_px": lambda side, limit: side >= limit,
    "max_aspect": lambda *_: True,  # takes both sides: see ``_shape_reason``
    "max_punsafe": lambda score, limit: score <= limit,
    "max_pwatermark": lambda score, limit: score <= limit,
    "min_aesthetic": lambda score, limit: score >= limit,
    "min_similarity": lambda score, limit: score >= limit,
    "languages": lambda language, kept: language.strip().lower() in kept,
    "min_text_chars": lambda text, limit: len(text.strip()) >= limit,
    "max_text_chars": lambda text, limit: len(text.strip()) <= limit,
}
