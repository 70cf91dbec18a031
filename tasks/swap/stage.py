"""Stage 3, swap: caption -> edit prompt. One noun or adjective becomes its antonym or a random co-hyponym (WordNet).

Section 3.1 of the paper; the difference prompts are those of Section 3.4. A prompt is a pure function of the caption,
a seed, the configuration and the corpus's vocabulary. WordNet alone gives words that no image shows and senses that
no caption means; what is done about it stands beside each field of ``SwapConfig``.
"""

import functools
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from iedit_model.errors import ConfigError
from storage import SAMPLE_ID, Dropped, ShardReport, ShardStore, TableSchema, col, in_manifest, sample_seed
from tasks.stage import Job, Output, Stage, Workspace
from tasks.swap.swapper import SwapConfig, SwapDrop, Swapper
from tasks.swap.words import WordCounts, read_counts

VERSION: Final = 2
"""Raised by hand whenever the same caption, seed, configuration and vocabulary may give another edit prompt."""

SWAP: Final = TableSchema(
    name="swap",
    description="One row per caption of which one word was exchanged.",
    columns=(
        SAMPLE_ID,
        col("caption", "string", "One plain sentence about the source image."),
        *in_manifest(
            col("edit_prompt", "string", "The caption with one word exchanged: what the edited image should show."),
            col("swapped_from", "string", "Word of the caption that was taken out."),
            col("swapped_to", "string", "Word that took its place."),
            col(
                "relation",
                "string",
                "How the two words are related in WordNet.",
                allowed=("antonym", "cohyponym", "sibling_satellite"),
            ),
            col("pos", "string", "Part of speech of the exchanged word.", allowed=("noun", "adjective")),
            col("source_synset", "string", "WordNet synset of the word that was taken out."),
            col("target_synset", "string", "WordNet synset of the word that took its place."),
            col(
                "level", "int32", "Hypernyms up to the common one: 1 for siblings, 0 where that means nothing.", "count"
            ),
            col("source_diff", "string", "What the source mask is to show (Section 3.4)."),
            col("target_diff", "string", "What the target mask is to show (Section 3.4)."),
        ),
    ),
)

__all__ = [
    "STAGE",
    "VERSION",
    "SwapConfig",
    "WordCounts",
    "load_swapper",
    "swap_shard",
]

_LOADING = threading.Lock()


def swap_shard(
    caption: ShardReport,
    config: SwapConfig,
    store: ShardStore,
    swapper: Swapper | None = None,
    *,
    counts: WordCounts | None,
) -> ShardReport:
    """Write an edit prompt for each caption of one shard, or return the finished report.

    Args:
        caption: report of the caption stage.
        config: the settings.
        store: where the captions are and the edit prompts go.
        swapper: one made of the same configuration and counts; by default the process's own, see ``load_swapper``.
        counts: the words of the whole corpus (``tasks.swap.words``), needed from ``config.min_corpus_count`` 1 on;
            with 0, as in the paper, they are not looked at.

    Returns:
        The report; dropped are captions without an edit prompt, with the reasons of ``DropReason``.

    Raises:
        ConfigError: ``min_corpus_count`` asks for counts and there are none, or the swapper has other settings.
        MissingFileError: the captions are gone.
        WordNetError: WordNet cannot be loaded.
    """
    counts = _needed(config, counts)
    if swapper is not None and swapper.config != config:
        raise ConfigError(f"the swapper was made for {swapper.config}, not for the shard's settings {config}")
    inputs = (caption.digest,) if counts is None else (caption.digest, counts.digest)

    def work(_: Workspace) -> Output:
        made = swapper or load_swapper(config, counts)
        rows: list[dict[str, object]] = []
        dropped: list[Dropped] = []
        for sample_id, text in _captions(caption, store):
            result = made(text, seed=sample_seed(config.seed, STAGE.name, sample_id))
            if isinstance(result, SwapDrop):
                dropped.append(Dropped(sample_id=sample_id, reason=result.reason, detail=result.detail))
            else:
                rows.append({"sample_id": sample_id, **asdict(result)})
        return Output(num_in=caption.num_out, table=SWAP.table(rows), dropped=dropped)

    return STAGE.shard(caption.shard, store, work, config=config, inputs=inputs)


def load_swapper(config: SwapConfig, counts: WordCounts | None = None) -> Swapper:
    """Return the process's own swapper for these settings and counts; the last two are remembered.

    Raises:
        ConfigError: ``config.min_corpus_count`` asks for counts and there are none.
        WordNetError: WordNet cannot be loaded.
    """
    with _LOADING:  # threads that come at once wait for one swapper instead of each making its own
        return _made(config, _Keyed(_needed(config, counts)))


class _Keyed:
    """Counts that are compared by their digest, since a table of counts has no hash."""

    def __init__(self, counts: WordCounts | None) -> None:
        self.counts = counts
        self._key = None if counts is None else counts.digest

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self._key == other._key


@functools.lru_cache(maxsize=2)
def _made(config: SwapConfig, keyed: _Keyed) -> Swapper:
    return Swapper(config, None if keyed.counts is None else keyed.counts.terms)


def _needed(config: SwapConfig, counts: WordCounts | None) -> WordCounts | None:
    if config.min_corpus_count == 0:
        return None
    if counts is None:
        raise ConfigError(
            f"swap.min_corpus_count is {config.min_corpus_count}, which needs the corpus's word counts: run the stage "
            "words first, or set it to 0"
        )
    return counts


def _captions(caption: ShardReport, store: ShardStore) -> Iterator[tuple[str, str]]:
    table = store.read_table(caption, columns=("sample_id", "caption"))
    yield from zip(table["sample_id"].to_pylist(), table["caption"].to_pylist(), strict=True)


def _work(job: Job) -> ShardReport:
    words = job.barrier("words")
    counts = read_counts(job.store, words) if words else None
    return swap_shard(job.reports["caption"], job.config(SwapConfig), job.store, counts=counts)


STAGE: Final = Stage(
    name="swap",
    version=VERSION,
    summary="`edit_prompt`, the exchanged words, the difference prompts",
    unit="captions",
    config=SwapConfig,
    work=_work,
    tables=(SWAP,),
    needs=("caption",),
    corpus=("words",),
)
