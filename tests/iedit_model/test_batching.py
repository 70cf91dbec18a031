"""Batches keep their order and shape, come through a lack of memory, and are prepared ahead within bounds."""

import threading
import weakref
from collections.abc import Generator, Sequence
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iedit_model.batching import is_out_of_memory, map_batches, prefetch
from iedit_model.errors import ConfigError, MemoryLimitError

TOO_MANY_BYTES = 1 << 60


@given(st.lists(st.integers()), st.integers(1, 9))
def test_every_item_gets_its_own_result_in_batches_of_one_size(items, batch_size):
    sizes = set()

    def negate(batch: Sequence[int]) -> list[int]:
        sizes.add(len(batch))
        return [-item for item in batch]

    assert list(map_batches(negate, items, batch_size=batch_size)) == [(item, -item) for item in items]
    assert sizes <= {batch_size}


def test_the_bits_of_a_result_do_not_depend_on_its_neighbours():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(97, generator=generator) for _ in range(23)]
    layer = torch.randn(97, 61, generator=generator)

    def product(batch: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return list(torch.stack(list(batch)) @ layer)

    whole = [result for _, result in map_batches(product, rows, batch_size=8)]
    for start in range(1, 8):
        part = [result for _, result in map_batches(product, rows[start:], batch_size=8)]
        assert all(torch.equal(left, right) for left, right in zip(whole[start:], part, strict=True))


@given(st.integers(0, 40), st.integers(1, 16), st.integers(1, 16))
@settings(max_examples=15)  # each halving collects the garbage of the whole test run
def test_too_large_batches_are_halved_until_they_fit(num_items, batch_size, largest):
    halvings = []

    def double(batch: Sequence[int]) -> list[int]:
        if len(batch) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [2 * item for item in batch]

    found = list(
        map_batches(double, range(num_items), batch_size=batch_size, on_halving=lambda *sizes: halvings.append(sizes))
    )
    assert found == [(item, 2 * item) for item in range(num_items)]
    expected, size = [], batch_size
    while num_items and size > largest:
        expected.append((size, size // 2))
        size //= 2
    assert halvings == expected


def test_a_real_lack_of_main_memory_is_recognised_and_survived(caplog):
    def allocate(batch: Sequence[int]) -> list[int]:
        if len(batch) > 2:
            torch.empty(TOO_MANY_BYTES, dtype=torch.uint8)
        return list(batch)

    assert list(map_batches(allocate, range(5), batch_size=8)) == [(item, item) for item in range(5)]
    assert [record.getMessage() for record in caplog.records] == [
        "a batch of 8 did not fit into memory; going on with 4",
        "a batch of 4 did not fit into memory; going on with 2",
    ]


def test_the_failed_try_is_forgotten_before_the_next_one():
    held = []

    class Activations:
        pass

    def forget(batch: Sequence[int]) -> list[int]:
        assert all(kept() is None for kept in held)
        if len(batch) > 1:
            activations = Activations()
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("no memory")
        return list(batch)

    assert len(list(map_batches(forget, range(3), batch_size=4))) == 3
    assert len(held) == 2


def test_one_item_that_does_not_fit_is_an_error():
    def never(batch: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(MemoryLimitError):
        list(map_batches(never, range(3), batch_size=4))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("the page said: not enough memory: you tried to allocate"),
        type("CustomError", (RuntimeError,), {})("DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
        ValueError("out of memory"),
    ],
)
def test_other_errors_are_passed_on(error):
    def fail(batch: Sequence[int]) -> list[int]:
        raise error

    assert not is_out_of_memory(error)
    with pytest.raises(type(error)):
        list(map_batches(fail, range(3), batch_size=2))


def test_a_function_that_loses_items_is_caught():
    with pytest.raises(ConfigError, match="gave 1 results"):
        list(map_batches(lambda batch: batch[:1], range(3), batch_size=2))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_empty_batch_is_refused(batch_size):
    with pytest.raises(ConfigError):
        map_batches(list, [1], batch_size=batch_size)


@given(st.lists(st.integers(), max_size=30), st.integers(0, 4), st.integers(1, 7))
@settings(max_examples=30)
def test_prefetching_keeps_the_order(items, num_threads, ahead):
    found = prefetch(items, lambda item: item + 1, num_threads=num_threads, ahead=ahead)
    assert list(found) == [item + 1 for item in items]


def test_prefetching_is_bounded():
    taken = []

    def source():
        for item in range(100):
            taken.append(item)
            yield item

    results = cast("Generator[int]", prefetch(source(), lambda item: item, num_threads=2, ahead=5))
    for expected in range(10):
        assert next(results) == expected
        assert len(taken) <= expected + 5
    results.close()
    assert len(taken) < 20


def test_prefetching_works_on_several_items_at_once():
    together = threading.Barrier(3)
    found = prefetch(range(6), lambda item: together.wait(timeout=60) >= 0 and item, num_threads=3, ahead=6)
    assert list(found) == list(range(6))


def test_an_error_comes_when_its_item_is_due():
    results = prefetch([1, 0, 2], lambda item: 1 / item, num_threads=2, ahead=3)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(("num_threads", "ahead"), [(-1, 1), (1, 0)])
def test_prefetching_refuses_impossible_bounds(num_threads, ahead):
    with pytest.raises(ConfigError):
        prefetch([1], abs, num_threads=num_threads, ahead=ahead)
