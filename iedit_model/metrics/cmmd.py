"""CMMD (Jayasumana et al. 2024, arXiv:2401.09603): squared MMD of CLIP embeddings under a Gaussian kernel."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from iedit_model.metrics.checks import require_feature_sets
from iedit_model.metrics.errors import MetricInputError
from iedit_model.metrics.mmd import gaussian_kernel, squared_mmd

SIGMA = 10.0
"""Width of the kernel, as published."""
SCALE = 1000.0
"""Factor that makes the number readable, as published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CmmdResult:
    """A CMMD and all it depends on."""

    value: float
    """1000 times the squared MMD."""
    unbiased: bool
    """Whether an image's similarity to itself was left out; the published code keeps it."""
    encoder: str
    """The CLIP model's name; published numbers use ViT-L/14 at 336 px."""
    reference_set: str
    """What the images are compared with, in words."""
    num_reference: int
    """Images in the reference set."""
    num_edited: int
    """Edited images."""

    @property
    def name(self) -> str:
        """The result's name: ``cmmd@encoder`` or ``cmmd_unbiased@encoder``."""
        return f"cmmd{'_unbiased' if self.unbiased else ''}@{self.encoder}"


def cmmd(reference: Tensor, edited: Tensor, *, encoder: str, reference_set: str, unbiased: bool = False) -> CmmdResult:
    """Return 1000 times the squared MMD of unit CLIP embeddings, kernel exp(-|x - y|^2 / (2 * 10^2)).

    Float64 matters: on the unit sphere the kernel stays within [0.98, 1] and the result is the difference of means.
    With small sets the biased value has a floor of about 1000 (1 / n + 1 / m) (1 - mean k): use ``unbiased``.

    Args:
        reference: CLIP image embeddings (n, d) of the reference images, scaled to unit length here.
        edited: CLIP image embeddings (m, d) of the edited images.
        encoder: the CLIP model's name.
        reference_set: which images the reference is, as the table will say it.
        unbiased: leave an image's similarity to itself out.

    Raises:
        MetricInputError: the sets do not fit each other, or an embedding is zero or not finite.
        TooFewSamplesError: a set is empty, or has one image only where ``unbiased`` needs two.
    """
    reference, edited = require_feature_sets(reference, edited, minimum=2 if unbiased else 1)
    kernel = partial(gaussian_kernel, sigma=SIGMA)
    value = SCALE * squared_mmd(_unit(reference), _unit(edited), kernel, unbiased=unbiased)
    return CmmdResult(
        value=value,
        unbiased=unbiased,
        encoder=encoder,
        reference_set=reference_set,
        num_reference=len(reference),
        num_edited=len(edited),
    )


def _unit(embeds: Tensor) -> Tensor:
    norms = embeds.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        raise MetricInputError(f"{int((norms == 0).sum())} embeddings are zero and have no direction")
    return embeds / norms
