"""The named experiments: each a set of pairs and a change of one configuration. What came out: docs/experiments.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from iedit_model.train_config import TrainConfig, paper, stable

ALIGNED: Final = "target_text_similarity > 0.88 and outside_similarity > 0.93 and mask_iou > 0.5"

PLACED: Final = (
    "target_text_similarity > 0.88 and outside_similarity > 0.93"
    " and (mask_iou > 0.65 or (pos == 'noun' and (mask_iou > 0.5 or (layout_similarity > 0.75 and mask_iou > 0.35))))"
)
"""About nine of ten of these stand in the source's place: the truth of the web site says so."""


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


START: Final = changed(stable(), num_steps=300, precision="bf16", warmup_steps=30)

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
    "placed-1e-4": Experiment(
        question="The same, a higher rate", where=PLACED, train=changed(START, learning_rate=1e-4)
    ),
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
}
