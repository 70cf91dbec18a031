"""How often the corpus's captions use each word that a swap could bring in."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from storage import ShardReport, ShardStore
from tasks.swap.caption_check import read_caption
from tasks.swap.caption_units import find_units
from tasks.swap.config import SwapConfig
from tasks.swap.result import SwapDrop
from tasks.swap.tagger import load_tagger
from tasks.swap.wordnet import load_wordnet


@dataclass(frozen=True, kw_only=True)
class WordCounts:
    """The words of a whole corpus, as ``tasks.words`` counted them."""

    terms: Mapping[str, int]
    """Key of ``count_terms`` ("fire_truck.n") -> in how many captions the word stands."""
    digest: str
    """Digest of the counts alone: how the corpus was cut into shards does not show in it."""


def count_terms(captions: Iterable[str], *, config: SwapConfig | None = None) -> Counter[str]:
    """Count in how many captions each swappable word stands, by keys like "fire_truck.n" and "red.a".

    Counts of shards add up to the counts of the corpus. Captions that a swap would drop as unreadable count nothing.

    Raises:
        WordNetError: WordNet cannot be loaded.
    """
    config, tagger, wordnet = config or SwapConfig(), load_tagger(), load_wordnet()
    counts: Counter[str] = Counter()
    for caption in captions:
        tokens = read_caption(caption, config, tagger)
        if not isinstance(tokens, SwapDrop):
            counts.update({unit.key for unit in find_units(caption, tokens, wordnet)})
    return counts


def read_counts(store: ShardStore, report: ShardReport) -> WordCounts:
    """Return the counts that a report of the stage ``words`` holds.

    Raises:
        MissingFileError: the table is gone.
        CorruptFileError: it is damaged.
    """
    table = store.read_table(report)
    pairs = zip(table["term"].to_pylist(), table["count"].to_pylist(), strict=True)
    return WordCounts(terms=dict(pairs), digest=report.digest)
