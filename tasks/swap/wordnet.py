"""WordNet 3.0 as plain data: found or unpacked once, read through NLTK, remembered for the life of the process.

NLTK's reader shares file handles between its users and hands out related synsets in an order that depends on the hash
seed. Both end here: a lock guards every read, and everything is sorted and copied into immutable values.
"""

import functools
import json
import lzma
import math
import os
import shutil
import tarfile
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tasks.errors import WordNetError
from tasks.swap.wordlists import WRONG_LINKS

_VERSION: Final = "3.0"
_PACKED: Final = Path(__file__).with_name(f"wordnet-{_VERSION}.tar.xz")
"""The release's files with their licence, line ends as in the release: WordNet's indexes hold byte offsets."""
_MARKER: Final = ".complete.json"
_LEFTOVER_AGE_S: Final = 3600
_NEEDED: Final = (
    *(f"{kind}.{part}" for kind in ("data", "index") for part in ("noun", "verb", "adj", "adv")),
    *(f"{part}.exc" for part in ("noun", "verb", "adj", "adv")),
    "index.sense",
    "lexnames",
)


def cache_folder() -> Path:
    """Return the folder for files derived on this machine: ``$IEDIT_CACHE``, else ``~/.cache/iedit``."""
    return Path(os.environ.get("IEDIT_CACHE") or Path.home() / ".cache" / "iedit")


def find_wordnet(cache: Path) -> Path:
    """Return a folder ``.../corpora/wordnet`` with version 3.0: NLTK's own when there is one, else a copy in ``cache``.

    Raises:
        WordNetError: neither source holds a usable WordNet 3.0.
    """
    return _installed_for_nltk() or install_wordnet(cache)


def install_wordnet(cache: Path) -> Path:
    """Unpack the files of WordNet that come with this package as ``cache/corpora/wordnet`` and return that folder.

    The folder appears by one rename with all its files, so that it is complete or absent whenever a process is killed;
    of two processes at the same time one wins and the other uses the winner's.

    Raises:
        WordNetError: the packed files are missing or damaged, or the folder cannot be written.
    """
    folder = cache / "corpora" / "wordnet"
    if _is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix=".wordnet.", suffix=".partial", dir=folder.parent))
        try:
            _unpack(partial)
            _put_in_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise WordNetError(
            f"cannot set up WordNet in {folder}: {error}; set IEDIT_CACHE to a folder that can be written"
        ) from error
    return folder


def _remove_leftovers(parent: Path) -> None:
    """Remove what killed processes left behind; nobody works on one folder for an hour."""
    for leftover in parent.glob(".wordnet.*"):
        try:
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S:
                shutil.rmtree(leftover, ignore_errors=True)
        except FileNotFoundError:
            continue  # another process was quicker


def _put_in_place(partial: Path, folder: Path) -> None:
    for _ in range(3):
        try:
            partial.rename(folder)
        except OSError:
            if _is_complete(folder):
                return
            # What stands there was damaged later, for a rename is never half done. It leaves by a rename, too.
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".wordnet.", suffix=".damaged") as aside:
                if folder.exists():
                    folder.rename(Path(aside) / "wordnet")
        else:
            return
    raise WordNetError(f"{folder} is damaged and cannot be replaced; remove it by hand")


def _is_complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _unpack(target: Path) -> None:
    sizes = {}
    try:
        with tarfile.open(_PACKED, "r:xz") as archive:
            for member in archive:
                stream = archive.extractfile(member)
                content = b"" if stream is None else stream.read()
                _write_durably(target / Path(member.name).name, content)
                sizes[member.name] = len(content)
    except (FileNotFoundError, tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise WordNetError(f"{_PACKED} is missing or damaged ({error}): install iedit again") from error
    _write_durably(target / _MARKER, json.dumps(sizes, indent=1, sort_keys=True).encode())
    # mkdtemp makes it private; other users of a shared cache read it, too.
    target.chmod(0o755)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _installed_for_nltk() -> Path | None:
    import nltk.data

    try:
        root = Path(str(nltk.data.find("corpora/wordnet")))
        with (root / "data.adj").open(encoding="utf-8", errors="replace", newline="") as stream:
            header = stream.read(4000)
    except (LookupError, OSError):
        return None
    usable = f"WordNet {_VERSION} Copyright" in header and "\r" not in header
    return root if usable and all((root / name).is_file() for name in _NEEDED) else None


Pos = Literal["n", "v", "a", "r"]
"""Noun, verb, adjective (satellites included), adverb."""
SwapPos = Literal["n", "a"]
"""Parts of speech that are swapped."""
Relation = Literal["hypernyms", "instance_hypernyms", "hyponyms", "similar_tos"]

PARTS: Final[tuple[Pos, ...]] = ("n", "v", "a", "r")
_LONGEST_WORD: Final = 60
"""No lemma of WordNet 3.0 that a caption holds is longer; longer words are unknown without a look."""
_UNWANTED_USAGE: Final = frozenset(
    {
        "archaism.n.01",
        "combining_form.n.01",
        "disparagement.n.01",
        "dysphemism.n.01",
        "ethnic_slur.n.01",
        "obscenity.n.02",
        "slang.n.02",
        "trade_name.n.01",
        "trademark.n.02",
        "vulgarism.n.01",
    }
)
"""Usage domains of words that no prompt should contain: slurs and vulgar words, brands, words out of use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sense:
    """One synset as plain data."""

    name: str
    """NLTK's name, "bus.n.01"; unique."""
    lexname: str
    """Lexicographer file, "noun.artifact"."""
    lemmas: tuple[str, ...]
    """As WordNet spells them, most usual first, words joined by "_"."""
    usable: frozenset[str]
    """The lemmas that a prompt may contain: no name, no brand, no slur, no form bound to a place in the sentence."""
    antonyms: tuple[tuple[str, str, str], ...]
    """Lexical antonyms as (lemma of this sense, its antonym, the antonym's sense name), sorted."""
    attributes: frozenset[str]
    """Names of the noun senses that an adjective gives a value to: "size.n.01"."""
    is_instance: bool
    """Whether it is an individual (Paris) rather than a kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedSense:
    """A sense of a certain lemma with the share of the lemma's uses that it stands for."""

    sense: Sense
    share: float
    """In (0, 1]; tagged counts smoothed by the rank, summing to 1 over the lemma's senses."""


class WordNet:
    """Read access to WordNet 3.0; every answer is immutable, remembered and safe to ask from several threads."""

    def __init__(self, reader: Any, counts: dict[tuple[str, Pos], dict[int, int]]) -> None:
        """Take an open reader and the tagged counts as (lemma, part of speech) -> sense number -> count."""
        self._reader = reader
        self._counts = counts
        self._lock = threading.RLock()
        self._senses: dict[str, Sense] = {}
        self._synsets: dict[str, Any] = {}
        self._related: dict[tuple[str, Relation], tuple[str, ...]] = {}
        self._ranked: dict[tuple[str, Pos], tuple[RankedSense, ...]] = {}

    def base_form(self, word: str, pos: Pos) -> str | None:
        """Return the lemma of an inflected lower-case word ("buses" -> "bus"), or None when WordNet has none.

        A word that is a lemma itself stays as it is. Words of a phrase are joined by "_".
        """
        if len(word) > _LONGEST_WORD:
            return None
        return self._reader.morphy(word, pos)

    def count(self, lemma: str, pos: Pos) -> int:
        """Return how often the lemma was tagged with this part of speech in WordNet's own corpora."""
        return sum(self._counts.get((lemma, pos), {}).values())

    def ranked_senses(self, lemma: str, pos: Pos) -> tuple[RankedSense, ...]:
        """Return the senses of a lemma (lower case, "_" between words), most frequent first; empty when unknown."""
        key = (lemma, pos)
        if (known := self._ranked.get(key)) is not None:
            return known
        with self._lock:
            synsets = [s for s in self._reader.synsets(lemma, pos) if any(n.lower() == lemma for n in s.lemma_names())]
            counts = self._counts.get(key, {})
            weights = [counts.get(rank, 0) + 1 / rank for rank in range(1, len(synsets) + 1)]
            total = math.fsum(weights)
            ranked = tuple(
                RankedSense(sense=self._sense_of(synset), share=weight / total)
                for synset, weight in zip(synsets, weights, strict=True)
            )
            self._ranked[key] = ranked
        return ranked

    def sense(self, name: str) -> Sense:
        """Return the sense of a name ("bus.n.01"); names come from this class, others raise NLTK's WordNetError."""
        if (known := self._senses.get(name)) is not None:
            return known
        with self._lock:
            return self._sense_of(self._synset(name))

    def related(self, name: str, relation: Relation) -> tuple[str, ...]:
        """Return the names of the senses one step away, sorted."""
        key = (name, relation)
        if (known := self._related.get(key)) is not None:
            return known
        with self._lock:
            synsets = getattr(self._synset(name), relation)()
            for synset in synsets:
                self._synsets[synset.name()] = synset
            names = tuple(sorted(synset.name() for synset in synsets))
            self._related[key] = names
        return names

    def with_heads(self, sense: Sense) -> tuple[Sense, ...]:
        """Return an adjective sense and, when it is a satellite, the heads of its cluster."""
        if ".s." not in sense.name:
            return (sense,)
        return (sense, *(self.sense(head) for head in self.related(sense.name, "similar_tos")))

    def climb(self, name: str, *, levels: int) -> Iterator[tuple[int, str]]:
        """Yield (steps up, name) of the hypernyms, nearest first, each once, up to ``levels`` steps."""
        return self._walk(name, "hypernyms", levels)

    def descend(self, name: str, *, levels: int) -> Iterator[tuple[int, str]]:
        """Yield (steps down, name) of the hyponyms, nearest first, each once, up to ``levels`` steps."""
        return self._walk(name, "hyponyms", levels)

    def _walk(self, name: str, relation: Relation, levels: int) -> Iterator[tuple[int, str]]:
        seen, front = {name}, (name,)
        for level in range(1, levels + 1):
            links = {(one, other) for one in front for other in self.related(one, relation)}
            right = {other for one, other in links if WRONG_LINKS.isdisjoint({(one, other), (other, one)})}
            front = tuple(sorted(right - seen))
            seen.update(front)
            for found in front:
                yield level, found

    def _sense_of(self, synset: Any) -> Sense:
        name = synset.name()
        if (known := self._senses.get(name)) is None:
            self._synsets[name] = synset
            known = self._senses[name] = _plain(synset)
        return known

    def _synset(self, name: str) -> Any:
        # Looking a name up costs NLTK far more than remembering what was met on the way.
        if (known := self._synsets.get(name)) is None:
            known = self._synsets[name] = self._reader.synset(name)
        return known


def _plain(synset: Any) -> Sense:
    lemmas = synset.lemmas()
    marked = {domain.name() for domain in synset.usage_domains()} | {up.name() for up in synset.hypernyms()}
    usable = set()
    if not marked & _UNWANTED_USAGE:
        for lemma in lemmas:
            own = {domain.synset().name() for domain in lemma.usage_domains()}
            name = lemma.name()
            if name == name.lower() and not own & _UNWANTED_USAGE and lemma.syntactic_marker() not in {"(p)", "(ip)"}:
                usable.add(name)
    return Sense(
        name=synset.name(),
        lexname=synset.lexname(),
        lemmas=tuple(lemma.name() for lemma in lemmas),
        usable=frozenset(usable),
        antonyms=tuple(
            sorted(
                (lemma.name(), other.name(), other.synset().name()) for lemma in lemmas for other in lemma.antonyms()
            )
        ),
        attributes=frozenset(noun.name() for noun in synset.attributes()),
        is_instance=bool(synset.instance_hypernyms()),
    )


@functools.cache
def _load(cache: Path) -> WordNet:
    root = find_wordnet(cache)
    return WordNet(_open_reader(root), _read_counts(root))


_LOADING = threading.Lock()


def load_wordnet(cache: Path | None = None) -> WordNet:
    """Return WordNet 3.0, loaded once per process (about 1 s, 65 MB).

    It is read from NLTK's own data folder when that holds version 3.0, else from the files that come with this package,
    unpacked on first use.

    Args:
        cache: folder for the files; by default ``cache_folder()``.

    Raises:
        WordNetError: neither source holds a usable WordNet 3.0.
    """
    with _LOADING:
        return _load(cache or cache_folder())


def _open_reader(root: Path) -> Any:
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Wordnet30(WordNetCorpusReader):
        """NLTK's reader without the mapping to other versions, which costs two thirds of the loading time."""

        def map_wn(self, version: str = "wordnet") -> None:  # noqa: ARG002 - NLTK's signature
            return None

    data_folder = str(root.parent.parent)
    if data_folder not in nltk.data.path:
        # NLTK refuses to read outside of its path.
        nltk.data.path.append(data_folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions are not available")
        reader = Wordnet30(str(root), None)
    dog = reader.synsets("dog", "n")
    if not dog or dog[0] is None or dog[0].name() != "dog.n.01":
        raise WordNetError(f"{root} is damaged: it does not know dog.n.01; remove the folder and start again")
    return reader


def _read_counts(root: Path) -> dict[tuple[str, Pos], dict[int, int]]:
    """Read index.sense: one line per sense, "bus%1:06:00:: 02924116 1 2" = key, offset, sense number, tagged count.

    cntlist.rev looks handier but still numbers some senses as an older WordNet did.
    """
    kinds: dict[str, Pos] = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
    counts: dict[tuple[str, Pos], dict[int, int]] = {}
    with (root / "index.sense").open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith(" 0\n"):
                key, _, number, count = line.split()
                lemma, _, rest = key.partition("%")
                counts.setdefault((lemma, kinds[rest[0]]), {})[int(number)] = int(count)
    return counts
