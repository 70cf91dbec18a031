"""Means, intervals, comparisons and rankings of results whose values are known."""

import json
import math

import numpy as np
import pytest

from iedit_model.metrics.bootstrap import BootstrapConfig
from iedit_model.metrics.errors import TooFewSamplesError
from tasks.evaluate.errors import MissingScoresError
from tasks.evaluate.results import ALL_SETS, align, results_of
from tasks.evaluate.summary import SummaryConfig, summarise
from tests.builders.made_up_results import PAPER_LIKE, made_up

CONFIG = SummaryConfig(bootstrap=BootstrapConfig(num_resamples=400), training_clip="mini")


def test_a_method_that_is_not_trained_stands_beside_every_training_seed():
    aligned = align(made_up(PAPER_LIKE), "clip_score@mini", ("iedit", "sdedit"), ["real"])
    assert aligned.num_replicates == 2
    difference = aligned.by_method["iedit"] - aligned.by_method["sdedit"]
    by_seed = {seed: difference[np.array(aligned.replicate_ids) == seed] for seed in (0, 1)}
    np.testing.assert_allclose(by_seed[0], 4)
    np.testing.assert_allclose(by_seed[1], 5)
    assert len(aligned.pair_ids) == 8 * 2 * 2 * 2


def test_means_are_those_of_a_loop_over_the_rows():
    results = made_up(PAPER_LIKE, evalsets=("generated", "real"))
    summary = summarise(results, CONFIG, origins={"generated": "generated", "real": "real"})
    rows = results.table.to_pylist()
    for evalset in ("generated", "real", ALL_SETS):
        for method in results.methods:
            values = [
                row["clip_score@mini"]
                for row in rows
                if row["method"] == method and evalset in {row["evalset"], ALL_SETS}
            ]
            interval = summary.cell(evalset, method, "clip_score@mini")
            assert interval is not None
            assert interval.value == pytest.approx(sum(values) / len(values))
            assert interval.low <= interval.value <= interval.high
    assert (summary.num_pairs["real"], summary.num_sources["real"]) == (16, 8)
    assert (summary.num_pairs[ALL_SETS], summary.num_sources[ALL_SETS]) == (32, 16)
    assert summary.train_seeds == (0, 1)


def test_what_all_methods_share_cancels_in_a_difference_and_not_in_a_mean():
    levels = {("sdedit", None): 62.0, ("iedit", None): 63.0}
    summary = summarise(made_up(levels, noise=5), CONFIG, origins={"real": "real"})
    (found,) = (c for c in summary.comparisons if c.metric == "clip_score@mini" and c.method == "iedit")
    assert found.difference.interval.value == pytest.approx(1)
    assert found.difference.interval.high - found.difference.interval.low < 1e-9
    assert found.difference.probability_greater == 1
    assert found.win_rate.value == 1
    cell = summary.cell("real", "iedit", "clip_score@mini")
    assert cell is not None
    assert cell.high - cell.low > 1


def test_the_claims_of_the_papers_table_are_checked_on_the_set_of_its_kind():
    results = made_up(PAPER_LIKE, evalsets=("generated", "real"))
    summary = summarise(results, CONFIG, origins={"generated": "generated", "real": "real"})
    rankings = {(ranking.ranking.name, ranking.evalset): ranking for ranking in summary.rankings}
    assert {name for name, _ in rankings} == {
        *("table1a_clip_score", "table1a_ssim_zero_fill_outside", "table1b_clip_score"),
        *("table1b_ssim_zero_fill_outside", "masked_inference_over_iedit"),
    }
    first = rankings["table1a_clip_score", "generated"]
    assert first.ordering.holds
    assert first.ordering.probability > 0.9
    assert first.metric == "clip_score@mini"
    assert rankings["masked_inference_over_iedit", ALL_SETS].ordering.holds


def test_an_ordering_that_does_not_hold_is_said_not_to():
    upside_down = {("sdedit", None): 70.0, ("iedit", 0): 66.0, ("iedit_m", 0): 65.0}
    summary = summarise(made_up(upside_down), CONFIG, origins={"real": "real"})
    ranking = next(ranking for ranking in summary.rankings if ranking.ranking.name == "table1b_clip_score")
    assert not ranking.ordering.holds
    assert ranking.ordering.probability == 0
    assert ranking.paper_holds


def test_what_failed_is_counted_and_leaves_the_rest_alone():
    results = made_up({("sdedit", None): 62.0, ("iedit_m", None): 64.0}, failures=(("iedit_m", 3),))
    summary = summarise(results, CONFIG, origins={"real": "real"})
    cell = summary.cell("real", "iedit_m", "clip_score@mini")
    assert cell is not None
    assert (cell.num_values, cell.num_undefined) == (30, 2)
    (found,) = (c for c in summary.comparisons if c.metric == "clip_score@mini" and c.method == "iedit_m")
    assert found.difference.interval.num_undefined == 2
    assert found.difference.interval.value == pytest.approx(2)


def test_a_summary_is_json_without_numbers_that_json_has_not():
    results = made_up({("sdedit", None): 62.0, ("iedit", None): math.nan})
    text = json.dumps(summarise(results, CONFIG, origins={"real": "real"}).to_json(), allow_nan=False)
    cells = json.loads(text)["cells"]
    assert next(c for c in cells if c["method"] == "iedit")["interval"]["value"] is None


def test_the_same_rows_give_the_same_summary():
    results = made_up(PAPER_LIKE)
    again = results_of(results.table)
    assert summarise(again, CONFIG, origins={"real": "real"}) == summarise(results, CONFIG, origins={"real": "real"})


def test_what_was_not_scored_cannot_be_compared_and_one_image_has_no_interval():
    results = made_up(PAPER_LIKE)
    with pytest.raises(MissingScoresError, match="diffedit"):
        align(results, "clip_score@mini", ("diffedit",), ["real"])
    with pytest.raises(MissingScoresError):
        results.find_metric("lpips")
    with pytest.raises(TooFewSamplesError):
        summarise(made_up(PAPER_LIKE, num_sources=1), CONFIG, origins={"real": "real"})
