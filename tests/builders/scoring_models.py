"""The miniature's networks for tests of the evaluation, and a set of a few pairs."""

from pathlib import Path
from typing import Any

import numpy as np

from iedit_model.imaging.encode import encode_image
from iedit_model.models.clip import ClipSpec
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.source import ModelSource
from miniature.evalsets import real_pairs
from tasks.evaluate.networks import FeatureSpec, NamedClip, ScoringConfig
from tasks.evaluate.sets.evalset import EvalSetInfo
from tasks.evaluate.sets.folder import NewPair, write_evalset

WEIGHTS = Path(__file__).parents[2] / "miniature" / "weights"
CPU = DeviceConfig(device="cpu", dtype="fp32")


def member(name):
    return ModelSource(str(WEIGHTS / name))


SCORING = ScoringConfig(
    training_clip=NamedClip(name="mini", spec=ClipSpec(model=member("clip"), device=CPU)),
    held_out_clip=NamedClip(name="held-out", spec=ClipSpec(model=member("clip_metric"), device=CPU)),
    features=FeatureSpec(kind="vgg", source=member("perceptual"), name="mini-vgg", device=CPU),
    batch_size=4,
)


def few_pairs(root, *, num_pairs=6, name="few", origin: Any = "real", without_mask=(), empty_mask=()):
    """Write the first pairs of the miniature's real set; some of them without a mask, or with an empty one."""
    rows = []
    for number, (index, pair) in enumerate(real_pairs()[:num_pairs]):
        mask = pair.source.masks()[pair.position]
        mask = None if number in without_mask else np.zeros_like(mask) if number in empty_mask else mask
        rows.append(
            NewPair(
                pair_id=f"{number:04d}",
                image_id=f"scene-{index:03d}",
                image=encode_image(pair.source.render()),
                source_prompt=pair.source.caption,
                edit_prompt=pair.edit_prompt,
                word=pair.source.objects[pair.position].noun,
                instruction=pair.instruction,
                kind=pair.kind,
                mask=mask,
                mask_origin="none" if mask is None else "truth",
            )
        )
    return write_evalset(root, EvalSetInfo(name=name, origin=origin, description="A few pairs."), rows)
