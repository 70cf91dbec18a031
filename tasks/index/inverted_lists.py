"""faiss indexes over unit vectors: a full search for small corpora, inverted lists found by k-means for large ones."""

import math
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from iedit_model.configuration import Seed, configuration
from tasks.embed.rows import Float16s
from tasks.embed.vectors import unit_rows

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
