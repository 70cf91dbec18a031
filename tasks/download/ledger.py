"""What was taken down for good: nothing but hashes, so that no later build asks for a picture or keeps it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from storage import CorruptFileError, Files, MissingFileError, digest_of
from storage.ids import sealed_content, sealed_document
from tasks.download.addresses import canonical_url

LEDGER: Final = "takedowns.json"


@dataclass(frozen=True, kw_only=True)
class TakedownLedger:
    """Hashes of all that was purged."""

    urls: frozenset[str] = frozenset()
    """sha256 of each address in its canonical spelling (``url_hash``)."""
    images: frozenset[str] = frozenset()
    """sha256 of each picture's bytes, as fetched and as stored."""

    @property
    def digest(self) -> tuple[str, ...]:
        """What the ledger adds to the inputs of a plan: nothing as long as it is empty."""
        return (digest_of(*sorted(self.urls)),) if self.urls else ()

    def holds(self, url: str) -> bool:
        """Return whether an address was taken down, in whatever spelling."""
        return bool(self.urls) and url_hash(url) in self.urls


def url_hash(url: str) -> str:
    """Return the sha256 of an address, the same for all its spellings."""
    return hashlib.sha256(canonical_url(url).encode("utf-8", "surrogatepass")).hexdigest()


def read_ledger(files: Files) -> TakedownLedger:
    """Return the ledger of a store.

    Raises:
        CorruptFileError: it is damaged; what it holds cannot be made again, so that nothing may be built.
    """
    try:
        content = sealed_content(files.read_bytes(LEDGER))
        return TakedownLedger(urls=frozenset(content["urls"]), images=frozenset(content["images"]))
    except MissingFileError:
        return TakedownLedger()
    except (CorruptFileError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(
            f"the ledger of takedowns {files.address(LEDGER)} is damaged ({error}): bring back a copy, or remove it "
            "and run all takedowns again"
        ) from error


def add_to_ledger(files: Files, *, urls: Iterable[str], images: Iterable[str]) -> None:
    """Remember addresses and sha256 hashes of pictures for good."""
    held = read_ledger(files)
    added = TakedownLedger(urls=held.urls | {url_hash(url) for url in urls}, images=held.images | frozenset(images))
    files.write_bytes(LEDGER, sealed_document({name: sorted(found) for name, found in vars(added).items()}))
