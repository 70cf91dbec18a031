"""An evaluation that nobody ran, written as a real one is."""

from dataclasses import replace

from iedit_model.metrics.bootstrap import BootstrapConfig
from tasks.evaluate.record import Provenance, write_evaluation
from tasks.evaluate.sets.evalset import EvalSetInfo
from tasks.evaluate.summary import SetMetric, SummaryConfig
from tests.builders.made_up_results import PAPER_LIKE, made_up

PROVENANCE = Provenance(
    created="2026-01-02T03:04:05+00:00",
    commit="abc",
    is_dirty=False,
    code="c0de",
    config="{}",
    models={"iedit": "weights-1"},
    evalsets={"real": "set-1"},
    packages={},
    hardware={},
)
CONFIG = SummaryConfig(bootstrap=BootstrapConfig(num_resamples=200), training_clip="mini")
INFOS = {"real": EvalSetInfo(name="real", origin="real", description="Made up.")}


def fid(value):
    return SetMetric(
        method="iedit",
        name="fid@vgg",
        value=value,
        low=value - 2,
        high=value + 2,
        reference_set="sources",
        num_reference=8,
        num_edited=16,
        num_sets=2,
        rank_deficient=True,
    )


def evaluated(files, *, day="02", lowered=0.0, distance=100.0, levels=None, failures=(), **changes):
    """Write an evaluation of made-up levels; iEdit's can be lowered, its FID be another."""
    levels = levels or PAPER_LIKE
    levels = {key: level - (lowered if key[0].startswith("iedit") else 0) for key, level in levels.items()}
    provenance = replace(PROVENANCE, created=f"2026-01-{day}T03:04:05+00:00", **changes)
    return write_evaluation(
        files,
        made_up(levels, failures=failures),
        model="mini",
        config=CONFIG,
        infos=INFOS,
        provenance=provenance,
        distances={"real": [fid(distance)]},
    )
