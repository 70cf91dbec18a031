"""Encodings of a dataset version, computed once and kept in the store: one safetensors file per tar and encoding.

The address follows from the version, the encoding's settings and its network's content; a file is written aside and
its marker last, so that a killed run goes on with the next tar. Files are mapped into memory, not read.
"""

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Protocol

from iedit_model.batching import map_batches, prefetch
from iedit_model.training.batch import EditBatch
from storage import CorruptFileError, Files, ShardReport, ShardStore, ShardTarget, VersionInfo, digest_of, fingerprint
from tasks.errors import TrainingRowsError
from tasks.train.encodings import Encoding, encode_pairs, encoded, to_batch_range
from tasks.train.run_config import CacheConfig, PromptSource
from tasks.train.train_rows import PairSample, TrainRows, read_pair

if TYPE_CHECKING:
    from torch import Tensor

STAGE, VERSION = "train", 2
_SUFFIX: Final = "safetensors"


@dataclass(frozen=True, kw_only=True)
class CacheReport:
    """What filling the cache took."""

    num_samples: int
    """Samples of the split."""
    num_encoded: int
    """Samples of which at least one encoding was computed now; the others were there."""
    seconds: float
    num_bytes: int
    """Size of all files of the cache that the run uses."""


class EncodingCache:
    """The kept tensors of one split of a version, by sample id."""

    def __init__(self, stack: ExitStack, store: ShardStore) -> None:
        self._stack, self._store = stack, store
        self._indices: dict[str, list[tuple[Mapping[str, Tensor], int]]] = {}

    def add(self, report: ShardReport) -> None:
        """Map one file of the cache.

        Raises:
            CorruptFileError: it is damaged.
        """
        from safetensors import SafetensorError, safe_open

        path: Path = self._stack.enter_context(self._store.local_blob(report, _SUFFIX))
        try:
            with safe_open(path, "pt") as file:
                ids = json.loads((file.metadata() or {})["sample_ids"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, KeyError, ValueError) as error:
            raise CorruptFileError(f"{path} is no file of the cache: {error}; remove it and run again") from error
        for index, sample_id in enumerate(ids):
            self._indices.setdefault(sample_id, []).append((tensors, index))

    def tensors(self, sample_ids: Sequence[str]) -> "dict[str, Tensor]":
        """Return the tensors of some samples, stacked, as they are kept.

        Raises:
            TrainingRowsError: samples of one batch have tensors of different sizes.
        """
        import torch

        found: dict[str, list[Tensor]] = {}
        for sample_id in sample_ids:
            for tensors, index in self._indices[sample_id]:
                for name, tensor in tensors.items():
                    found.setdefault(name, []).append(tensor[index])
        for name, parts in found.items():
            if len({part.shape for part in parts}) > 1:
                sizes = sorted({tuple(part.shape) for part in parts})
                raise TrainingRowsError(
                    f"{name} of the samples {', '.join(sample_ids)} comes in the shapes {sizes}; train on images of "
                    "one size (download them with a fixed size)"
                )
        return {name: torch.stack(parts) for name, parts in found.items()}

    def column(self, name: str, sample_ids: Sequence[str]) -> "list[Tensor]":
        """Return one tensor of some samples, not copied."""
        return [
            tensors[name][index]
            for sample_id in sample_ids
            for tensors, index in self._indices[sample_id]
            if name in tensors
        ]


class CacheFiller:
    """Computes the encodings of a split that are not in the store yet."""

    def __init__(
        self, store: ShardStore, info: VersionInfo, rows: TrainRows, *, prompts: PromptSource, config: CacheConfig
    ) -> None:
        self._store, self._info, self._rows = store, info, rows
        self._prompts: PromptSource = prompts
        self._config = config

    def fill(
        self, encodings: Sequence[Encoding], cache: EncodingCache, on_samples: Callable[[int, int], None]
    ) -> CacheReport:
        """Compute what is missing, tar by tar, and map everything into ``cache``.

        Raises:
            TrainingRowsError: a sample cannot be decoded.
            MissingFileError: a tar is gone.
            CorruptFileError: a sample or a file of the cache is damaged.
            DiskFullError: no room; what was finished stays.
        """
        started, total, done, num_encoded, num_bytes = time.monotonic(), self._rows.table.num_rows, 0, 0, 0
        for tar in self._rows.tars():
            rows = self._rows.of_tar(tar)
            targets = [(encoding, self._target(encoding, tar)) for encoding in encodings]
            missing = [(encoding, target) for encoding, target in targets if target.finished() is None]
            if missing:
                self._encode(missing, rows, lambda count, done=done: on_samples(done + count, total))
                num_encoded += len(rows)
            done += len(rows)
            on_samples(done, total)
            for _, target in targets:
                if (report := target.finished()) is not None:
                    cache.add(report)
                    num_bytes += report.files[_SUFFIX].size
        return CacheReport(
            num_samples=total, num_encoded=num_encoded, seconds=time.monotonic() - started, num_bytes=num_bytes
        )

    def _target(self, encoding: Encoding, tar: str) -> ShardTarget:
        name = fingerprint(
            stage=STAGE,
            version=VERSION,
            config=encoding.settings,
            inputs=(self._info.id,),
            weights_digest=encoding.weights_digest,
        )
        shard = f"{PurePosixPath(tar).name.split('.')[0][:40]}-{digest_of(tar)[:8]}"
        return self._store.target(STAGE, shard, name)

    def _encode(
        self,
        missing: Sequence[tuple[Encoding, ShardTarget]],
        rows: Sequence[Mapping[str, Any]],
        on_count: Callable[[int], None],
    ) -> None:
        import torch
        from safetensors.torch import save_file

        started, config = time.monotonic(), self._config
        kept: dict[str, Tensor] = {}
        names: dict[str, list[str]] = {}
        storage_dtype = torch.float16 if config.dtype == "fp16" else torch.float32
        pairs = prefetch(rows, self._read, num_threads=config.decode_threads, ahead=2 * config.batch_size)

        def encode(batch: Sequence[PairSample]) -> "list[dict[str, Tensor]]":
            found: dict[str, Tensor] = {}
            for encoding, name, tensor in encoded([encoding for encoding, _ in missing], batch):
                if name not in names.setdefault(encoding.settings.name, []):
                    names[encoding.settings.name].append(name)
                found[name] = tensor if encoding.keeps_dtype else tensor.to(storage_dtype)
            return [{name: tensor[i] for name, tensor in found.items()} for i in range(len(batch))]

        for index, (pair, tensors) in enumerate(map_batches(encode, pairs, batch_size=config.batch_size)):
            for name, tensor in tensors.items():
                if name not in kept:
                    kept[name] = torch.empty((len(rows), *tensor.shape), dtype=tensor.dtype)
                if kept[name].shape[1:] != tensor.shape:
                    raise TrainingRowsError(
                        f"{name} of sample {pair.sample_id} is {tuple(tensor.shape)}, that of others in its tar "
                        f"{tuple(kept[name].shape[1:])}; train on images of one size"
                    )
                kept[name][index] = tensor
            on_count(index + 1)
        header = {"sample_ids": json.dumps([row["sample_id"] for row in rows])}
        for encoding, target in missing:
            with target.scratch(_SUFFIX) as path:
                save_file({name: kept[name] for name in names[encoding.settings.name]}, path, metadata=header)
                target.commit(num_in=len(rows), seconds=time.monotonic() - started, blobs={_SUFFIX: path})

    def _read(self, row: Mapping[str, Any]) -> PairSample:
        return read_pair(self._store.files, row, self._prompts)


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
