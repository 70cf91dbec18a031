"""NLTK's WordNet for tests, of the files that the product finds or lays out."""

from typing import Any

from tasks.swap.wordnet import cache_folder, find_wordnet
from tests.references.wordnet_relations import read_wordnet


def open_wordnet() -> Any:
    """Return NLTK's reader, apart from the one that the code under test uses."""
    return read_wordnet(find_wordnet(cache_folder()))
