"""Batches for inference: prepared ahead in threads, all of one shape, halved when the memory does not suffice.

Matrix products of another shape may sum in another order, and then a result depends on who else was in the batch. So a
short last batch is filled up: the same input gives the same bits wherever it stands, as long as the batch size holds.
"""

import gc
import itertools
import logging
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from iedit_model.errors import ConfigError, MemoryLimitError

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_CPU_ALLOCATION = re.compile(r"DefaultCPUAllocator: (can't allocate memory|not enough memory): you tried to allocate")


def prefetch(
    items: Iterable[Item], function: Callable[[Item], Result], *, num_threads: int, ahead: int
) -> Iterator[Result]:
    """Yield ``function`` of each item in order, computed in threads at most ``ahead`` items before they are asked for.

    What the function raises is raised when its item is due. Leaving the iteration early drops what was not begun.

    Args:
        items: taken one by one, only as far as they are needed.
        function: must be fit for threads.
        num_threads: 0 computes in the caller's thread.
        ahead: results that may wait; bounds the memory.

    Raises:
        ConfigError: fewer than 0 threads, or nothing ahead.
    """
    if num_threads < 0 or ahead < 1:
        raise ConfigError(f"cannot prefetch with {num_threads} threads and {ahead} items ahead; expected >= 0 and >= 1")
    return _prefetched(items, function, num_threads, ahead) if num_threads else map(function, items)


def map_batches(
    function: Callable[[Sequence[Item]], Sequence[Result]],
    items: Iterable[Item],
    *,
    batch_size: int,
    on_halving: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with its result, in order, computed in batches of exactly ``batch_size``.

    The last batch is filled up with copies of its last item, whose results are thrown away. When a batch does not fit
    into memory, this and all later ones are half as large, and a warning says so.

    Args:
        function: a result for each item of a batch, in order.
        items: taken as they are needed.
        batch_size: items a batch.
        on_halving: told the size that was too large and the next one.

    Raises:
        ConfigError: the batch size is below 1.
        MemoryLimitError: not even one item fits.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, expected 1 or more")
    return _mapped(function, iter(items), batch_size, on_halving)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the GPU or the machine has no memory left, and nothing else."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    # The CPU's allocator has no class of its own for it.
    return isinstance(error, MemoryError) or (
        type(error) is RuntimeError and _CPU_ALLOCATION.search(str(error)) is not None
    )


def _prefetched(
    items: Iterable[Item], function: Callable[[Item], Result], num_threads: int, ahead: int
) -> Iterator[Result]:
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="prefetch") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _mapped(
    function: Callable[[Sequence[Item]], Sequence[Result]],
    items: Iterator[Item],
    batch_size: int,
    on_halving: Callable[[int, int], None] | None,
) -> Iterator[tuple[Item, Result]]:
    waiting: list[Item] = []
    while True:
        waiting += itertools.islice(items, max(0, batch_size - len(waiting)))
        if not waiting:
            return
        batch = waiting[:batch_size]
        results = _tried(function, [*batch, *batch[-1:] * (batch_size - len(batch))])
        if results is None:
            if batch_size == 1:
                raise MemoryLimitError("the memory does not suffice for a batch of one: take a smaller model or image")
            logger.warning("a batch of %d did not fit into memory; going on with %d", batch_size, batch_size // 2)
            if on_halving is not None:
                on_halving(batch_size, batch_size // 2)
            batch_size //= 2
            continue
        yield from zip(batch, results, strict=False)
        del waiting[:batch_size]


def _tried(function: Callable[[Sequence[Item]], Sequence[Result]], batch: list[Item]) -> Sequence[Result] | None:
    try:
        results = function(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        if len(results) != len(batch):
            raise ConfigError(f"a batch of {len(batch)} items gave {len(results)} results")
        return results
    # Only here the error is gone, and with it the frames that hold on to the batch's memory.
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return None
