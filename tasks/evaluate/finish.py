"""From finished shards to a written evaluation: rows, distances between sets, summary."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from iedit_model.metrics.registry import SetNetwork
from storage import ShardReport, ShardStore
from tasks.evaluate.errors import MissingScoresError
from tasks.evaluate.provenance import Provenance
from tasks.evaluate.record import Evaluation, write_evaluation
from tasks.evaluate.results import MethodScores, SetFeatures, collect_results, read_features
from tasks.evaluate.set_metrics import SetMetric, set_metrics
from tasks.evaluate.summary import ALL_SETS, SummaryConfig


def finish_evaluation(
    store: ShardStore,
    runs: Sequence[MethodScores],
    references: Mapping[str, ShardReport],
    *,
    model: str,
    config: SummaryConfig,
    provenance: Provenance,
    encoders: Sequence[str],
) -> Evaluation:
    """Collect what the shards hold, summarise it and write the evaluation.

    Args:
        store: where the shards lie; the evaluation goes beside them.
        runs: every method (and training seed) on every set.
        references: set -> report of ``reference_shard``.
        model: name of the model, the history's key.
        config: what is summarised.
        provenance: what decided the numbers.
        encoders: names of the CLIP encoders; any other network's features serve FID and KID.

    Raises:
        MissingScoresError: a set has no reference, or a shard of scores is missing.
        TooFewSamplesError: there are fewer than two source images.
    """
    results = collect_results(store, runs)
    infos = {run.evalset.info.name: run.evalset.info for run in runs}
    if missing := sorted(set(infos) - set(references)):
        raise MissingScoresError(f"the set {missing[0]} has no features of its source images")
    return write_evaluation(
        store.files,
        results,
        model=model,
        config=config,
        infos=infos,
        provenance=provenance,
        distances=measure_distances(store, runs, references, encoders=encoders),
    )


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
