"""WordNet's relations straight from NLTK, as slow and plain as its documentation has them."""

import functools
import warnings
from pathlib import Path
from typing import Any

import nltk.data
from nltk.corpus.reader.wordnet import WordNetCorpusReader


class _Reader(WordNetCorpusReader):
    def map_wn(self, version: str = "wordnet") -> None:
        return None


@functools.cache
def read_wordnet(root: Path) -> Any:
    """Return NLTK's own reader of the files in ``root``, a folder ``.../corpora/wordnet``."""
    if str(root.parent.parent) not in nltk.data.path:
        nltk.data.path.append(str(root.parent.parent))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _Reader(str(root), None)


def above(synset: Any) -> set[Any]:
    """Return all hypernyms of a synset."""
    return set(synset.closure(lambda one: one.hypernyms()))


def are_cohyponyms(source: Any, target: Any, *, level: int) -> bool:
    """Return whether both share a hypernym ``level`` steps over the source and neither is over the other."""
    shared = {synset for synset, steps in source.hypernym_distances() if steps == level} & above(target)
    return bool(shared) and source not in above(target) and target not in above(source) and source != target


def are_antonyms(source: Any, target: Any) -> bool:
    """Return whether a word of the target is an antonym of a word of the source or of the source's head."""
    heads = [source, *(source.similar_tos() if source.pos() == "s" else [])]
    return any(antonym.synset() == target for head in heads for lemma in head.lemmas() for antonym in lemma.antonyms())


def are_sibling_satellites(source: Any, target: Any) -> bool:
    """Return whether both are satellites of one head."""
    shared = set(source.similar_tos()) & set(target.similar_tos())
    return source != target and source.pos() == target.pos() == "s" and bool(shared)


def share_a_synset(reader: Any, one: str, other: str, pos: str) -> bool:
    """Return whether two lemmas are synonyms in some sense."""
    return bool(set(reader.synsets(one, pos)) & set(reader.synsets(other, pos)))
