"""Stage 3a, words: in how many of the corpus's captions each word stands; the swap's barrier where it asks for counts.

Section 3.1 needs a target for every edit prompt: a word that the corpus never shows would find none. Each shard is
counted by itself and the counts are added up, so that a run which was cut off goes on where it stopped. With
``swap.min_corpus_count`` 0, as in the paper, nothing is counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from storage import ShardReport, ShardStore, TableSchema, col
from tasks.stage import Job, Output, Stage, Workspace
from tasks.swap.caption_units import find_units
from tasks.swap.swapper import SwapConfig, SwapDrop, read_caption
from tasks.swap.tagger import load_tagger
from tasks.swap.wordnet import load_wordnet


@dataclass(frozen=True, kw_only=True)
class WordCounts:
    """The words of a whole corpus, as ``tasks.swap.words`` counted them."""

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


VERSION: Final = 1
"""Raised by hand whenever the same captions may give other counts."""
WORDS: Final = TableSchema(
    name="words",
    description="One row per word that a swap could bring in, with its use in the corpus's captions.",
    columns=(
        col("term", "string", "Lemma and part of speech: `fire_truck.n`, `red.a`."),
        col("count", "int64", "Captions in which the word stands.", "count"),
    ),
    sort_by=("term",),
)
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
        The report of the shard ``all``, one row per word; captions that a swap cannot read count as passed on. Its
        digest follows from the counts alone; ``tasks.swap.words.read_counts`` reads it.

    Raises:
        MissingFileError: captions are gone.
        WordNetError: WordNet cannot be loaded.
    """
    parts = [count_shard_words(caption, config, store) for caption in captions]

    def work(_: Workspace) -> Output:
        total: Counter[str] = Counter()
        for part in parts:
            table = store.read_table(part)
            total.update(dict(zip(table["term"].to_pylist(), table["count"].to_pylist(), strict=True)))
        counted = _output(sum(part.num_in for part in parts), total)
        return replace(counted, seconds_before=sum(part.seconds for part in parts))

    inputs = sorted(part.digest for part in parts)
    return STAGE.shard(SHARD, store, work, config=WordsConfig.of(config), inputs=inputs)


def count_shard_words(caption: ShardReport, config: SwapConfig, store: ShardStore) -> ShardReport:
    """Count the words of one shard's captions, or return the finished report; ``count_words`` adds them up.

    Raises:
        MissingFileError: the captions are gone.
        WordNetError: WordNet cannot be loaded.
    """

    def work(_: Workspace) -> Output:
        captions = store.read_table(caption, columns=("caption",))["caption"].to_pylist()
        return _output(len(captions), count_terms(captions, config=config))

    return STAGE.shard(caption.shard, store, work, config=WordsConfig.of(config), inputs=[caption.digest])


def _output(num_captions: int, counts: Mapping[str, int]) -> Output:
    table = WORDS.table({"term": term, "count": count} for term, count in counts.items())
    return Output(num_in=num_captions, num_out=num_captions, table=table)


def _work(job: Job) -> ShardReport:
    return count_words(job.corpus["caption"], job.config(SwapConfig), job.store)


STAGE: Final = Stage(
    name="words",
    version=VERSION,
    summary="how often the corpus uses each word; only where the swap asks for it",
    unit="captions",
    config=SwapConfig,
    decisive=WordsConfig.of,
    work=_work,
    tables=(WORDS,),
    corpus=("caption",),
    barrier=True,
    wanted=lambda config: config.min_corpus_count > 0,
)
