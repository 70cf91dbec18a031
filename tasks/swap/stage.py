"""Stage 3, swap: caption -> edit prompt. One noun or adjective becomes its antonym or a random co-hyponym (WordNet).

Section 3.1 of the paper; the difference prompts are those of Section 3.4. A prompt is a pure function of the caption,
a seed, the configuration and the corpus's vocabulary. WordNet alone gives words that no picture shows and senses that
no caption means; what is done about it stands beside each field of ``SwapConfig``.
"""

import functools
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from iedit_model.errors import ConfigError
from storage import SWAP, Dropped, ShardReport, ShardStore, fingerprint, sample_seed
from tasks.swap.config import SwapConfig
from tasks.swap.result import SwapDrop
from tasks.swap.swapper import Swapper
from tasks.swap.word_counts import WordCounts

STAGE: Final = "swap"
VERSION: Final = 1
"""Raised by hand whenever the same caption, seed, configuration and vocabulary may give another edit prompt."""

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
        counts: the words of the whole corpus (``tasks.words``), needed from ``config.min_corpus_count`` 1 on; with 0,
            as in the paper, they are not looked at.

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
    name = fingerprint(stage=STAGE, version=VERSION, config=config, inputs=inputs)
    target = store.target(STAGE, caption.shard, name)
    if (done := target.finished()) is not None:
        return done
    started = time.monotonic()
    swapper = swapper or load_swapper(config, counts)
    rows: list[dict[str, object]] = []
    dropped: list[Dropped] = []
    for sample_id, text in _captions(caption, store):
        result = swapper(text, seed=sample_seed(config.seed, STAGE, sample_id))
        if isinstance(result, SwapDrop):
            dropped.append(Dropped(sample_id=sample_id, reason=result.reason, detail=result.detail))
        else:
            rows.append({"sample_id": sample_id, **asdict(result)})
    return target.commit(
        num_in=caption.num_out, seconds=time.monotonic() - started, table=SWAP.table(rows), dropped=dropped
    )


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
