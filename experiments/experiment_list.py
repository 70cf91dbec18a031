"""The named experiments: each a set of pairs and a change of one configuration. What came out: docs/experiments.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from flows.config.values import WELL_ALIGNED
from iedit_model.training.config import TrainConfig, stable

ALIGNED: Final = "target_text_similarity > 0.88 and outside_similarity > 0.93 and mask_iou > 0.5"

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

EXPERIMENTS: Final[Mapping[str, Experiment]] = {
    "start-all": Experiment(question="The starting values on all retrieved pairs", where=None, train=START),
    "start": Experiment(question="The starting values on aligned retrieved pairs", train=START),
    "start-true": Experiment(question="Upper bound: true pairs", pairs="true", where=None, train=START),
    "replay": Experiment(
        question="Control: the replay alone, which is more pretraining", train=changed(START, noise_weight=0.0)
    ),
    "placed": Experiment(question="Pairs that stand in one place, by kind of word", where=WELL_ALIGNED, train=START),
    "stable": Experiment(question="The same, twice the rate: what was chosen", where=WELL_ALIGNED, train=STABLE),
    "window-200-fast": Experiment(
        question="The pair term at 200 <= t < 600", where=WELL_ALIGNED, train=changed(STABLE, t_min=200, t_max=600)
    ),
    "window-300-fast": Experiment(
        question="The pair term at 300 <= t < 600", where=WELL_ALIGNED, train=changed(STABLE, t_min=300, t_max=600)
    ),
    "early": Experiment(
        question="400 <= t < 650 and no replay",
        where=WELL_ALIGNED,
        train=changed(STABLE, t_max=650, target_denoising_weight=0.0),
    ),
    "demo-100": Experiment(
        question="A small pool, 100 steps", where=WELL_ALIGNED, train=changed(STABLE, num_steps=100, warmup_steps=10)
    ),
    "stable-all": Experiment(question="stable on all pairs", where=None, train=STABLE),
    "stable-true": Experiment(question="stable on true pairs", pairs="true", where=None, train=STABLE),
    "stricter": Experiment(question="stable on fewer, better aligned pairs", where=STRICT, train=STABLE),
    "no-replay": Experiment(
        question="stable without the replay", where=WELL_ALIGNED, train=changed(STABLE, target_denoising_weight=0.0)
    ),
    "no-dropout": Experiment(
        question="stable without dropped prompts", where=WELL_ALIGNED, train=changed(STABLE, prompt_dropout=0.0)
    ),
    "no-ema": Experiment(
        question="stable without the average", where=WELL_ALIGNED, train=changed(STABLE, ema_decay=None)
    ),
    "no-warm-up": Experiment(
        question="stable at its full rate at once", where=WELL_ALIGNED, train=changed(STABLE, warmup_steps=0)
    ),
    "no-clipping": Experiment(
        question="stable with gradients as they are", where=WELL_ALIGNED, train=changed(STABLE, max_grad_norm=None)
    ),
    "all-t": Experiment(
        question="stable with the pair term at all t", where=WELL_ALIGNED, train=changed(STABLE, t_min=0)
    ),
    "masks-paper": Experiment(
        question="stable with Eq. 9's masks", where=WELL_ALIGNED, train=changed(STABLE, mask_policy="paper")
    ),
    "judged": Experiment(
        question="stable with L_global and L_loc beside it",
        where=WELL_ALIGNED,
        train=changed(STABLE, use_global=True, use_loc=True, global_weight=0.3, loc_weight=0.3),
    ),
    "eq12": Experiment(
        question="stable with all of Eq. 12: L_global, L_loc and L_perc at their full weight",
        where=WELL_ALIGNED,
        train=changed(STABLE, use_global=True, use_loc=True, use_perc=True),
    ),
}
