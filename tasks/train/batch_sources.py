"""Where the batches of a run come from: the cache of encodings, or pictures that are encoded anew."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from iedit_model.training.batch import EditBatch
from storage import Files
from tasks.train.encoding_cache import EncodingCache
from tasks.train.encodings import Encoding, encode_pairs, to_batch_range
from tasks.train.run_config import PromptSource
from tasks.train.train_rows import TrainRows, read_pair

if TYPE_CHECKING:
    from torch import Tensor


class BatchSource(Protocol):
    """Gives batches by sample ids; fit for threads."""

    def batch(self, sample_ids: Sequence[str]) -> EditBatch:
        """Return the batch of these samples, on the CPU, in fp32, its values checked.

        Raises:
            BatchError: a value is not finite.
            TrainingRowsError: a sample cannot be read, or the samples are not of one size.
        """
        ...


class CachedBatches:
    """Batches from the cache."""

    def __init__(self, cache: EncodingCache) -> None:
        self._cache = cache

    def batch(self, sample_ids: Sequence[str]) -> EditBatch:
        """Return the batch of these samples."""
        return _batch(sample_ids, self._cache.tensors(sample_ids))


class LiveBatches:
    """Batches that are read, decoded and encoded when they are asked for."""

    def __init__(self, files: Files, rows: TrainRows, encodings: Sequence[Encoding], *, prompts: PromptSource) -> None:
        self._files, self._rows, self._encodings = files, rows, encodings
        self._prompts: PromptSource = prompts

    def batch(self, sample_ids: Sequence[str]) -> EditBatch:
        """Return the batch of these samples."""
        read = functools.partial(read_pair, self._files, prompts=self._prompts)
        pairs = [read(row) for row in self._rows.of_ids(sample_ids)]
        return _batch(sample_ids, encode_pairs(self._encodings, pairs))


def _batch(sample_ids: Sequence[str], tensors: "dict[str, Tensor]") -> EditBatch:
    found = {name: to_batch_range(name, tensor) for name, tensor in tensors.items()}
    batch = EditBatch(sample_ids=tuple(sample_ids), **found)
    batch.check_values()
    return batch
