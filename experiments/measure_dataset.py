"""A built dataset against the miniature's known truth: ``python -m experiments.measure_dataset --root ROOT``.

Printed are the funnel of the build, and for the built pairs: how often the target shows what the edit prompt says (the
new noun, the new colour, both on one object, all of it: the other objects and the background too), how often it
shows the source's content again, and the IoU of both masks with the true outline of the object that is edited.

``--where`` judges only the pairs of a filter over the manifest, such as ``"split == 'train' and mask_iou > 0.5"``.

Intervals: 95 %, bootstrap over source images, copies of one image sampled together. A pair whose caption is wrong
about the source counts as not shown where its texts cannot be read; its masks have no truth and are left out.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from benchmarks.report import CONSOLE, print_provenance, print_rows
from flows.config.tree import SiteConfig
from flows.config.values import mini
from flows.reporting.version_text import find_version
from iedit_model.metrics.bootstrap import BootstrapConfig, Interval, mean_interval, sample_resamples
from miniature.pair_truth import PairTruth, PromptError, judge_pair
from miniature.site import Site
from storage import Files, VersionInfo, VersionStore
from tasks.mask.scores import mask_iou, read_mask
from tasks.pack.packed_sample import read_sample

_SITE = mini().data.source.site or SiteConfig()
"""The site that the profile mini builds from."""

Row = Mapping[str, Any]
Values = Callable[["Judged"], float]
_COLUMNS = (
    *("sample_id", "url", "target_url", "caption", "edit_prompt", "pos", "split", "sha256"),
    *("tar", "tar_offset", "tar_size"),
    *(f"{part}_member_sha256" for part in ("source", "target", "source_mask", "target_mask", "json")),
)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One pair of the dataset with what is true of it."""

    row: Row
    truth: PairTruth | None
    """None where caption and edit prompt are no sentences of the world."""
    caption_right: bool
    """The caption names the objects and the background of the source."""
    source_iou: float
    """Source mask against the object that is edited; NaN where the caption is wrong about it."""
    target_iou: float
    """Target mask against the new object; NaN where the target does not show it."""


class ForeignVersionError(Exception):
    """A version that was not built from the asked site, so that nothing is known about its images."""


def main() -> None:
    """Judge every pair of a version and print the tables."""
    options = _options()
    print_provenance("dataset against the truth")
    versions = VersionStore(Files(options.root))
    info = find_version(versions, options.version)
    site = Site(seed=options.seed, num_urls=options.urls)
    pairs = judged_pairs(versions, info, site, threshold=_threshold(info), where=options.where)
    chosen = "" if options.where is None else f", {len(pairs):,} of them where {options.where}"
    CONSOLE.print(
        f"version {info.id}, {info.num_samples:,} pairs{chosen}, site {site.seed} with {site.num_urls:,} URLs"
    )
    print_rows(("stage", "in", "out", "yield", "of all rows", "dropped"), funnel(info))
    figures = measure(pairs, origins=[str(site.original(_number(pair.row["url"], site))) for pair in pairs])
    groups = {group: int(chosen.sum()) for group, chosen in _groups(pairs).items()}
    for names in _TABLES:
        print_rows(
            ("pairs", "number", *names),
            [
                (group, f"{count:,}", *(_cell(figures[group][name]) for name in names))
                for group, count in groups.items()
            ],
        )
    CONSOLE.print(f"captions right: {_cell(figures['all']['caption right'])}")
    if options.json:
        plain = {group: {name: asdict(one) for name, one in row.items()} for group, row in figures.items()}
        options.json.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder or fsspec address of the store")
    parser.add_argument("--version", default="latest", help="id of a version, the start of one, or latest")
    parser.add_argument("--seed", type=int, default=_SITE.seed, help="site that it was built from")
    parser.add_argument("--urls", type=int, default=_SITE.num_urls, help="addresses on that site")
    parser.add_argument("--where", help="filter over the manifest; all pairs by default")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


def judged_pairs(
    versions: VersionStore, info: VersionInfo, site: Site, *, threshold: float, where: str | None = None
) -> list[Judged]:
    """Return every pair of a version, or those of a filter, with its truth.

    Args:
        versions: the store.
        info: the version.
        site: what it was built from.
        threshold: probability from which on a pixel is inside a mask.
        where: filter over the manifest (``storage.filters``); all pairs by default.

    Raises:
        ForeignVersionError: an image is not the site's.
        FilterError: ``where`` is no filter over the manifest's columns.
    """
    rows = versions.manifest(info, columns=_COLUMNS, where=where).to_pylist()
    for row in rows:
        if row["sha256"] != site.sha256(_number(row["url"], site)):
            raise ForeignVersionError(f"{row['url']} is not what site {site.seed} of {site.num_urls} URLs shows there")
    return [_judged(row, read_sample(versions.files, row), site, threshold) for row in rows]


def _judged(row: Row, parts: Mapping[str, bytes], site: Site, threshold: float) -> Judged:
    source, target = (site.scene(_number(row[name], site)) for name in ("url", "target_url"))
    try:
        truth = judge_pair(source=source, target=target, caption=row["caption"], edit_prompt=row["edit_prompt"])
    except PromptError:
        truth = None
    places = (None, None) if truth is None else (truth.source_position, truth.target_position)

    def iou(part: str, scene: Any, place: int | None) -> float:
        if place is None:
            return float("nan")
        return mask_iou(scene.masks()[place], read_mask(parts[part], threshold=threshold))

    return Judged(
        row=row,
        truth=truth,
        caption_right=row["caption"] == source.caption,
        source_iou=iou("source_mask", source, places[0]),
        target_iou=iou("target_mask", target, places[1]),
    )


def _number(url: str, site: Site) -> int:
    """Return the number of a URL on the site."""
    name = Path(urlsplit(url).path).stem
    number = int(name) if name.isdecimal() else -1
    if not 0 <= number < site.num_urls or urlsplit(url).path != urlsplit(site.address(number)).path:
        raise ForeignVersionError(f"{url} is no address of site {site.seed} with {site.num_urls} URLs")
    return number


def funnel(info: VersionInfo) -> list[Sequence[str]]:
    """Return a row a stage: what came in, what went out, and how much of all rows of the metadata is left."""
    total = info.stages[0].num_in
    return [
        (
            record.stage,
            f"{record.num_in:,}",
            f"{record.num_out:,}",
            f"{record.num_out / max(1, record.num_in):.1%}",
            f"{record.num_out / total:.1%}",
            ", ".join(f"{reason} {count}" for reason, count in record.dropped.items()),
        )
        for record in info.stages
    ]


def _true(name: str) -> Values:
    return lambda pair: float(pair.truth is not None and getattr(pair.truth, name))


FIGURES: dict[str, Values] = {
    "new noun": _true("noun"),
    "new colour": _true("colour"),
    "both": _true("thing"),
    "source again": _true("same_content"),
    "all of it": _true("shown"),
    "aligned": _true("aligned"),
    "source mask IoU": lambda pair: pair.source_iou,
    "target mask IoU": lambda pair: pair.target_iou,
    "caption right": lambda pair: float(pair.caption_right),
}
"""What is measured on each pair. Shares are those of ``PairTruth``; ``aligned`` shows all of it at the same spot."""
_TABLES = (("new noun", "new colour", "both", "source again"), tuple(FIGURES)[4:8])


def measure(pairs: Sequence[Judged], *, origins: Sequence[str]) -> dict[str, dict[str, Interval]]:
    """Return each figure of each group of pairs; all groups are measured on the same resamples.

    Args:
        pairs: all of them.
        origins: a name for each pair's source image, shared with its copies.
    """
    resamples = sample_resamples(origins, config=BootstrapConfig(num_resamples=2_000))

    def interval(values: Values, chosen: npt.NDArray[np.bool_]) -> Interval:
        measured = np.array([values(pair) for pair in pairs], np.float64)
        return mean_interval(np.where(chosen, measured, np.nan), resamples)

    return {
        group: {name: interval(values, chosen) for name, values in FIGURES.items()}
        for group, chosen in _groups(pairs).items()
    }


def _groups(pairs: Sequence[Judged]) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which pairs are in each group."""
    groups = {"all": np.ones(len(pairs), np.bool_)}
    for column, suffix in (("pos", " edits"), ("split", "")):
        values = np.array([pair.row[column] for pair in pairs])
        groups |= {f"{value}{suffix}": values == value for value in sorted(set(values.tolist()))}
    return groups


def _threshold(info: VersionInfo) -> float:
    config = next(record.config for record in info.stages if record.stage == "mask")
    threshold = config.get("threshold") if isinstance(config, dict) else None
    if not isinstance(threshold, int | float):
        raise ForeignVersionError(f"version {info.id} does not say at which probability its masks begin")
    return float(threshold)


def _cell(one: Interval) -> str:
    return f"{one.value:.2f} ({one.low:.2f}-{one.high:.2f})"


if __name__ == "__main__":
    main()
