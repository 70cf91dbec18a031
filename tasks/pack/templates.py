"""The template of an edit: what caption and edit prompt share, with a gap where the swapped word stood.

"A red bus.", edited to "A blue bus.", has the template "a _ bus"; so has every other colour of a bus. Two samples of
one template ask a model nearly the same thing, so that they belong on the same side of a split.
"""

import hashlib
import re

_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")
_NUMBER = re.compile(r"\d+")


def edit_template(caption: str, edit_prompt: str) -> str:
    """Return what both texts share at their beginnings and ends, with ``_`` in between.

    Case, spacing, numbers, final full stops and the choice of "a" or "an" make no difference.
    """
    old, new = _words(caption), _words(edit_prompt)
    shorter = min(len(old), len(new))
    start = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    end = next((i for i in range(shorter - start) if old[-1 - i] != new[-1 - i]), shorter - start)
    return " ".join((*old[:start], "_", *old[len(old) - end :]))


def text_key(text: str) -> int:
    """Return 64 bits that are equal for texts which say the same word for word; differences as for templates."""
    return template_key(" ".join(_words(text)))


def template_key(template: str) -> int:
    """Return 64 bits of a template."""
    digest = hashlib.blake2b(template.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _words(text: str) -> list[str]:
    words = [_NUMBER.sub("0", word) for word in _WORD.findall(text.casefold())]
    while words and words[-1] == ".":
        words.pop()
    return ["a" if word == "an" else word for word in words]
