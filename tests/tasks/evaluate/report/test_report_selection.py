"""Which methods and metrics stand in a table, and in which order."""

from dataclasses import replace

import pytest

from storage import Files
from tasks.evaluate.report.names import catalogue_order, methods_on, metrics_on, of_all_networks
from tasks.evaluate.report.tables import metric_tables
from tests.builders.made_up_evaluation import evaluated


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return evaluated(Files(str(tmp_path_factory.mktemp("selection"))))


def test_metrics_stand_as_in_the_catalogue_and_the_named_network_before_the_others():
    names = ["psnr_outside", "clip_score@b", "ssim", "clip_score@c", "clip_score@a", "clip_cosine@a"]
    rest = ["clip_cosine@a", "ssim", "psnr_outside"]
    assert catalogue_order(names) == ["clip_score@a", "clip_score@b", "clip_score@c", *rest]
    assert catalogue_order(names, first="clip_score@b") == ["clip_score@b", "clip_score@a", "clip_score@c", *rest]


def test_distances_stand_among_the_metrics_of_the_sets_that_have_them(evaluation):
    measured = ["clip_score@held-out", "clip_score@mini", "ssim_zero_fill_outside"]
    assert metrics_on(evaluation, "real")[:3] == measured
    assert sorted(metrics_on(evaluation, "real")) == sorted([*measured, "fid@vgg", "mask_area"])
    assert "fid@vgg" not in metrics_on(evaluation, "another set")


def test_a_table_begins_with_the_clip_score_of_the_training(evaluation):
    heads = metric_tables(evaluation)[0].heads
    assert [head for head in heads if "CLIPScore" in head] == ["CLIPScore [mini]", "CLIPScore [held-out]"]


def test_only_methods_with_numbers_on_the_set_are_shown(evaluation):
    assert methods_on(evaluation, "real") == ["sdedit", "instruct_pix2pix", "iedit", "iedit_m"]
    summary = evaluation.summary
    cells = tuple(cell for cell in summary.cells if cell.method != "iedit") + tuple(
        replace(cell, evalset="other") for cell in summary.cells if cell.method == "iedit"
    )
    split = replace(evaluation, summary=replace(summary, cells=cells))
    assert methods_on(split, "real") == ["sdedit", "instruct_pix2pix", "iedit_m"]
    assert methods_on(split, "other") == ["iedit"]


def test_a_metric_of_several_networks_comes_with_each_of_them(evaluation):
    wanted = ["ssim_zero_fill_outside", "lpips", "clip_score"]
    found = ["ssim_zero_fill_outside", "clip_score@held-out", "clip_score@mini"]
    assert of_all_networks(evaluation, wanted) == found
