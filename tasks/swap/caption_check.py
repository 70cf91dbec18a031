"""Which captions a swap can work on: plain English of a bounded length."""

import re
from typing import Final

from tasks.swap.config import SwapConfig
from tasks.swap.result import SwapDrop
from tasks.swap.tagger import Tagger, Token

_MALFORMED: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def read_caption(caption: str, config: SwapConfig, tagger: Tagger) -> list[Token] | SwapDrop:
    """Return the tagged tokens of a caption that a swap can work on, else why it cannot."""
    if len(caption) > config.max_characters:
        detail = f"{len(caption)} characters, at most {config.max_characters}"
        return SwapDrop(caption=caption[: config.max_characters], reason="too_long", detail=detail)
    if (found := _MALFORMED.search(caption)) is not None:
        detail = f"character U+{ord(found.group()):04X} at place {found.start()}"
        return SwapDrop(caption=caption, reason="malformed", detail=detail)
    if not any(character.isalpha() for character in caption):
        return SwapDrop(caption=caption, reason="empty")
    tokens = tagger(caption)
    if len(tokens) > config.max_words:
        return SwapDrop(caption=caption, reason="too_long", detail=f"{len(tokens)} words, at most {config.max_words}")
    words = [token.lower for token in tokens if token.text[0].isalpha()]
    known = sum(tagger.knows(word) for word in words)
    if known < config.min_known_share * len(words):
        return SwapDrop(caption=caption, reason="not_english", detail=f"{known} of {len(words)} words are known")
    return tokens
