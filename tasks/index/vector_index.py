"""The opened index: nearest image embeddings, the embeddings themselves, and what is known about each image.

Rows are addressed by their position in the order of the sample ids. faiss proposes candidates; every score that
decides is taken again from the stored embeddings (``tasks.retrieve.candidates``), so that neither faiss's own
rounding nor the kind of index, a GPU or the number of threads shows in the results.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from iedit_model.configuration import configuration
from storage import ShardReport, ShardStore, file_sha256
from tasks.corpus import FACTS, Facts, Ids, packed_ids
from tasks.embed.queries import ModalityMeans
from tasks.embed.rows import Float16s
from tasks.embed.vectors import Float64s, Int64s
from tasks.errors import TaskError

FAISS_BLOB: Final = "faiss"
VECTORS_BLOB, FACTS_BLOB, MEANS_BLOB, LAYOUTS_BLOB = "vectors.npy", "facts.npy", "means.npy", "layouts.npy"

_GPU_MAX_K: Final = 2048
"""faiss searches no further on a GPU, nor do inverted lists here."""
_NEVER_BLAS: Final = 2**31 - 1

_log = logging.getLogger(__name__)


class IndexMismatchError(TaskError):
    """The files of an index do not belong together, or a shard does not belong to the index."""

    stops_run = True


@configuration
class SearchSettings:
    """How an index is searched: changes how fast, never what is found."""

    gpu: Literal["auto", "never"] = "auto"
    """"auto" searches on all GPUs that faiss sees, if the index fits ``max_ram_bytes``."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads of faiss; 0 leaves faiss's own choice (``OMP_NUM_THREADS``)."""
    max_ram_bytes: NonNegativeInt = 8 << 30
    """A larger index is mapped into memory from its file, not read, bytes."""


@dataclass(frozen=True, kw_only=True)
class VectorIndex:
    """An opened index over N images, safe to search from several threads."""

    ids: Ids
    """Sample ids (N,), sorted: a position's order is its id's order."""
    vectors: Float16s
    """Image embeddings (N, d) as the embed stage stored them, mapped from disk."""
    facts: Facts
    """What decides exclusions, (N,)."""
    means: ModalityMeans
    layouts: Float16s | None
    """Layout descriptors (N, l), or None if the embed stage stored none."""
    digest: str
    """Names the content of all files of the index."""
    neighbours: "Neighbours"

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """A faiss index with the rules of its kind.

    Attributes:
        max_fetch: most candidates that one search may return.
        exact: whether a search looks at every vector.
    """

    index: Any
    exact: bool
    max_fetch: int
    on_gpu: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def of(cls, index: Any, settings: SearchSettings, *, movable: bool = True) -> "Neighbours":
        """Return the neighbours in a CPU index, moved to the GPUs if there are any and ``settings`` and size allow."""
        import faiss

        if settings.threads:
            faiss.omp_set_num_threads(settings.threads)
        exact = isinstance(index, faiss.IndexFlat)
        # index_cpu_to_all_gpus answers with an empty proxy when there is no GPU: ask first.
        on_gpu = settings.gpu == "auto" and movable and faiss.get_num_gpus() > 0
        if on_gpu:
            try:
                index = faiss.index_cpu_to_all_gpus(index)
            except RuntimeError as error:
                _log.warning("the index does not fit the GPU and is searched on the CPU: %s", error)
                on_gpu = False
        limit = index.ntotal if exact and not on_gpu else min(index.ntotal, _GPU_MAX_K)
        return cls(index=index, exact=exact, max_fetch=limit, on_gpu=on_gpu)

    def search(self, queries: Float64s, fetch: int) -> Int64s:
        """Return the positions (n, fetch) of the vectors with the highest inner products, about in order.

        -1 stands where there is no further one: the index is smaller, or the lists that were looked at are.
        """
        import faiss

        rows = np.ascontiguousarray(queries, np.float32)
        if self.on_gpu:  # faiss's GPU resources serve one thread at a time
            with self._lock:
                return self.index.search(rows, fetch)[1]
        if not self.exact:
            # Above this size of a batch faiss picks lists by a matrix product, whose rounding depends on the batch.
            faiss.cvar.distance_compute_blas_threshold = _NEVER_BLAS
        return self.index.search(rows, fetch)[1]


@contextmanager
def open_index(report: ShardReport, store: ShardStore, settings: SearchSettings) -> Iterator[VectorIndex]:
    """Yield the index that the index stage committed; every file is checked against its sha256 first.

    Meant to be opened once a process: a shard's retrieval takes the open index.

    Raises:
        IndexMismatchError: a file is damaged, or their sizes, dimensions or ids do not agree.
        MissingFileError: a file is gone.
    """
    with ExitStack() as stack:
        paths = {
            suffix: stack.enter_context(store.local_blob(report, suffix))
            for suffix in (FAISS_BLOB, VECTORS_BLOB, FACTS_BLOB, MEANS_BLOB, LAYOUTS_BLOB)
            if suffix != LAYOUTS_BLOB or suffix in report.files
        }
        for suffix, path in paths.items():
            if (digest := file_sha256(path)) != report.files[suffix].sha256:
                raise IndexMismatchError(
                    f"the file {suffix} of {report.name} has sha256 {digest}, expected {report.files[suffix].sha256}; "
                    "remove the index's folder and build it again"
                )
        means = _array(paths[MEANS_BLOB], np.dtype(np.float64))
        opened = VectorIndex(
            ids=_read_ids(report, store),
            vectors=_array(paths[VECTORS_BLOB], np.dtype(np.float16)),
            facts=_array(paths[FACTS_BLOB], FACTS),
            means=ModalityMeans(image=means[0], text=means[1]),
            layouts=_array(paths[LAYOUTS_BLOB], np.dtype(np.float16)) if LAYOUTS_BLOB in paths else None,
            digest=report.digest,
            neighbours=_read_faiss(paths[FAISS_BLOB], settings),
        )
        _check(opened, report.name)
        yield opened


def _read_ids(report: ShardReport, store: ShardStore) -> Ids:
    table = store.read_table(report)
    ids = packed_ids(table["sample_id"].to_pylist())
    in_order = np.array_equal(table["position"].to_numpy(), np.arange(len(ids)))
    if not in_order or not np.all(ids[:-1] < ids[1:]):
        raise IndexMismatchError(f"the ids of {report.name} are not sorted or not numbered from 0")
    return ids


def _array(path: Path, dtype: "np.dtype[Any]") -> Any:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise IndexMismatchError(f"{path.name} cannot be read as an array: {error}") from error
    if mapped.dtype != dtype:
        raise IndexMismatchError(f"{path.name} holds {mapped.dtype}, expected {dtype}")
    return np.asarray(mapped)  # a plain view: numpy's own memmap class is slow to index


def _read_faiss(path: Path, settings: SearchSettings) -> Neighbours:
    import faiss

    large = path.stat().st_size > settings.max_ram_bytes
    # This flag maps flat indexes and inverted lists alike; the older IO_FLAG_MMAP reads a flat index into memory.
    flags = faiss.IO_FLAG_MMAP_IFC if large else 0
    try:
        index = faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise IndexMismatchError(f"{path.name} is no faiss index: {error}") from error
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise IndexMismatchError(f"{path.name} ranks by metric {index.metric_type}, expected the inner product")
    return Neighbours.of(index, settings, movable=not large)


def _check(opened: VectorIndex, name: str) -> None:
    sizes = {
        "ids": len(opened.ids),
        "faiss": opened.neighbours.index.ntotal,
        "vectors": len(opened.vectors),
        "facts": len(opened.facts),
        "layouts": len(opened) if opened.layouts is None else len(opened.layouts),
    }
    if len(set(sizes.values())) != 1:
        raise IndexMismatchError(f"the files of {name} hold different numbers of images: {sizes}")
    dims = {opened.neighbours.index.d, opened.vectors.shape[1], len(opened.means.image)}
    if len(dims) != 1:
        raise IndexMismatchError(f"the files of {name} hold vectors of different dimensions: {sorted(dims)}")
