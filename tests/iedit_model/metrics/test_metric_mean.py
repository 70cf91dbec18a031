"""The mean as sums and one division."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iedit_model.metrics.errors import MetricInputError
from iedit_model.metrics.mean import MeanState

VALUES = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=30)


@given(values=VALUES, cuts=st.lists(st.integers(0, 30), max_size=4))
def test_any_batching_and_any_merging_give_numpys_nanmean(values: list[float], cuts: list[int]) -> None:
    whole, merged = MeanState(), MeanState()
    for part in np.split(np.array(values), sorted(min(cut, len(values)) for cut in cuts)):
        whole.update(torch.from_numpy(part))
        merged.merge(MeanState().update(torch.from_numpy(part)))
    kept = [value for value in values if not math.isnan(value)]
    for state in (whole, merged):
        mean = state.compute()
        assert (mean.num_defined, mean.num_undefined) == (len(kept), len(values) - len(kept))
        expected = np.mean(kept) if kept else math.nan
        assert mean.value == pytest.approx(expected, rel=1e-9, abs=1e-8, nan_ok=True)


def test_a_short_last_batch_does_not_weigh_more() -> None:
    state = MeanState().update(torch.zeros(9)).update(torch.ones(1))
    assert state.compute().value == pytest.approx(0.1)


def test_no_value_at_all_is_no_mean() -> None:
    mean = MeanState().update(torch.full((3,), math.nan)).compute()
    assert math.isnan(mean.value)
    assert (mean.num_defined, mean.num_undefined) == (0, 3)


def test_anything_but_one_value_an_image_is_refused() -> None:
    with pytest.raises(MetricInputError, match="one an image"):
        MeanState().update(torch.zeros(2, 2))
