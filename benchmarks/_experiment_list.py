"""The named experiments: each a set of pairs and a change of one configuration. What came out: docs/experiments.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from iedit_model.train_config import TrainConfig, stable

ALIGNED: Final = "target_text_similarity > 0.88 and outside_similarity > 0.93 and mask_iou > 0.5"

PLACED: Final = (
    "target_text_similarity > 0.88 and outside_similarity > 0.93"
    " and (mask_iou > 0.65 or (pos == 'noun' and (mask_iou > 0.5 or (layout_similarity > 0.75 and mask_iou > 0.35))))"
)
"""More than eight of ten of these stand in the source's place: the truth of the web site says so."""

STRICT: Final = (
    "target_text_similarity > 0.88 and outside_similarity > 0.95"
    " and (mask_iou > 0.75 or (pos == 'noun' and (mask_iou > 0.6 or (layout_similarity > 0.8 and mask_iou > 0.4))))"
)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One fine-tuning to be tried."""

    question: str
    pairs: Literal["retrieved", "true"] = "retrieved"
    where: str | None = ALIGNED
    """Filter over the manifest."""
    train: TrainConfig = field(default_factory=stable)


def changed(base: TrainConfig, **settings: Any) -> TrainConfig:
    """Return ``base`` with some settings changed; those of the loss go by their own names."""
    losses = {name: settings.pop(name) for name in list(settings) if hasattr(base.loss, name)}
    return replace(base, loss=replace(base.loss, **losses), **settings)


STABLE: Final = changed(stable(), precision="bf16")
START: Final = changed(STABLE, learning_rate=5e-5)

EARLY: Final = changed(START, t_min=400, t_max=650, learning_rate=1e-4, replay_target_weight=0.0)

EXPERIMENTS: Final[Mapping[str, Experiment]] = {
    "start-all": Experiment(question="The starting values on all retrieved pairs", where=None, train=START),
    "start": Experiment(question="The starting values on aligned retrieved pairs", train=START),
    "start-true": Experiment(question="Upper bound: true pairs", pairs="true", where=None, train=START),
    "replay": Experiment(
        question="Control: the replay alone, which is more pretraining", train=changed(START, noise_weight=0.0)
    ),
    "rate-1e-4": Experiment(question="A higher rate", train=changed(START, learning_rate=1e-4)),
    "rate-2e-4": Experiment(question="The paper's rate", train=changed(START, learning_rate=2e-4)),
    "t-min-200": Experiment(question="The pair term from t = 200 on", train=changed(START, t_min=200)),
    "t-min-0": Experiment(question="The pair term at all t", train=changed(START, t_min=0)),
    "masks-paper": Experiment(
        question="Eq. 9's masks instead of their union", train=changed(START, mask_policy="paper")
    ),
    "judged": Experiment(
        question="L_global and L_loc beside it",
        train=changed(START, use_global=True, use_loc=True, global_weight=0.3, loc_weight=0.3),
    ),
    "replay-half": Experiment(question="Half the replay", train=changed(START, replay_target_weight=0.5)),
    "replay-none": Experiment(question="No replay", train=changed(START, replay_target_weight=0.0)),
    "replay-both": Experiment(question="Replay of the source too", train=changed(START, replay_source_weight=1.0)),
    "attention": Experiment(question="Attention layers alone", train=changed(START, layers="attention")),
    "t-min-600": Experiment(question="The pair term from t = 600 on", train=changed(START, t_min=600)),
    "placed": Experiment(question="Pairs that stand in one place, by kind of word", where=PLACED, train=START),
    "stable": Experiment(question="The same, twice the rate: what was chosen", where=PLACED, train=STABLE),
    "placed-t200": Experiment(question="The same, from t = 200 on", where=PLACED, train=changed(START, t_min=200)),
    "window-200": Experiment(
        question="The pair term where sampling passes at strength 0.5: 200 <= t < 600",
        where=PLACED,
        train=changed(START, t_min=200, t_max=600),
    ),
    "window-200-fast": Experiment(
        question="The same, 1e-4", where=PLACED, train=changed(START, t_min=200, t_max=600, learning_rate=1e-4)
    ),
    "window-300-fast": Experiment(
        question="300 <= t < 600, 1e-4", where=PLACED, train=changed(START, t_min=300, t_max=600, learning_rate=1e-4)
    ),
    "window-true": Experiment(
        question="Upper bound of window-200-fast: true pairs",
        pairs="true",
        where=None,
        train=changed(START, t_min=200, t_max=600, learning_rate=1e-4),
    ),
    "early": Experiment(
        question="Only where sampling starts (400 <= t < 650), 1e-4, no replay", where=PLACED, train=EARLY
    ),
    "early-snr": Experiment(
        question="The same with a replay that spares low t",
        where=PLACED,
        train=changed(EARLY, replay_target_weight=1.0, replay_min_snr_gamma=1.0),
    ),
    "early-attention": Experiment(
        question="The same, attention layers alone, 2e-4",
        where=PLACED,
        train=changed(EARLY, layers="attention", learning_rate=2e-4),
    ),
    "early-true": Experiment(question="Upper bound of early: true pairs", pairs="true", where=None, train=EARLY),
    "replay-twice": Experiment(
        question="placed-1e-4 with twice the replay",
        where=PLACED,
        train=changed(START, learning_rate=1e-4, replay_target_weight=2.0),
    ),
    "stricter": Experiment(
        question="placed-1e-4 on fewer, better aligned pairs",
        where=STRICT,
        train=changed(START, learning_rate=1e-4),
    ),
    "demo-100": Experiment(
        question="A small pool (2,000 URLs), 100 steps",
        where=PLACED,
        train=changed(STABLE, num_steps=100, warmup_steps=10),
    ),
    "demo-40": Experiment(
        question="The same, 40 steps", where=PLACED, train=changed(STABLE, num_steps=40, warmup_steps=10)
    ),
    "no-dropout": Experiment(
        question="stable without dropped prompts", where=PLACED, train=changed(STABLE, prompt_dropout=0.0)
    ),
    "no-ema": Experiment(question="stable without the average", where=PLACED, train=changed(STABLE, ema_decay=None)),
    "stable-true": Experiment(question="stable on true pairs", pairs="true", where=None, train=STABLE),
    "stable-t-0": Experiment(question="stable at all t", where=PLACED, train=changed(STABLE, t_min=0)),
    "stable-masks-paper": Experiment(
        question="stable with Eq. 9's masks", where=PLACED, train=changed(STABLE, mask_policy="paper")
    ),
    "stable-all": Experiment(question="stable on all pairs", where=None, train=STABLE),
}
