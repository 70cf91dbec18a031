"""CLIP similarities against scipy's cosine, and where they have no value."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine
from torch import Tensor

from iedit_model.metrics.clip_score import (
    clip_cosine,
    clip_directional,
    clip_image_similarity,
    clip_score,
)
from iedit_model.metrics.errors import MetricInputError


def embeds(seed: int, count: int = 6, width: int = 16) -> Tensor:
    return torch.randn((count, width), generator=torch.Generator().manual_seed(seed))


def test_the_cosine_is_scipys_whatever_the_lengths() -> None:
    first, second = embeds(0) * 7, embeds(1) * 0.01
    expected = [1 - cosine(x.double().numpy(), y.double().numpy()) for x, y in zip(first, second, strict=True)]
    assert clip_cosine(first, second).tolist() == pytest.approx(expected, abs=1e-12)
    assert clip_image_similarity(first, second).tolist() == pytest.approx(expected, abs=1e-12)


def test_clip_score_is_two_and_a_half_times_the_cosine_in_percent_and_clips_image_by_image() -> None:
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    text = torch.tensor([[0.26, math.sqrt(1 - 0.26**2)], [-0.5, 0.5]])
    scores = clip_score(image, text)
    assert scores.tolist() == pytest.approx([65.0, 0.0], abs=1e-5)
    # clipped after averaging, as torchmetrics does, the second image would pull the mean to zero
    assert scores.mean().item() == pytest.approx(32.5, abs=1e-5)


def test_the_direction_is_the_cosine_of_the_unit_differences() -> None:
    quads = [embeds(seed) for seed in range(4)]
    values = clip_directional(*quads)
    for index in range(6):
        before, after, said, asked = (quad[index].double().numpy() for quad in quads)
        unit = [vector / (vector @ vector) ** 0.5 for vector in (before, after, said, asked)]
        assert values[index].item() == pytest.approx(1 - cosine(unit[1] - unit[0], unit[3] - unit[2]), abs=1e-12)


def test_following_the_prompt_exactly_is_one_and_its_opposite_minus_one() -> None:
    source, edited = embeds(5), embeds(6)
    assert clip_directional(source, edited, source, edited).tolist() == pytest.approx([1.0] * 6)
    assert clip_directional(source, edited, edited, source).tolist() == pytest.approx([-1.0] * 6)


def test_an_unchanged_image_or_prompt_has_no_direction() -> None:
    source, edited, said, asked = (embeds(seed, count=4) for seed in range(4))
    edited[0], asked[1] = source[0], said[1]
    # lengths differ, directions do not: still no change
    edited[2] = 3 * source[2]
    values = clip_directional(source, edited, said, asked)
    assert torch.isnan(values).tolist() == [True, True, True, False]


def test_a_zero_vector_has_no_similarity() -> None:
    first, second = embeds(0, count=2), embeds(1, count=2)
    first[0] = 0
    assert torch.isnan(clip_score(first, second)).tolist() == [True, False]
    assert torch.isnan(clip_directional(first, second, second, embeds(2, count=2))).tolist() == [True, False]


@given(seed=st.integers(0, 2**16), cut=st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_the_batch_does_not_matter(seed: int, cut: int) -> None:
    quads = [embeds(seed + offset, count=9) for offset in range(4)]
    whole = clip_directional(*quads)
    parts = [clip_directional(*(quad[part] for quad in quads)) for part in (slice(None, cut), slice(cut, None))]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (torch.rand(2, 4), torch.rand(3, 4), "differ in shape"),
        (torch.rand(4), torch.rand(4), r"expected \(b, d\)"),
        (torch.tensor([[math.nan, 1.0]]), torch.rand(1, 2), "1 values that are not finite"),
    ],
)
def test_what_is_no_pair_of_embeddings_is_refused(first: Tensor, second: Tensor, said: str) -> None:
    with pytest.raises(MetricInputError, match=said):
        clip_score(first, second)


def test_image_and_text_embeddings_of_different_widths_are_refused() -> None:
    with pytest.raises(MetricInputError, match="differ in shape"):
        clip_directional(embeds(0), embeds(1), embeds(2, width=8), embeds(3, width=8))
