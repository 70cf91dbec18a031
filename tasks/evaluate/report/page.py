"""The page of a report: one HTML file with its images, charts, style and script; every external string is escaped."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from markupsafe import Markup

from iedit_model.imaging.encode import SMALL_PX, image_url
from iedit_model.imaging.pages import render_page
from iedit_model.imaging.sheet import mask_overlay
from iedit_model.metrics.catalogue import metric_info
from storage import ShardStore
from tasks.evaluate.errors import MissingScoresError
from tasks.evaluate.history import RegressionConfig
from tasks.evaluate.record import Evaluation
from tasks.evaluate.report.names import in_order, method_title, metric_title, shown
from tasks.evaluate.report.tables import comparison_table, metric_tables, paper_tables, strata_tables
from tasks.evaluate.report.view import (
    FunnelRow,
    PairKey,
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
from tasks.evaluate.results import ALL_SETS, NOT_TRAINED, MethodScores, SweepPoint
from tasks.evaluate.sets.pixels import set_image

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class ShownPair:
    """One pair with its images, by their numbers in the album."""

    key: PairKey
    source_prompt: str
    edit_prompt: str
    word: str | None
    source: int
    mask: int | None
    edited: Mapping[str, int]
    """Method -> its image; missing where it failed."""


@dataclass(frozen=True, kw_only=True)
class Album:
    """All images of a page."""

    images: tuple[str, ...]
    """``data:`` URLs."""
    pairs: Mapping[PairKey, ShownPair]
    is_small: bool
    """Whether the images have so few pixels that each should be seen."""


def make_album(
    store: ShardStore,
    runs: Sequence[MethodScores],
    wanted: Iterable[PairKey],
    *,
    size_px: int,
    thumb_px: int = 256,
) -> Album:
    """Read the images of some pairs.

    Of several training seeds the first is shown.

    Args:
        store: where the edited images lie.
        runs: the methods.
        wanted: which pairs and seeds.
        size_px: the evaluation's frame.
        thumb_px: longest side on the page.

    Raises:
        MissingScoresError: a pair is in no set.
    """
    keys = list(dict.fromkeys(wanted))
    sets = {run.evalset.info.name: run.evalset for run in runs}
    edited = _edited_images(store, _shown_runs(runs), set(keys))
    images: list[str] = []
    pairs: dict[PairKey, ShownPair] = {}

    def add(image: "Image") -> int:
        images.append(image_url(image, thumb_px=thumb_px))
        return len(images) - 1

    frames: dict[tuple[str, str], tuple[int, int | None]] = {}
    for key in keys:
        if key.evalset not in sets:
            raise MissingScoresError(f"the set {key.evalset!r} was not evaluated")
        pair = sets[key.evalset].pair(key.pair_id)
        image_key = (key.evalset, key.pair_id)
        if image_key not in frames:
            frame = sets[key.evalset].frame(pair, size_px=size_px)
            frames[image_key] = (
                add(frame.image),
                add(mask_overlay(np.where(frame.mask, 255, 0).astype(np.uint8))) if frame.mask_known else None,
            )
        pairs[key] = ShownPair(
            key=key,
            source_prompt=pair.source_prompt,
            edit_prompt=pair.edit_prompt,
            word=pair.word,
            source=frames[image_key][0],
            mask=frames[image_key][1],
            edited={method: add(set_image(data, name=method)) for method, data in edited.get(key, {}).items()},
        )
    return Album(images=tuple(images), pairs=pairs, is_small=size_px <= SMALL_PX)


def _shown_runs(runs: Sequence[MethodScores]) -> list[MethodScores]:
    first: dict[tuple[str, str], MethodScores] = {}
    for run in sorted(runs, key=lambda run: (run.train_seed != NOT_TRAINED, run.train_seed)):
        first.setdefault((run.evalset.info.name, run.method), run)
    return list(first.values())


def _edited_images(
    store: ShardStore, runs: Sequence[MethodScores], keys: set[PairKey]
) -> dict[PairKey, dict[str, bytes]]:
    import pyarrow.compute as pc

    found: dict[PairKey, dict[str, bytes]] = {}
    for run in runs:
        name = run.evalset.info.name
        pair_ids = sorted({key.pair_id for key in keys if key.evalset == name})
        for report in run.edits:
            table = store.read_table(
                report, columns=("pair_id", "seed", "edited_image"), where=pc.field("pair_id").isin(pair_ids)
            )
            for row in table.to_pylist():
                key = PairKey(evalset=name, pair_id=row["pair_id"], seed=row["seed"])
                if key in keys:
                    found.setdefault(key, {})[run.method] = row["edited_image"]
    return found


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
        "plots": {name: [_titled(svg) for svg in plots] for name, plots in metric_plots(evaluation).items()},
        "trade_off": None if curve is None else Markup(curve),  # noqa: S704 - escaped where it is made
        "trends": [_titled(svg) for svg in trends],
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


def _titled(svg: str) -> tuple[str, Markup]:
    """Return a chart behind its own title, which is escaped in it."""
    title = svg.partition("<title>")[2].partition("</title>")[0]
    return Markup(title).unescape(), Markup(svg)  # noqa: S704 - escaped where it is made


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
    rows += [(f"Model {name}", digest) for name, digest in provenance.models.items()]
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
