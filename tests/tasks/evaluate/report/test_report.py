"""The report: hostile words stay words, a real browser has no complaint, and tables say what the summary says."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from iedit_model.errors import ConfigError
from iedit_model.imaging.pages import page_environment
from storage import Files
from tasks.evaluate.paper_tables import PAPER_TABLES
from tasks.evaluate.record import read_evaluation
from tasks.evaluate.report.names import in_order, method_label, method_title, percent, shown
from tasks.evaluate.report.page import ReportExtras
from tasks.evaluate.report.plots import Dot, TrendPoint, dot_plot, trend_plot
from tasks.evaluate.report.tables import metric_tables, paper_tables, strata_tables
from tasks.evaluate.report.view import FunnelRow, ReportConfig, edit_rows, ranking_views, worst_cases
from tasks.evaluate.report.write import escape_latex, evaluation_text, latex_table, write_report
from tasks.evaluate.results import SweepPoint
from tests.builders.chromium import needs_browser, page_after_scripts
from tests.builders.made_up_evaluation import evaluated
from tests.builders.made_up_results import made_up
from tests.builders.report_cases import HOSTILE, LEVELS, small_evaluation

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    evaluation, store, runs = small_evaluation(folder)
    sweep = [
        SweepPoint(method=method, strength=strength, results=made_up({(method, None): 60 + 8 * strength}))
        for method in ("sdedit", "iedit")
        for strength in (0.4, 0.8)
    ]
    funnel = [FunnelRow(stage="<plan>", num_in=2000, num_out=1800, dropped={"language": 200})]
    written = write_report(
        evaluation,
        store,
        runs,
        size_px=64,
        config=ReportConfig(title="</title><script>document.title=1</script>", worst_cases=3),
        extras=ReportExtras(sweep=sweep, funnel=funnel),
    )
    return evaluation, store, written


def page(made):
    with open(made[2].html, encoding="utf-8") as stream:  # noqa: PTH123
        return stream.read()


def test_no_word_of_others_becomes_markup(made):
    text = page(made)
    assert len(re.findall(r"<script\b", text)) == 2
    for words in HOSTILE[:3]:
        assert words not in text
    assert "<b>own</b>" not in text
    assert "&lt;b&gt;own&lt;/b&gt;" in text
    assert "onerror=" not in re.sub(r"&lt;.*?&gt;", "", text.replace("&#34;", '"')) or 'src=x onerror="' not in text
    assert "{{ 7*7 }}" in text


def test_the_page_asks_for_nothing(made):
    text = page(made)
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", text)
    assert not re.findall(r"url\((?!data:)", text)
    assert "http://" not in text
    assert "https://" not in text


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_real_browser_runs_the_page_without_a_complaint(made, width):
    dom, console = page_after_scripts(f"file://{made[2].html}", width=width)
    assert console == []
    assert "<title>&lt;/title&gt;&lt;script&gt;" in dom
    body = dom[dom.index('id="edit-table"') :]
    body = body[body.index("<tbody>") : body.index("</tbody>")]
    assert body.count("<tr>") == 50  # the first page of all edits
    assert dom.count("<svg ") >= 2 * 9 + 1


def test_every_mean_of_the_summary_stands_in_its_table(made):
    evaluation = made[0]
    for table in metric_tables(evaluation):
        evalset = table.name.removeprefix("metrics_")
        rows = {row.method: row for row in table.rows}
        assert set(rows) == set(LEVELS)
        heads = list(table.heads)
        column = heads.index("CLIPScore [mini]")
        for method in LEVELS:
            interval = evaluation.summary.cell(evalset, method, "clip_score@mini")
            assert interval is not None
            assert rows[method].cells[column].text == f"{interval.value:.2f}"


def test_the_best_and_second_best_are_marked_and_reference_rows_do_not_compete(made):
    table = next(table for table in metric_tables(made[0]) if table.name == "metrics_hostile-real")
    column = table.heads.index("SSIM-notM (zero-fill)")
    ranks = {row.method: row.cells[column].rank for row in table.rows}
    assert ranks["inpaint"] == 1
    assert ranks["iedit_m"] == 2
    assert ranks["copy_source"] == ranks["vae_round_trip"] == 0
    inside = table.heads.index("SSIM-M (zero-fill)")
    assert {row.cells[inside].rank for row in table.rows} == {0}
    fid = table.heads.index("FID [mini-vgg]")
    assert next(row for row in table.rows if row.method == "sdedit").cells[fid].rank == 1


def test_the_papers_numbers_stand_beside_ours_and_what_was_not_run_is_empty(made):
    first, second, third = paper_tables(made[0])
    rows = {row.method: row for row in first.rows}
    assert rows["sdedit"].cells[0].aside == "paper 62.58"
    assert rows["sdedit"].cells[1].aside == "paper 171"
    assert "hostile-generated" in first.caption
    assert "hostile-real" in second.caption
    assert next(row for row in third.rows if row.method == "global_ldm_loc").cells[0].text == "\N{EN DASH}"
    assert first.rows[0].title == "SDEdit"
    # What Table 1 lacks stands below it; a row of our own that is no method of the registry is an ablation.
    assert [row.method for row in first.rows[5:]] == ["inpaint", "copy_source", "vae_round_trip"]
    assert [row.method for row in third.rows[5:]] == ["<b>own</b>"]


def test_table_2_says_what_was_really_trained_whatever_the_paper_calls_the_row(made):
    trained = {"iedit": "L_mask & <replay>; 300 steps", "<b>own</b>": "L_LDM"}
    evaluation = replace(made[0], provenance=replace(made[0].provenance, trainings=trained))
    first, _, third = paper_tables(evaluation)
    said = {row.method: row.trained for row in third.rows if row.trained}
    assert said == {"iedit": trained["iedit"], "iedit_m": trained["iedit"], "<b>own</b>": "L_LDM"}
    assert not any(row.trained for row in first.rows)
    assert "Trained here for the same + masked inference: L_mask & <replay>; 300 steps." in evaluation_text(evaluation)
    assert r"L\_mask \& \textless{}replay\textgreater{}; 300 steps" in latex_table(third)


def test_plots_can_tell_all_rows_of_the_paper_apart():
    labels = [method_label(row.method) for table in PAPER_TABLES for row in table.rows]
    assert all(len(label) <= 18 for label in labels)
    assert len(set(labels)) == len({row.method for table in PAPER_TABLES for row in table.rows})


def test_strata_hold_the_means_of_their_own_edits(made):
    evaluation = made[0]
    tables = strata_tables(evaluation)
    table = next(table for table in tables if table.heads and "CLIPScore [mini]" in table.title)
    assert table.heads[:2] == ("colour", "noun")
    assert "mask 10% to 25%" in table.heads
    rows = evaluation.results.table.to_pylist()
    for column, kind in enumerate(("colour", "noun")):
        values = [row["clip_score@mini"] for row in rows if (row["method"], row["kind"]) == ("sdedit", kind)]
        cell = next(row for row in table.rows if row.method == "sdedit").cells[column]
        assert cell.text == f"{sum(values) / len(values):.2f}"
        assert cell.aside == "8 images"
    assert table.title in page(made)


def test_json_and_page_and_stored_evaluation_say_the_same(made):
    evaluation, store, written = made
    with open(written.json, encoding="utf-8") as stream:  # noqa: PTH123
        content = json.load(stream)
    assert content["evaluation"] == evaluation.id
    assert content["tables"][0]["rows"][0]["cells"][0]["text"] in page(made)
    assert content["summary"] == read_evaluation(store.files, evaluation.id).summary.to_json()


def test_latex_holds_no_command_of_others(made):
    with open(made[2].latex, encoding="utf-8") as stream:  # noqa: PTH123
        text = stream.read()
    assert text.count(r"\begin{tabular}") == 3
    assert r"\textless{}b\textgreater{}own\textless{}/b\textgreater{}" in text
    assert escape_latex(HOSTILE[5]) == r"a bus \textbackslash{}input\{/etc/passwd\} \$x\_1\$ 50 \%"
    assert escape_latex("a\\b{c}") == r"a\textbackslash{}b\{c\}"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_latex_compiles(made, tmp_path):
    table = latex_table(paper_tables(made[0])[0])
    source = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{table}\end{{document}}"
    (tmp_path / "t.tex").write_text(source)
    done = subprocess.run(["pdflatex", "-interaction=batchmode", "t.tex"], cwd=tmp_path, check=False)
    assert done.returncode == 0


def test_worst_cases_are_the_lowest_values_of_the_focused_method(made):
    evaluation = made[0]
    found = {worst.metric: worst for worst in worst_cases(evaluation, ReportConfig(worst_cases=3))}
    worst = found["clip_score@mini"]
    assert worst.method == "iedit_m"
    rows = [row for row in evaluation.results.table.to_pylist() if row["method"] == "iedit_m"]
    values = sorted(row["clip_score@mini"] for row in rows if row["clip_score@mini"] is not None)
    assert list(worst.values) == values[:3]
    assert "clip_image_similarity@mini" not in found


def test_the_rows_of_all_edits_hold_every_row_with_failures_said(made):
    rows = edit_rows(made[0])
    assert len(rows["rows"]) == made[0].results.table.num_rows
    failed = [row for row in rows["rows"] if "empty_mask" in row[1]]
    assert len(failed) == 2
    assert all(value is None for value in failed[0][3:])
    assert len(rows["heads"]) == len(rows["rows"][0])


def test_json_in_a_script_can_end_no_script():
    template = page_environment("tasks.evaluate.report").from_string("{{ edits | tojson }}")
    text = template.render(edits={"a": "</script><!--", "b": "\u2028"})
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><!--", "b": "\u2028"}


def dots_of(svg: str) -> list[float]:
    """Return where the dots of a chart stand: the marks that are filled with the colour of the methods."""
    return [float(x) for x in re.findall(r'<use [^>]*x="([\d.]+)"[^>]*fill: var\(--c0\)', svg)]


def test_a_chart_is_the_same_bytes_again_and_follows_the_colours_of_the_page():
    dots = [Dot(label="<a> $b$", value=1.0, low=0.5, high=2.0)]
    svg = dot_plot("x", dots)
    assert svg == dot_plot("x", dots)
    assert "&lt;a&gt; $b$</text>" in svg
    assert not re.findall("#[0-9a-f]{6}", svg)
    assert "http" not in svg


def test_plots_of_one_value_or_none_are_drawn():
    alone = dot_plot("x", [Dot(label="a", value=1.0, low=math.nan, high=math.nan)])
    assert len(dots_of(alone)) == 1
    nothing = dot_plot("<x>", [Dot(label="<a>", value=math.nan, low=math.nan, high=math.nan)])
    assert "undefined" in nothing
    assert "<a>" not in nothing
    assert "nan" not in (alone + nothing).replace("undefined", "")
    assert not dots_of(nothing)
    assert trend_plot("t", []).startswith("<svg")
    point = TrendPoint(when="2026-01-01", value=2.0, low=1.0, high=3.0, is_baseline=True)
    assert "baseline" in trend_plot("t", [point])


def test_a_dot_stands_where_its_value_is():
    svg = dot_plot("x", [Dot(label=str(v), value=v, low=v - 1, high=v + 1) for v in (10.0, 20.0, 30.0)])
    places = sorted(dots_of(svg))[1::3]  # each between the ends of its interval
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.05)
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("clip_score", 65.76, "65.76"),
        ("ssim_zero_fill_outside", 0.5064, "50.64"),
        ("fid", 171.02, "171.0"),
        ("clip_directional", -0.0213, "\N{MINUS SIGN}0.021"),
        ("clip_directional", -0.0001, "0.000"),
        ("kid", None, "\N{EN DASH}"),
        ("kid", math.inf, "\N{EN DASH}"),
    ],
)
def test_numbers_are_written_in_the_unit_of_their_metric(metric, value, text):
    assert shown(metric, value) == text


def test_certainty_is_never_rounded_to():
    assert [percent(share) for share in (0, 0.0001, 0.5, 0.9999, 1)] == ["0 %", "< 1 %", "50 %", "> 99 %", "100 %"]


def test_methods_stand_in_the_papers_order_with_references_last():
    assert in_order(["copy_source", "zz", "iedit_m", "sdedit"]) == ["sdedit", "iedit_m", "zz", "copy_source"]
    assert method_title("zz") == "zz"


def test_settings_without_meaning_are_refused():
    with pytest.raises(ConfigError):
        replace(ReportConfig(), gallery_pairs=-1)


def test_a_claim_that_fails_says_where_it_breaks(tmp_path):
    levels = {("sdedit", None): 66.0, ("iedit", 0): 64.0, ("iedit_m", 0): 68.0}
    made_up_one = evaluated(Files(str(tmp_path)), levels=levels)
    ranking = next(view for view in ranking_views(made_up_one) if view.text.startswith("CLIPScore on real"))
    assert ranking.verdict == "does not hold"
    assert ranking.broken_at == "iEdit above SDEdit"
    assert ranking.parts[0][:2] == ("all edits", "\N{MINUS SIGN}2.00")
    text = evaluation_text(made_up_one)
    assert "breaks at iEdit above SDEdit: all edits \N{MINUS SIGN}2.00" in text
    assert "SDEdit" in text.splitlines()[2]
    assert "(paper 65.84)" in text


def test_an_ordering_of_which_no_edit_was_scored_with_all_methods_is_not_judged(tmp_path):
    failures = {("iedit_m", pair) for pair in range(16)}
    made_up_one = evaluated(Files(str(tmp_path)), failures=failures)
    views = ranking_views(made_up_one)
    unmeasured = [view for view in views if view.verdict == "not measured"]
    masked = {view.text for view in views if "iEdit-M" in view.text or "masked" in view.text}
    assert {view.text for view in unmeasured} == masked != set()
    for view in unmeasured:
        assert (view.numbers, view.broken_at, view.parts) == ("no edit was scored with all of these methods", "", ())
    text = evaluation_text(made_up_one)
    assert "not measured (- of resamples)" in text
    assert "nan" not in text
