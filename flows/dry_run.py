"""``iedit build --dry-run``: build a sample of the URLs aside, and say what the whole would give and take."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from flows.build_dataset import build_dataset
from flows.config.overrides import merged
from flows.config.profiles import Profile, Recipe, resolve
from flows.reporting.progress import CompositeProgress, StageTotals, current_progress, shown
from flows.reporting.version_text import table_lines
from flows.sources import open_source
from storage import Files, ShardReport, ShardStore, StageRecord, VersionStore
from tasks.plan.stage import STAGE, plan_shards

SHARE: Final = 0.01
"""Share of the URLs in the sample."""
LEAST: Final = 400
"""URLs in the sample at least, if there are so many: fewer would find hardly any pair."""

_MOST_AGAIN: Final = 2000
"""Up to so many URLs the work on the sample is done twice, since the start of a process is much of the first time."""


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What one stage would do."""

    stage: str
    num_in: int
    num_out: int
    seconds: float
    """Time of one worker."""
    num_bytes: int
    """Bytes on disk."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a whole build would do, as a sample of it did."""

    share: float
    """Share of the URLs in the sample."""
    pairs: int
    hours: float
    """Time with the configured workers, hours; downloads beside the stages that compute."""
    gigabytes: float
    stages: tuple[StageEstimate, ...]

    def as_values(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def estimate(
    profile: Profile, config: Mapping[str, Any], *, recipe: Recipe = "ours", metadata: str | None = None
) -> Estimate:
    """Return the estimate of a build; it leaves nothing behind.

    Raises:
        ConfigError: a setting does not exist or cannot have that value.
        EmptyVersionError: the sample gave no pair, so that nothing can be said.
    """
    resolved = resolve(profile, config, recipe=recipe, metadata=metadata)
    data, runner = resolved.data, resolved.run.runner
    with tempfile.TemporaryDirectory(prefix="iedit-dry-run-") as folder, open_source(data.source) as address:
        plan = plan_shards(address, data.plan, ShardStore.at(f"{folder}/plan"))
        whole = _planned(plan.reports, _sizes(Files(f"{folder}/plan")))
        share = min(1.0, max(SHARE, LEAST / whole.num_out))
        sample = merged(config, {"data.plan.sample_share": share * data.plan.sample_share})
        build = partial(build_dataset, profile=profile, recipe=recipe, metadata=metadata, config=sample)
        first = again = StageTotals()
        with shown(CompositeProgress([current_progress(), first])):
            version = build(f"{folder}/store")
        if share * whole.num_out <= _MOST_AGAIN:
            again = StageTotals()
            for stage in (STAGE.name, "download"):
                shutil.copytree(f"{folder}/store/{stage}", f"{folder}/again/{stage}")
            with shown(again):
                build(f"{folder}/again")
        files = Files(f"{folder}/store")
        records = VersionStore(files).load(version).stages
        sizes = _sizes(files)
    stages = (whole, *_scaled(records, first.seconds, again.seconds, sizes, whole))
    return Estimate(
        share=share,
        pairs=stages[-1].num_out,
        hours=_hours(stages, workers=runner.workers, downloads=runner.downloads),
        gigabytes=sum(stage.num_bytes for stage in stages) / 1e9,
        stages=stages,
    )


def estimate_lines(found: Estimate) -> list[str]:
    """Return an estimate as lines of text."""
    rows = [
        (
            stage.stage,
            f"{stage.num_in:,}",
            f"{stage.num_out:,}",
            _time(stage.seconds),
            f"{stage.num_bytes / 1e6:,.1f} MB",
        )
        for stage in found.stages
    ]
    size, time = f"{found.gigabytes:,.2f} GB", _time(found.hours * 3600)
    return [
        *table_lines(("stage", "in", "out", "one worker", "disk"), rows, right=(1, 2, 3, 4)),
        f"expected, from {found.share:.1%} of the URLs: {found.pairs:,} pairs, {time}, {size}",
        "A larger corpus finds more targets, which is reckoned from the sample; the true yield may be a third off.",
    ]


def _planned(reports: Sequence[ShardReport], sizes: Mapping[str, int]) -> StageEstimate:
    """Return what the plan of the whole did: it is quick enough to be made and not guessed."""
    return StageEstimate(
        stage=STAGE.name,
        num_in=sum(report.num_in for report in reports),
        num_out=sum(report.num_out for report in reports),
        seconds=sum(report.seconds for report in reports),
        num_bytes=sizes.get(STAGE.name, 0),
    )


def _scaled(
    records: Sequence[StageRecord],
    first: Mapping[str, float],
    again: Mapping[str, float],
    sizes: Mapping[str, int],
    whole: StageEstimate,
) -> list[StageEstimate]:
    """Return what the stages after the plan would do; what comes in to one is what the one before would let through.

    Args:
        records: of the sample.
        first: stage -> seconds of the sample.
        again: stage -> seconds of the same work in a process that has loaded everything: what grows.
        sizes: stage -> bytes of the sample.
        whole: the plan of the whole.
    """
    (sampled,) = (record.num_out for record in records if record.stage == STAGE.name)
    factor = whole.num_out / sampled
    found: list[StageEstimate] = []
    arrived = whole.num_out
    for record in records:
        if record.stage == STAGE.name:
            continue
        grown = arrived / record.num_in if record.num_in else factor
        passed = record.num_out * grown
        if record.stage == "retrieve":
            passed = arrived * _found_in_all(record, factor)
        found.append(
            StageEstimate(
                stage=record.stage,
                num_in=round(record.num_in * grown),
                num_out=round(passed),
                seconds=first.get(record.stage, 0.0) + (grown - 1) * again.get(record.stage, 0.0),
                num_bytes=round(sizes.get(record.stage, 0) * grown),
            )
        )
        arrived = round(passed)
    return found


def _found_in_all(record: StageRecord, factor: float) -> float:
    """Return the share of sources that find a target in a corpus ``factor`` times as large.

    A source finds one with so many chances as there are images, and sources differ in how good theirs are. Where these
    are spread exponentially, as most are poor, the odds grow as the corpus does.
    """
    asked = record.num_in - sum(count for reason, count in record.dropped.items() if reason != "all_gated")
    lacking = asked - record.num_out
    return factor * record.num_out / (factor * record.num_out + lacking) * asked / record.num_in if asked else 0.0


def _sizes(files: Files) -> dict[str, int]:
    """Return the bytes of each stage's folder."""
    sizes: dict[str, int] = {}
    for path, stat in files.stats().items():
        stage = Path(path).parts[0]
        sizes[stage] = sizes.get(stage, 0) + stat.size
    return sizes


def _hours(stages: tuple[StageEstimate, ...], *, workers: int, downloads: int) -> float:
    download = sum(stage.seconds for stage in stages if stage.stage == "download") / downloads
    compute = sum(stage.seconds for stage in stages if stage.stage != "download") / workers
    return max(download, compute) / 3600


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
