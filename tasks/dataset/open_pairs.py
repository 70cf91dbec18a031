"""The pairs of a version as a ``webdataset`` pipeline, for a training loop of one's own.

With PyTorch's ``DataLoader``, from a folder or an object store::

    pairs = open_pairs("3f2a", "train", root="s3://bucket/store", shuffle=1000, seed=1)
    words = pairs.map(lambda pair: (pair["source"], pair["target"], pair["target_mask"], pair["json"]["edit_prompt"]))
    for source, target, mask, prompt in DataLoader(words, batch_size=8, num_workers=4):
        ...
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import webdataset as wds
from webdataset.gopen import gopen_schemes

from storage import Files, VersionStore, sample_seed, split_member
from tasks.errors import TaskError
from tasks.images import decode_image

_SCHEME: Final = "iedit"


class UnknownSplitError(TaskError, ValueError):
    """A version has no sample in the split that is asked for; the message says which it has."""


def open_pairs(
    version: str, split: str = "train", *, root: str | Path, shuffle: int = 0, seed: int = 0
) -> wds.WebDataset:
    """Return the pairs of one split, each once per pass, decoded, as a pipeline that takes webdataset's further steps.

    A pair is a dictionary: ``__key__`` (the sample id), ``source`` and ``target`` (uint8, height x width x 3, RGB),
    ``source_mask`` and ``target_mask`` (uint8, height x width, 255 = edit here) and ``json`` (its record: captions,
    prompts, scores). Tars are shared out to ranks (``RANK`` and ``WORLD_SIZE``, or ``torch.distributed``) and within a
    rank to ``DataLoader`` workers; with fewer tars than those, some get none. What a sub-version or a takedown left
    out of the manifest is skipped.

    Args:
        version: id of a version, or the beginning of it.
        split: ``train``, ``val`` or ``test``.
        root: folder or fsspec address of the store (``s3://bucket/store``); credentials come from fsspec's own
            configuration.
        shuffle: samples of the shuffle buffer of each worker, whose tars are shuffled too; 0 keeps the order.
        seed: of the shuffling. A pipeline that is iterated again goes on with another order; a worker that is started
            anew begins with the first, so use ``persistent_workers`` or another seed for each epoch.

    Raises:
        UnknownVersionError: no version begins like this, or more than one does.
        UnknownSplitError: the version has no such split.
    """
    versions = VersionStore(Files(str(root)))
    info = versions.load(version)
    if not info.splits.get(split):
        raise UnknownSplitError(f"version {info.id} has no samples in the split {split!r}; it has {dict(info.splits)}")
    rows = versions.manifest(info, columns=("sample_id", "tar"), where=f"split == {split!r}")
    tars = sorted(rows["tar"].unique().to_pylist())
    # webdataset adds the number of the pass: seeds next to each other would have all but one order in common.
    seed = sample_seed(seed, "open_pairs", info.id)
    pairs = wds.WebDataset(
        [f"{_SCHEME}:{versions.files.root}#{tar}" for tar in tars],
        nodesplitter=wds.split_by_node,
        shardshuffle=len(tars) if shuffle else False,
        detshuffle=bool(shuffle),
        seed=seed,
        empty_check=False,
    ).select(_OfVersion(frozenset(rows["sample_id"].to_pylist())))
    if shuffle:
        pairs = pairs.compose(wds.detshuffle(bufsize=shuffle, initial=shuffle, seed=seed))
    return pairs.map(decode_pair)


def decode_pair(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample of ``open_pairs`` from the members of a packed sample, as webdataset groups them.

    Raises:
        ImageError: a member is no image that we decode.
    """
    return {"__key__": sample["__key__"]} | {
        split_member(f"{sample['__key__']}.{name}")[1]: _decoded(name, data)
        for name, data in sample.items()
        if not name.startswith("__")
    }


def _decoded(name: str, data: bytes) -> Any:
    if name == "json":
        return json.loads(data)
    image = decode_image(data, trusted=True)
    return np.array(image.convert("L") if "_mask." in name else image)  # a copy, which may be written to


class _OfVersion:
    """Whether a sample is of the version; a class, so that a pipeline can be sent to a worker."""

    def __init__(self, sample_ids: frozenset[str]) -> None:
        self._sample_ids = sample_ids

    def __call__(self, sample: Mapping[str, Any]) -> bool:
        return sample["__key__"] in self._sample_ids


class _TarStream:
    """A tar of a store, open until it is read to its end or forgotten."""

    def __init__(self, files: Files, path: str) -> None:
        self._held = ExitStack()
        self._stream = self._held.enter_context(files.open(path))

    def read(self, size: int = -1) -> bytes:
        if not (data := self._stream.read(size)):
            self._held.close()
        return data


def _open_tar(url: str, mode: str = "rb", bufsize: int = 0) -> _TarStream:
    del mode, bufsize  # given by webdataset, which reads tars in no other way
    root, _, path = url.removeprefix(f"{_SCHEME}:").rpartition("#")
    return _TarStream(Files(root), path)


# webdataset's hook for further schemes; here, so that a worker that unpickles a pipeline of ours has it too.
_schemes: dict[str, Any] = gopen_schemes
_schemes[_SCHEME] = _open_tar
