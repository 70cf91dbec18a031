"""What is known about every image of the corpus beside its embedding, packed for ten million of them.

Only equality and distance are ever asked, so that URLs, hashes and captions are kept as 64-bit keys: 33 bytes an image.
Two different texts share a key once in 2**64 comparisons, and the price would be one candidate too few.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from storage import ShardReport, ShardStore
from tasks.download.addresses import canonical_url
from tasks.errors import TaskError

ID_LENGTH: Final = 20
"""Characters of a sample id."""

Ids = npt.NDArray[np.bytes_]
"""Sample ids as 20-byte strings (dtype S20), which sort like the ids themselves."""

FACTS: Final = np.dtype(
    [("url", "<u8"), ("content", "<u8"), ("caption", "<u8"), ("phash", "<i8"), ("has_phash", "?")],
)
"""One image: key of its URL, of its original bytes and of its caption (0 = unknown), and its perceptual hash."""

Facts = npt.NDArray[Any]
"""Array of ``FACTS``."""

_SPACE = re.compile(r"\s+")
_HEX = re.compile(r"[0-9a-f]{64}")


class CorpusError(TaskError):
    """The tables of two stages do not describe the same images; the message names the first that does not fit."""


def packed_ids(sample_ids: Sequence[str]) -> Ids:
    """Return sample ids as an array of 20-byte strings.

    Raises:
        CorpusError: an id has another length or letters outside ASCII.
    """
    for name in sample_ids:
        if len(name) != ID_LENGTH or not name.isascii():
            raise CorpusError(f"sample id {name!r} must have {ID_LENGTH} ASCII characters")
    return np.array(sample_ids, dtype=f"S{ID_LENGTH}")


def read_facts(
    store: ShardStore, ids: Ids, *, downloads: Sequence[ShardReport], captions: Sequence[ShardReport]
) -> Facts:
    """Return the facts (len(ids),) of the images, in the order of ``ids``; one shard is in memory at a time.

    Args:
        store: where the reports' tables lie.
        ids: sorted, without repetition.
        downloads: reports of the download stage, together holding each of ``ids``.
        captions: reports of the caption stage, likewise.

    Raises:
        CorpusError: an id is in no download or caption table.
    """
    facts = np.zeros(len(ids), FACTS)
    seen = {"download": np.zeros(len(ids), bool), "caption": np.zeros(len(ids), bool)}
    for report in downloads:
        table = store.read_table(report, columns=["sample_id", "url", "sha256", "phash"])
        at, rows = _places(ids, table["sample_id"].to_pylist())
        seen["download"][at] = True
        urls, hashes, phashes = (table[name].take(rows).to_pylist() for name in ("url", "sha256", "phash"))
        facts["url"][at] = [url_key(url) for url in urls]
        facts["content"][at] = [content_key(digest) for digest in hashes]
        facts["phash"][at] = [phash or 0 for phash in phashes]
        facts["has_phash"][at] = [phash is not None for phash in phashes]
    for report in captions:
        table = store.read_table(report, columns=["sample_id", "caption"])
        at, rows = _places(ids, table["sample_id"].to_pylist())
        seen["caption"][at] = True
        facts["caption"][at] = [caption_key(caption) for caption in table["caption"].take(rows).to_pylist()]
    for stage, found in seen.items():
        if not found.all():
            missing = ids[np.argmin(found)].decode()
            raise CorpusError(f"the embedded sample {missing} is in no table of the {stage} stage: give all its shards")
    return facts


def url_key(url: str) -> int:
    """Return a 64-bit key of an address; the same for all spellings that ``canonical_url`` makes one."""
    return _key(canonical_url(url))


def content_key(sha256: str | None) -> int:
    """Return the first 64 bits of a sha256 given as 64 hex characters; 0 for none or anything else."""
    return int(sha256[:16], 16) if sha256 is not None and _HEX.fullmatch(sha256) else 0


def caption_key(caption: str) -> int:
    """Return a 64-bit key of a caption; case, spacing and a final full stop make no difference. 0 for an empty one."""
    plain = _SPACE.sub(" ", caption).strip().rstrip(".").rstrip().casefold()
    return _key(plain) if plain else 0


def _key(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1


def _places(ids: Ids, sample_ids: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return positions in ``ids`` and the rows of the table that belong there; ids that are not there are left out."""
    given = packed_ids(sample_ids)
    at = np.searchsorted(ids, given)
    rows = np.flatnonzero(ids[np.minimum(at, len(ids) - 1)] == given) if len(ids) else np.zeros(0, np.int64)
    return at[rows].astype(np.int64), rows.astype(np.int64)
