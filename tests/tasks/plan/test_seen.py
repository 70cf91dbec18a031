import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import sample_id
from tasks.plan.stage import SeenNumbers, url_number


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(0, 30) | st.integers(2**64 - 5, 2**64 - 1), max_size=30), max_size=12))
def test_a_number_is_new_exactly_once_as_with_a_set(batches: list[list[int]]) -> None:
    seen, twin = SeenNumbers(), set[int]()
    for batch in batches:
        expected = []
        for number in batch:
            expected.append(number not in twin)
            twin.add(number)
        assert seen.add(np.array(batch, dtype=np.uint64)).tolist() == expected
    assert len(seen) == len(twin)


def test_the_numbers_take_eight_bytes_each_in_a_few_runs() -> None:
    seen = SeenNumbers()
    rng = np.random.default_rng(0)
    for _ in range(60):
        seen.add(rng.integers(0, 2**63, 500, dtype=np.uint64))
    runs = [len(run) for run in seen._runs]
    assert sum(runs) == len(seen) == 30_000
    assert len(runs) <= 10
    assert all(longer > 2 * shorter for longer, shorter in itertools.pairwise(runs))


def test_a_urls_number_is_the_head_of_its_id() -> None:
    name = sample_id("http://e.com/")
    assert f"{url_number(name):016x}" == name[:16]
