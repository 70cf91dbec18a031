"""``X-Robots-Tag``: whether a page forbids what we do with its image.

The value is a list of rules, each of which may be meant for one robot: ``noai, noimageai`` or
``otherbot: noindex, ourbot: noai``. A name counts for the rules behind it until the next name.
"""

from collections.abc import Iterable, Sequence
from typing import Final

FORBIDDING: Final = ("noai", "noimageai", "noindex", "noimageindex", "none")
"""Rules that forbid our use: img2dataset's list, and ``none``, which is short for ``noindex, nofollow``."""

# Rules that have a value behind a colon themselves, and so are no robot's name.
_WITH_VALUE: Final = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def is_forbidden(values: Iterable[str], *, agent: str, rules: Sequence[str] = FORBIDDING) -> bool:
    """Return whether any ``X-Robots-Tag`` header has one of ``rules`` for everybody or for the robot ``agent``."""
    forbidding, ours = {rule.lower() for rule in rules}, agent.lower()
    for value in values:
        robot = ""
        for part in value.split(","):
            name, colon, rule = (piece.strip().lower() for piece in part.partition(":"))
            if colon and name not in _WITH_VALUE:
                robot = name
            else:
                rule = name
            if robot in {"", "*", ours} and rule in forbidding:
                return True
    return False
