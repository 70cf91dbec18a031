"""faiss indexes over unit vectors: built (a full search, or inverted lists found by k-means), opened and kept open.

Rows are addressed by their position in the order of the sample ids. faiss proposes candidates; every score that
decides is taken again from the stored embeddings (``tasks.retrieve.candidates``), so that neither faiss's own
rounding nor the kind of index, a GPU or the number of threads shows in the results.
"""

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from iedit_model.configuration import Seed, configuration
from storage import ShardReport, ShardStore
from tasks.corpus import FACTS, Facts, Ids, packed_ids
from tasks.embed.stage import Float16s
from tasks.embed.vectors import Float64s, Int64s, ModalityMeans, unit_rows
from tasks.errors import TaskError

_BLOCK_ROWS: Final = 4_096
_FAISS_BLAS: Final = 128_000
"""faiss's own size of a batch from which it multiplies matrices; searching sets another."""


@configuration
class ListConfig:
    """How the corpus is cut into lists of which a query looks at the nearest few."""

    per_sqrt_row: Annotated[float, Field(ge=0.01, le=1000)] = 2.0
    """Number of lists = this times the square root of the number of images, at most one for two images. Measured at
    100,000 images: with 4 the same recall costs as much to search and twice to three times as much to build."""
    nprobe: Annotated[int, Field(ge=1, le=1 << 20)] = 2
    """Lists that a query looks at, to begin with."""
    max_nprobe: Annotated[int, Field(ge=1, le=1 << 20)] = 512
    """``nprobe`` is doubled up to this until the recall is high enough."""
    train_rows_per_list: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Size of the sample from which the lists are learned, images a list."""
    train_iterations: Annotated[int, Field(ge=1, le=1000)] = 5
    """Rounds of k-means."""
    seed: Seed = 0
    """Decides the sample and the start of k-means."""

    def __post_init__(self) -> None:
        if self.max_nprobe < self.nprobe:
            raise ValueError(f"max_nprobe {self.max_nprobe} is below nprobe {self.nprobe}")

    def num_lists(self, num_rows: int) -> int:
        """Return into how many lists a corpus is cut."""
        return max(1, min(round(self.per_sqrt_row * math.sqrt(num_rows)), num_rows // 2))


def exact_index(vectors: Float16s) -> Any:
    """Return a faiss index that compares a query with each of ``vectors`` (rows, d)."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    _add(index, vectors)
    return index


def list_index(vectors: Float16s, config: ListConfig, *, threads: int = 0) -> Any:
    """Return a faiss index of inverted lists over ``vectors`` (rows, d), with ``nprobe`` set.

    The seed fixes the sample and k-means; on one machine the bytes were the same for 1 and 2 threads. Trained on the
    CPU always: a GPU would learn other lists.
    """
    import faiss

    if threads:
        faiss.omp_set_num_threads(threads)
    faiss.cvar.distance_compute_blas_threshold = _FAISS_BLAS
    num_rows, dim = vectors.shape
    num_lists = config.num_lists(num_rows)
    # The metric is an argument: without it faiss ranks by distance, whatever the quantizer does.
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, num_lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.niter, index.cp.spherical = config.seed, config.train_iterations, True
    # The sample is drawn here, from the sorted rows; faiss is told not to draw again or to complain about its size.
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, config.train_rows_per_list + 1
    size = min(num_rows, num_lists * config.train_rows_per_list)
    sample = np.sort(np.random.default_rng(config.seed).choice(num_rows, size, replace=False, shuffle=False))
    index.train(_rows(vectors[sample]))
    _add(index, vectors)
    index.nprobe = min(config.nprobe, num_lists)
    return index


def _add(index: Any, vectors: Float16s) -> None:
    for start in range(0, len(vectors), _BLOCK_ROWS):
        index.add(_rows(vectors[start : start + _BLOCK_ROWS]))


def _rows(vectors: Float16s) -> np.ndarray[Any, Any]:
    rows = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _BLOCK_ROWS):  # unit_rows counts in float64, twice over
        rows[start : start + _BLOCK_ROWS] = unit_rows(vectors[start : start + _BLOCK_ROWS])
    return rows


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
        IndexMismatchError: their sizes, dimensions or ids do not agree.
        MissingFileError: a file is gone.
        DamagedFileError: it is damaged.
    """
    with ExitStack() as stack:
        paths = {
            suffix: stack.enter_context(store.local_blob(report, suffix))
            for suffix in (FAISS_BLOB, VECTORS_BLOB, FACTS_BLOB, MEANS_BLOB, LAYOUTS_BLOB)
            if suffix != LAYOUTS_BLOB or suffix in report.files
        }
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


_Key = tuple[str, str, str, SearchSettings]


class _Held:
    """The index that is open at the moment, if any."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.key: _Key | None = None
        self.index: VectorIndex | None = None
        self.stack = ExitStack()


_HELD = _Held()


@contextmanager
def cached_index(report: ShardReport, store: ShardStore, settings: SearchSettings) -> Iterator[VectorIndex]:
    """Give the opened index of a report; it stays open for the next call, until another one is asked for.

    Raises:
        MissingFileError: a file is gone.
        DamagedFileError: it is damaged.
    """
    key = (store.files.root, report.fingerprint, report.digest, settings)
    with _HELD.lock:
        if _HELD.index is None or _HELD.key != key:
            _release()
            _HELD.index = _HELD.stack.enter_context(open_index(report, store, settings))
            _HELD.key = key
        index = _HELD.index
    yield index


def release_index() -> None:
    """Close the index that is kept open; what still searches it keeps its mapped memory."""
    with _HELD.lock:
        _release()


def _release() -> None:
    """Close it; the caller holds the lock."""
    _HELD.index, _HELD.key = None, None
    _HELD.stack.close()
    _HELD.stack = ExitStack()
