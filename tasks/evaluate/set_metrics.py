"""FID, KID and CMMD of a method on some sets: reference and number of images stated, intervals by leaving images out.

Each seed (and training seed) gives one set of edited images of the size that the paper would have; the number is the
mean over them. Pooling the seeds would lower FID by its floor alone.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iedit_model.metrics.catalogue import distances_of
from iedit_model.metrics.jackknife import jackknife_interval
from iedit_model.metrics.registry import SetNetwork
from storage import ShardReport, ShardStore
from tasks.evaluate.results import ALL_SETS, Floats, MethodScores, SetFeatures, read_features

Rows = npt.NDArray[np.int64]
_Distance = Callable[[Floats, Floats], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SetMetric:
    """A distance between a method's edited images and the reference set."""

    method: str
    name: str
    """With its network: ``fid@mini-vgg``."""
    value: float
    low: float
    high: float
    reference_set: str
    """Which images the reference is, in words."""
    num_reference: int
    num_edited: int
    """Edited images of one draw."""
    num_draws: int
    """Sets of edited images over which the number is a mean."""
    rank_deficient: bool
    """Whether a set has too few images for its covariance (FID alone): most of the value is floor then."""


def measure_distances(
    store: ShardStore, runs: Sequence[MethodScores], references: Mapping[str, ShardReport], *, encoders: Sequence[str]
) -> dict[str, list[SetMetric]]:
    """Return the distances of every method on every set, and on all sets together where there are several."""
    names = sorted({run.evalset.info.name for run in runs})
    sources = {name: read_features(store, [references[name]], evalset=name) for name in names}
    edited: defaultdict[str, defaultdict[int, dict[str, dict[str, SetFeatures]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for run in runs:
        name = run.evalset.info.name
        edited[run.method][run.train_seed][name] = read_features(store, run.scores, evalset=name)
    groups = {name: [name] for name in names} | ({ALL_SETS: names} if len(names) > 1 else {})
    found: dict[str, list[SetMetric]] = {}
    for group, members in groups.items():
        found[group] = []
        for network in next(iter(sources.values())):
            reference = _joined([sources[name][network] for name in members])
            words = f"the {len(reference.source_ids)} source images of {' and '.join(members)}, each once"
            for method, by_seed in sorted(edited.items()):
                # A method that could edit nothing of a set has no features there, and no distance.
                whole = [
                    by_set for by_set in by_seed.values() if all(network in by_set.get(name, {}) for name in members)
                ]
                images = [_joined([by_set[name][network] for name in members]) for by_set in whole]
                if not images:
                    continue
                kind: SetNetwork = "clip" if network in encoders else "features"
                found[group] += set_metrics(method, images, reference, reference_set=words, kind=kind)
    return found


def _joined(parts: Sequence[SetFeatures]) -> SetFeatures:
    return SetFeatures(
        network=parts[0].network,
        source_ids=tuple(source for part in parts for source in part.source_ids),
        draws=tuple(draw for part in parts for draw in part.draws),
        features=np.concatenate([part.features for part in parts]),
    )


def set_metrics(
    method: str,
    edited: Sequence[SetFeatures],
    reference: SetFeatures,
    *,
    reference_set: str,
    kind: SetNetwork,
    confidence: float = 0.95,
) -> list[SetMetric]:
    """Return the registered distances of one method that take the features of this kind of network.

    Args:
        method: its name.
        edited: features of its images through one network, one entry a training seed.
        reference: features of the source images, each image once.
        reference_set: what those are, in words.
        kind: which distances the network serves.
        confidence: of the intervals.

    Returns:
        One entry a metric; NaN where there are too few images, and NaN ends where there are too few source images.
    """
    draws = [_drawn(features, seed) for features in edited for seed in sorted(set(features.draws))]
    num_edited = min((len(draw.source_ids) for draw in draws), default=0)
    found = []
    for metric in distances_of(kind):
        value, low, high = _interval(draws, reference, metric.distance, confidence)
        found.append(
            SetMetric(
                method=method,
                name=f"{metric.infos[0].name}@{reference.network}",
                value=value,
                low=low,
                high=high,
                reference_set=reference_set,
                num_reference=len(reference.source_ids),
                num_edited=num_edited,
                num_draws=len(draws),
                rank_deficient=metric.needs_full_rank
                and min(num_edited, len(reference.features)) <= reference.features.shape[1],
            )
        )
    return found


def _drawn(features: SetFeatures, seed: int) -> SetFeatures:
    kept = [index for index, draw in enumerate(features.draws) if draw == seed]
    return SetFeatures(
        network=features.network,
        source_ids=tuple(features.source_ids[index] for index in kept),
        draws=tuple(seed for _ in kept),
        features=features.features[kept],
    )


def _interval(
    draws: Sequence[SetFeatures], reference: SetFeatures, distance: _Distance, confidence: float
) -> tuple[float, float, float]:
    """Return the mean over draws with its jackknife interval over source images."""
    sources = np.array(reference.source_ids)

    def statistic(kept: Rows) -> float:
        left = set(sources[kept])
        values = []
        for draw in draws:
            rows = [index for index, source in enumerate(draw.source_ids) if source in left]
            if min(len(rows), len(kept)) < 2:
                return math.nan
            values.append(distance(reference.features[kept], draw.features[rows]))
        return math.fsum(values) / len(values) if values else math.nan

    whole = statistic(np.arange(len(sources)))
    if len(sources) < 3 or math.isnan(whole):
        return whole, math.nan, math.nan
    found = jackknife_interval(statistic, reference.source_ids, confidence=confidence)
    return found.value, found.low, found.high
