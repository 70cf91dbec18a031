"""The page of a report: one HTML file with its images, charts, style and script; every string of others is escaped."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from iedit_model.imaging.pages import render_page
from iedit_model.metrics.catalogue import metric_info
from storage import ShardStore
from tasks.evaluate.history import RegressionConfig
from tasks.evaluate.record import Evaluation
from tasks.evaluate.report.album import Album, PairKey, make_album
from tasks.evaluate.report.names import in_order, method_title, metric_title, shown
from tasks.evaluate.report.tables import comparison_table, metric_tables, paper_tables, strata_tables
from tasks.evaluate.report.view import (
    FunnelRow,
    ReportConfig,
    WorstCases,
    edit_rows,
    gallery_keys,
    metric_plots,
    ranking_views,
    trade_off,
    trend_plots,
    worst_cases,
)
from tasks.evaluate.results import ALL_SETS, MethodScores, SweepPoint

_SECTIONS: Final = (
    ("tables", "Tables"),
    ("rankings", "Reported rankings"),
    ("metrics", "Metrics"),
    ("plots", "Plots"),
    ("gallery", "Gallery"),
    ("worst", "Worst cases"),
    ("edits-all", "Every edit"),
    ("provenance", "Provenance"),
)


@dataclass(frozen=True, kw_only=True)
class ReportExtras:
    """What a report can show beside its evaluation."""

    sweep: Sequence[SweepPoint] = ()
    """Results at several strengths."""
    history: Sequence[Mapping[str, Any]] = ()
    """Rows of the model's history."""
    baseline: str | None = None
    """The pinned evaluation."""
    funnel: Sequence[FunnelRow] = ()
    """Stages of the training data."""


def report_html(
    evaluation: Evaluation,
    store: ShardStore,
    runs: Sequence[MethodScores],
    *,
    size_px: int,
    config: ReportConfig | None = None,
    extras: ReportExtras | None = None,
) -> str:
    """Return the page.

    Args:
        evaluation: the numbers.
        store: where the edited images lie.
        runs: the methods whose images are shown.
        size_px: side of the evaluation's frame.
        config: what is shown.
        extras: sweep, history and training data.

    Raises:
        EvalSetError: an image of a set cannot be read.
        MissingFileError: edited images are gone.
    """
    config, extras = config or ReportConfig(), extras or ReportExtras()
    worst = worst_cases(evaluation, config)
    shown_keys = gallery_keys(evaluation, config)
    wanted = [*shown_keys, *(key for cases in worst for key in cases.keys)]
    album = make_album(store, runs, wanted, size_px=size_px)
    return render_page(
        "tasks.evaluate.report",
        "report.html.j2",
        script="report.js",
        **_context(evaluation, config, extras, album, worst, shown_keys),
    )


def _context(
    evaluation: Evaluation,
    config: ReportConfig,
    extras: ReportExtras,
    album: Album,
    worst: Sequence[WorstCases],
    shown_keys: Sequence[PairKey],
) -> dict[str, Any]:
    names = [*evaluation.results.metrics, *(m.name for found in evaluation.summary.set_metrics.values() for m in found)]
    clip = f"clip_score@{evaluation.config.training_clip}"
    curve = trade_off(extras.sweep, clip=clip)
    watched = RegressionConfig()
    trends = trend_plots(extras.history, baseline=extras.baseline, metrics=watched.metrics, methods=watched.methods)
    return {
        "title": config.title,
        "subtitle": _subtitle(evaluation),
        "sections": _sections(evaluation, extras, has_curve=curve is not None, has_trends=bool(trends)),
        "confidence": f"{evaluation.config.bootstrap.confidence:.0%}",
        "album": _AlbumView(images=[Markup(a) for a in album.images], is_small=album.is_small),  # noqa: S704 - base64
        "paper_tables": paper_tables(evaluation),
        "metric_tables": metric_tables(evaluation),
        "comparisons": _comparisons(evaluation),
        "strata": strata_tables(evaluation),
        "rankings": ranking_views(evaluation),
        "plots": {name: [_drawn(svg) for svg in plots] for name, plots in metric_plots(evaluation).items()},
        "trade_off": None if curve is None else Markup(curve),  # noqa: S704 - escaped where it is drawn
        "trends": [_drawn(svg) for svg in trends],
        "methods": [
            (name, method_title(name)) for name in in_order(evaluation.results.methods) if name != "copy_source"
        ],
        "gallery": [album.pairs[key] for key in shown_keys],
        "worst_cases": [_cases(cases, album) for cases in worst],
        "funnel": extras.funnel,
        "provenance": _provenance_rows(evaluation),
        "config_text": _indented(evaluation.provenance.config),
        "definitions": [(metric_title(name), metric_info(name).definition) for name in dict.fromkeys(names)],
        "evaluation_id": evaluation.id,
        "edits": edit_rows(evaluation),
    }


@dataclass(frozen=True, kw_only=True)
class _AlbumView:
    images: list[Markup]
    is_small: bool


def _comparisons(evaluation: Evaluation) -> list[Any]:
    baselines = dict.fromkeys(comparison.baseline for comparison in evaluation.summary.comparisons)
    evalset = ALL_SETS if ALL_SETS in evaluation.summary.num_pairs else next(iter(evaluation.summary.num_pairs))
    return [comparison_table(evaluation, evalset, baseline) for baseline in baselines]


def _cases(worst: WorstCases, album: Album) -> dict[str, Any]:
    cases = [
        {"pair": album.pairs[key], "value": f"{shown(worst.metric, value)} {metric_info(worst.metric).unit}".strip()}
        for key, value in zip(worst.keys, worst.values, strict=True)
    ]
    return {"title": worst.title, "method": worst.method, "cases": cases}


def _drawn(svg: str) -> tuple[str, Markup]:
    """Return a drawing with its own title, which is escaped in it."""
    title = svg.partition("<title>")[2].partition("</title>")[0]
    return Markup(title).unescape(), Markup(svg)  # noqa: S704 - escaped where it is drawn


def _sections(
    evaluation: Evaluation, extras: ReportExtras, *, has_curve: bool, has_trends: bool
) -> list[tuple[str, str]]:
    del evaluation
    more = {"plots": [("strength", "Strength")] * has_curve + [("trend", "Trend")] * has_trends}
    if extras.funnel:
        more["edits-all"] = [("funnel", "Training data")]
    return [entry for section in _SECTIONS for entry in (section, *more.get(section[0], []))]


def _subtitle(evaluation: Evaluation) -> str:
    sets = "; ".join(f"{name}: {info.description.removesuffix('.')}" for name, info in evaluation.infos.items())
    seeds = len(evaluation.summary.train_seeds)
    trained = f" {seeds} training seeds." if seeds > 1 else ""
    return f"{len(evaluation.results.methods)} methods on {len(evaluation.infos)} sets. {sets}.{trained}"


def _provenance_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    provenance = evaluation.provenance
    commit = provenance.commit or "no repository"
    rows = [
        ("Evaluation", evaluation.id),
        ("Finished", provenance.created),
        ("Model", evaluation.model),
        ("Git commit", f"{commit}{' with changes' if provenance.is_dirty else ''}"),
        ("Code", provenance.code),
    ]
    rows += [
        (f"Set {name}", f"{digest[:16]} ({evaluation.infos[name].license})" if name in evaluation.infos else digest)
        for name, digest in provenance.evalsets.items()
    ]
    rows += [(f"Model {name}", identity) for name, identity in provenance.models.items()]
    rows += [(f"Training {name}", line) for name, line in provenance.trainings.items()]
    rows += [("Other than in the paper", line) for line in provenance.deviations]
    rows += [("Packages", ", ".join(f"{name} {number}" for name, number in provenance.packages.items()))]
    rows += [("Machine", ", ".join(f"{name} {value}" for name, value in provenance.hardware.items()))]
    boot = evaluation.config.bootstrap
    rows += [("Intervals", f"{boot.num_resamples:,} resamples of source images, seed {boot.seed}")]
    for found in evaluation.summary.set_metrics.values():
        if found:
            rows.append(("Reference of FID, KID, CMMD", found[0].reference_set))
    return rows


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False)
    except ValueError:
        return text
