"""Edits a set by one method and scores every edit: CLIPScore of an encoder held out, a judge's success, true SSIM."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch

from experiments.edit_cases import EditCase
from iedit_model.editing.edit_masks import MaskConfig
from iedit_model.editing.methods import build_editor
from iedit_model.editing.registry import EditorModels, EditorSettings, editor_spec
from iedit_model.editing.settings import SamplingConfig
from iedit_model.metrics.ssim import ssim_normconv
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.source import ModelSource
from miniature.judge import Judge

if TYPE_CHECKING:
    from PIL.Image import Image

WEIGHTS: Final = Path(__file__).resolve().parents[1] / "miniature" / "weights"
METRICS: Final = ("clip_held_out", "clip_training", "success", "exact", "ssim_kept", "ssim_outside", "ssim_inside")
"""Columns of a score row. CLIPScores are 250 times a cosine; success (the new word) and exact (noun and colour) 0 or
100. SSIM in percent: outside and inside the object's true mask, and ``ssim_kept`` outside both it and the mask of an
ideal edit, since a new object may well be larger than the old one."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How edits are sampled; the same for all methods that are compared."""

    strength: float = 0.7
    guidance: float = 7.5
    num_steps: int = 30
    dilate_cells: int = 1
    """Latent cells by which automatic masks grow."""

    def settings(self, *, given: bool = False) -> EditorSettings:
        """Return the settings of the editors, with masks that are given or found by the word.

        Where the segmenter finds nothing, the edit is everywhere.
        """
        return EditorSettings(
            device=DeviceConfig(dtype="fp32"),
            sampling=SamplingConfig(
                strength=self.strength, guidance_scale=self.guidance, num_inference_steps=self.num_steps
            ),
            masks=MaskConfig(
                source="request" if given else "word", dilate_cells=self.dilate_cells, on_empty="everywhere"
            ),
            batch_size=20,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Edited:
    """What a method made of a set under one seed."""

    method: str
    images: "list[Image]"
    rows: list[dict[str, Any]]
    """One score row a case."""


def edit_and_score(
    method: str,
    cases: Sequence[EditCase],
    sampling: Sampling,
    *,
    seed: int = 0,
    tuned: Path | None = None,
    true_mask: Literal["source", "either"] | None = None,
) -> Edited:
    """Edit every case with a method and score the results.

    Args:
        method: a name of ``iedit_model.editing.methods.METHODS``, or ``target_text`` for nothing but the prompt.
        cases: the set.
        sampling: the shared settings.
        seed: of the edits' noise.
        tuned: pipeline folder of iEdit's weights.
        true_mask: give the method the object's true mask in place of the one that it finds: where the object is, or
            where it is in the source or in an ideal edit. Asks for a set whose masks are known.
    """
    models = EditorModels(
        base=_member("ldm"),
        instruct=_member("instruct_pix2pix"),
        segmenter=_member("segmenter"),
        tuned=None if tuned is None else ModelSource(name=str(tuned)),
    )
    editor = build_editor(editor_spec(method, models, sampling.settings(given=true_mask is not None)))
    requests = [case.request(seed) for case in cases]
    if true_mask is not None:
        masks = [case.mask if true_mask == "source" else case.either_mask for case in cases]
        requests = [
            replace(request, mask=None if mask is None else mask.astype(np.float32))
            for request, mask in zip(requests, masks, strict=True)
        ]
    images = [result.image for result in editor.edit(requests)]
    return Edited(method=method, images=images, rows=score(cases, images, seed=seed))


def score(cases: Sequence[EditCase], images: "Sequence[Image]", *, seed: int) -> list[dict[str, Any]]:
    """Return a row of ``METRICS`` for each edited image, NaN where a metric has no meaning."""
    texts = [case.edit_prompt for case in cases]
    held_out, training = (_judge(name).similarity(images, texts) for name in ("clip_metric", "clip"))
    readings = _judge("clip_metric").read(images)
    rows = []
    for index, (case, image, reading) in enumerate(zip(cases, images, readings, strict=True)):
        right = {"noun": reading.noun == case.noun, "colour": reading.colour == case.colour}
        known = case.noun is not None
        rows.append(
            {
                "case_id": case.case_id,
                "image_id": case.image_id,
                "kind": case.kind,
                "seed": seed,
                "clip_held_out": 250 * max(0.0, float(held_out[index])),
                "clip_training": 250 * max(0.0, float(training[index])),
                "success": 100.0 * right[case.kind] if known else math.nan,
                "exact": 100.0 * all(right.values()) if known else math.nan,
                **_ssim(case, image),
            }
        )
    return rows


def mean_scores(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of each metric over the rows where it is defined."""
    columns = {name: [row[name] for row in rows if not math.isnan(row[name])] for name in METRICS}
    return {name: float(np.mean(values)) if values else math.nan for name, values in columns.items()}


def _ssim(case: EditCase, image: "Image") -> dict[str, float]:
    if case.mask is None or case.either_mask is None:
        return dict.fromkeys(("ssim_kept", "ssim_outside", "ssim_inside"), math.nan)
    both = _tensor(case.image), _tensor(image)
    old, either = (
        ssim_normconv(*both, torch.from_numpy(mask.astype(np.float32))[None, None])
        for mask in (case.mask, case.either_mask)
    )
    return {
        "ssim_kept": 100 * float(either["ssim_normconv_outside"]),
        "ssim_outside": 100 * float(old["ssim_normconv_outside"]),
        "ssim_inside": 100 * float(old["ssim_normconv_inside"]),
    }


def _tensor(image: "Image") -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


def _member(name: str) -> ModelSource:
    return ModelSource(name=str(WEIGHTS / name))


@cache
def _judge(name: str) -> Judge:
    return Judge(WEIGHTS / name)
