"""Stage 3a, words: in how many of the corpus's captions each word stands; the swap's barrier where it asks for counts.

Section 3.1 needs a target for every edit prompt: a word that the corpus never shows would find none. Each shard is
counted by itself and the counts are added up, so that a run which was cut off goes on where it stopped. With
``swap.min_corpus_count`` 0, as in the paper, nothing is counted.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from storage import WORDS, ShardReport, ShardStore, fingerprint
from tasks.swap.config import SwapConfig
from tasks.swap.word_counts import count_terms

if TYPE_CHECKING:
    import pyarrow as pa

STAGE: Final = "words"
VERSION: Final = 1
"""Raised by hand whenever the same captions may give other counts."""
SHARD: Final = "all"
"""Name of the shard that holds the counts of the whole corpus."""


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    """The settings of the swap that decide which captions are counted: no other one asks for another count."""

    max_characters: int
    max_words: int
    min_known_share: float

    @classmethod
    def of(cls, config: SwapConfig) -> "WordsConfig":
        """Return what a swap with ``config`` needs counted."""
        return cls(
            max_characters=config.max_characters,
            max_words=config.max_words,
            min_known_share=config.min_known_share,
        )


def count_words(captions: Sequence[ShardReport], config: SwapConfig, store: ShardStore) -> ShardReport:
    """Count the words of all captions, or return the finished report.

    Args:
        captions: reports of the caption stage, in any order and any division into shards.
        config: the settings of the swap.
        store: where the captions lie and the counts go.

    Returns:
        The report of the shard ``all``, one row a word; captions that a swap cannot read count as passed on. Its
        digest follows from the counts alone; ``tasks.swap.word_counts.read_counts`` reads it.

    Raises:
        MissingFileError: captions are gone.
        WordNetError: WordNet cannot be loaded.
    """
    started = time.monotonic()
    parts = [count_shard_words(caption, config, store) for caption in captions]
    inputs = sorted(part.digest for part in parts)
    target = store.target(STAGE, SHARD, _fingerprint(config, inputs))
    if (done := target.finished()) is not None:
        return done
    total: Counter[str] = Counter()
    for part in parts:
        table = store.read_table(part)
        total.update(dict(zip(table["term"].to_pylist(), table["count"].to_pylist(), strict=True)))
    num_captions = sum(part.num_in for part in parts)
    return target.commit(
        num_in=num_captions, num_out=num_captions, seconds=time.monotonic() - started, table=_table(total)
    )


def count_shard_words(caption: ShardReport, config: SwapConfig, store: ShardStore) -> ShardReport:
    """Count the words of one shard's captions, or return the finished report; ``count_words`` adds them up.

    Raises:
        MissingFileError: the captions are gone.
        WordNetError: WordNet cannot be loaded.
    """
    target = store.target(STAGE, caption.shard, _fingerprint(config, [caption.digest]))
    if (done := target.finished()) is not None:
        return done
    started = time.monotonic()
    captions = store.read_table(caption, columns=("caption",))["caption"].to_pylist()
    counts = count_terms(captions, config=config)
    return target.commit(
        num_in=len(captions), num_out=len(captions), seconds=time.monotonic() - started, table=_table(counts)
    )


def _fingerprint(config: SwapConfig, inputs: Sequence[str]) -> str:
    return fingerprint(stage=STAGE, version=VERSION, config=WordsConfig.of(config), inputs=inputs)


def _table(counts: Mapping[str, int]) -> "pa.Table":
    return WORDS.table({"term": term, "count": count} for term, count in counts.items())
