"""The paper's tables as they are printed, and what their numbers say about the rankings beside them."""

import pytest

from iedit_model.training.config import table2_rows
from tasks.evaluate.paper_tables import PAPER_METRICS, PAPER_TABLES, REPORTED_RANKINGS, TABLE_1A, TABLE_1B, TABLE_2


def test_the_counts_and_some_cells_are_those_of_the_paper():
    assert [(t.num_pairs, t.num_images) for t in PAPER_TABLES] == [(70, 20), (52, 30), (122, 50)]
    assert TABLE_1A.rows[4].values == (66.36, 114, 83.08, 78.18)
    assert TABLE_1B.rows[0].values == (65.84, 180, 74.36, 64.60)
    assert TABLE_2.rows[1].values == (65.62, 156, 79.61, 62.08)
    assert [len(table.rows) for table in PAPER_TABLES] == [5, 5, 5]


def test_the_papers_percentages_of_gain_follow_from_its_table():
    # "iEdit-M is better by +3.78% ... compared to SDEdit": points of CLIPScore, in Section 4.3
    sdedit, ours = TABLE_1A.row("sdedit"), TABLE_1A.row("iedit_m")
    assert sdedit is not None
    assert ours is not None
    assert ours.values[0] - sdedit.values[0] == pytest.approx(3.78)


def test_the_tables_do_not_agree_exactly_where_they_should():
    weighted = []
    for method in ("iedit", "iedit_m"):
        rows = TABLE_1A.row(method), TABLE_1B.row(method)
        assert rows[0] is not None
        assert rows[1] is not None
        weighted.append((70 * rows[0].values[0] + 52 * rows[1].values[0]) / 122)
    assert weighted == pytest.approx([66.30, 66.82], abs=0.005)


def test_the_rows_of_table_2_are_the_rows_that_the_training_knows():
    assert [row.method for row in TABLE_2.rows] == list(table2_rows())[:5]


def test_one_claim_of_the_text_is_contradicted_by_the_table_beside_it():
    wrong = [ranking.name for ranking in REPORTED_RANKINGS if not ranking.paper_holds]
    assert wrong == ["edit_data_over_caption_data_clip_score"]
    assert all(ranking.metric in PAPER_METRICS for ranking in REPORTED_RANKINGS)
    assert len({ranking.name for ranking in REPORTED_RANKINGS}) == len(REPORTED_RANKINGS)
