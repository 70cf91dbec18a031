"""Every loss against a float64 loop over the printed equation, with its identities and its gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iedit_model.schedule import scaled_linear_alphas_cumprod
from iedit_model.training.config import LossConfig, MaskPolicy
from iedit_model.training.losses import (
    MaskedNoiseLoss,
    clip_distance,
    combined_loss,
    ldm_loss,
    localised_loss,
    mask_weights,
    masked_noise_loss,
    paired_loss,
    perceptual_loss,
)
from iedit_model.training.terms import term_weights
from tests.references import iedit_equations as reference

ALPHAS = scaled_linear_alphas_cumprod()
POLICIES: tuple[MaskPolicy, ...] = ("paper", "fg_priority", "union")
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def noises(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    return randn(seed, *shape, dtype=dtype), randn(seed + 1, *shape, dtype=dtype), randn(seed + 2, *shape, dtype=dtype)


def masks(seed: int, shape: tuple[int, ...], *, soft: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, two = (torch.rand((shape[0], 1, *shape[2:]), generator=generator) for _ in range(2))
    return (one, two) if soft else ((one > 0.5).float(), (two > 0.4).float())


def as_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.double().numpy()


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.integers(0, 10_000))
def test_the_plain_noise_losses_are_the_mean_square_of_each_sample(shape, seed):
    noise_pred, noise, target = noises(seed, shape)
    for values, wanted in ((ldm_loss(noise_pred, noise), noise), (paired_loss(noise_pred, target), target)):
        expected = [reference.mean_square(as_numpy(noise_pred[i]), as_numpy(wanted[i])) for i in range(shape[0])]
        assert values.tolist() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(2, 20), st.integers(0, 10_000))
def test_the_clip_distance_is_one_minus_the_cosine(batch, width, seed):
    image_embeds, text_embeds = randn(seed, batch, width), randn(seed + 1, batch, width)
    expected = [
        reference.clip_distance(as_numpy(a), as_numpy(b)) for a, b in zip(image_embeds, text_embeds, strict=True)
    ]
    assert clip_distance(image_embeds, text_embeds).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert torch.equal(localised_loss(image_embeds, text_embeds), clip_distance(image_embeds, text_embeds))


def test_the_clip_distance_ignores_length_and_spans_zero_to_two():
    embeds = randn(0, 3, 8)
    assert clip_distance(embeds, 7 * embeds).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert clip_distance(embeds, -embeds).tolist() == pytest.approx([2, 2, 2], rel=1e-6)


def test_the_clip_distance_of_nearly_equal_vectors_keeps_its_digits():
    embeds = torch.tensor([[1.0, 0.0]])
    near = torch.tensor([[1.0, 1e-4]])
    assert float(clip_distance(embeds, near)) == pytest.approx(5e-9, rel=1e-4)  # 1 - cos in fp32 would give 0


@settings(max_examples=20, deadline=None)
@given(SHAPES, st.integers(0, 10_000))
def test_the_masked_loss_is_the_printed_equation_for_soft_masks_too(shape, seed):
    noise_pred, noise, target = noises(seed, shape)
    for soft in (False, True):
        source_mask, target_mask = masks(seed, shape, soft=soft)
        ours = masked_noise_loss(noise_pred, noise, target, source_mask, target_mask)
        for i in range(shape[0]):
            expected = reference.masked_terms(
                as_numpy(noise_pred[i]),
                as_numpy(noise[i]),
                as_numpy(target[i]),
                as_numpy(source_mask[i, 0]),
                as_numpy(target_mask[i, 0]),
            )
            assert (float(ours.foreground[i]), float(ours.background[i])) == pytest.approx(expected, rel=1e-5, abs=1e-9)
        assert torch.equal(ours.total, ours.foreground + ours.background)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("by_area", [False, True])
def test_each_policy_asks_each_region_for_its_noises(policy, by_area):
    shape = (3, 4, 6, 5)
    noise_pred, noise, target = noises(3, shape)
    source_mask, target_mask = masks(4, shape)
    ours = masked_noise_loss(
        noise_pred,
        noise,
        target,
        source_mask,
        target_mask,
        policy=policy,
        normalisation="mask_area" if by_area else "elements",
    )
    for i in range(shape[0]):
        expected = reference.masked_terms_by_region(
            as_numpy(noise_pred[i]),
            as_numpy(noise[i]),
            as_numpy(target[i]),
            (as_numpy(source_mask[i, 0]), as_numpy(target_mask[i, 0])),
            policy,
            by_area=by_area,
        )
        assert (float(ours.foreground[i]), float(ours.background[i])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("policy", POLICIES)
def test_full_masks_give_the_paired_loss_and_empty_ones_the_plain_loss(policy):
    shape = (2, 4, 5, 5)
    noise_pred, noise, target = noises(5, shape)
    full, empty = torch.ones(2, 1, 5, 5), torch.zeros(2, 1, 5, 5)
    everywhere = masked_noise_loss(noise_pred, noise, target, full, full, policy=policy)
    nowhere = masked_noise_loss(noise_pred, noise, target, empty, empty, policy=policy)
    assert torch.allclose(everywhere.total, paired_loss(noise_pred, target), rtol=1e-6)
    assert torch.allclose(nowhere.total, ldm_loss(noise_pred, noise), rtol=1e-6)


def test_an_empty_mask_normalised_by_its_area_gives_zero_and_a_finite_gradient():
    noise_pred, noise, target = noises(6, (1, 4, 3, 3))
    noise_pred.requires_grad_()
    empty, full = torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    ours = masked_noise_loss(noise_pred, noise, target, full, empty, normalisation="mask_area")
    ours.total.sum().backward()
    assert ours.total.tolist() == [0.0]
    assert noise_pred.grad is not None
    assert noise_pred.grad.abs().max() == 0


def test_the_literal_policy_pulls_the_overlap_to_the_mean_of_both_noises():
    """Where M_2 holds and M_1 does not, Eq. 9 asks for eps_1 and eps_2: the minimiser is their mean, a ghost."""
    _, noise, target = noises(7, (1, 4, 3, 3))
    source_mask, target_mask = torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    both = ((noise + target) / 2).requires_grad_()
    masked_noise_loss(both, noise, target, source_mask, target_mask).total.sum().backward()
    assert both.grad is not None
    assert both.grad.abs().max() < 1e-7
    for policy in ("fg_priority", "union"):
        exact = target.clone().requires_grad_()
        masked_noise_loss(exact, noise, target, source_mask, target_mask, policy=policy).total.sum().backward()
        assert exact.grad is not None
        assert exact.grad.abs().max() == 0


def test_only_the_union_teaches_the_gap_where_the_old_object_must_vanish():
    noise_pred, noise, target = noises(8, (1, 4, 3, 3))
    source_mask, target_mask = torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    totals = {
        p: masked_noise_loss(noise_pred, noise, target, source_mask, target_mask, policy=p).total for p in POLICIES
    }
    assert totals["paper"].tolist() == totals["fg_priority"].tolist() == [0.0]
    assert torch.allclose(totals["union"], paired_loss(noise_pred, target))


def test_a_soft_mask_weighs_by_its_square_or_by_itself():
    shape = (1, 2, 3, 3)
    noise_pred, noise, target = noises(9, shape)
    half = torch.full((1, 1, 3, 3), 0.5)
    squared = masked_noise_loss(noise_pred, noise, target, half, half)
    linear = masked_noise_loss(noise_pred, noise, target, half, half, soft_mask="linear")
    plain = MaskedNoiseLoss(paired_loss(noise_pred, target), ldm_loss(noise_pred, noise))
    assert torch.allclose(squared.total, plain.total / 4)
    assert torch.allclose(linear.total, plain.total / 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_fg_priority_and_union_never_ask_one_place_twice(seed):
    source_mask, target_mask = masks(seed, (2, 1, 4, 4), soft=True)
    for policy in ("fg_priority", "union"):
        foreground, background = mask_weights(source_mask, target_mask, policy)
        assert (foreground + background).max() <= 1 + 1e-6
        assert min(float(foreground.min()), float(background.min())) >= 0


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 6, 6)])
def test_the_perceptual_loss_is_the_mean_square_of_each_sample(shape):
    features, target = randn(1, *shape), randn(2, *shape)
    expected = [reference.mean_square(as_numpy(a), as_numpy(b)) for a, b in zip(features, target, strict=True)]
    assert perceptual_loss(features, target).tolist() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=5), st.floats(0, 3), st.integers(0, 10_000))
def test_the_combined_loss_is_equation_twelve_sample_by_sample(timesteps, lambda_perc, seed):
    terms = {name: randn(seed + i, len(timesteps)).abs() for i, name in enumerate(("noise", "global", "loc", "perc"))}
    weights = term_weights(LossConfig(lambda_perc=lambda_perc), torch.tensor(timesteps), ALPHAS)
    ours = combined_loss(terms, weights)
    for i, t in enumerate(timesteps):
        expected = reference.combined(
            t=t,
            num_steps=1000,
            noise=float(terms["noise"][i]),
            global_clip=float(terms["global"][i]),
            loc=float(terms["loc"][i]),
            perc=float(terms["perc"][i]),
            lambda_perc=lambda_perc,
        )
        assert float(ours[i]) == pytest.approx(expected, rel=1e-5)


def test_at_t_zero_the_noise_loss_vanishes_and_at_the_last_t_nearly_only_it_is_left():
    weights = term_weights(LossConfig(lambda_perc=0.3), torch.tensor([0, 999]), ALPHAS)
    assert weights["noise"].tolist() == pytest.approx([0.0, 0.999])
    assert weights["global"].tolist() == weights["loc"].tolist() == pytest.approx([1.0, 0.001], rel=1e-4)
    assert weights["perc"].tolist() == pytest.approx([0.3, 0.3])


def test_the_weighting_options_change_the_weights_they_name():
    t = torch.tensor([250])
    constant = LossConfig(t_weighting="none", noise_weight=2.0, global_weight=3.0, loc_weight=4.0, lambda_perc=0.0)
    plain = term_weights(constant, t, ALPHAS)
    assert {name: float(value) for name, value in plain.items()} == {"noise": 2, "global": 3, "loc": 4, "perc": 0}
    falling = term_weights(LossConfig(lambda_perc=2.0, perc_t_weight="one_minus"), t, ALPHAS)
    assert float(falling["perc"]) == pytest.approx(1.5)


def test_losses_of_half_precision_predictions_are_computed_in_fp32():
    noise_pred, noise, _ = noises(10, (2, 4, 8, 8))
    low = noise_pred.bfloat16()
    assert ldm_loss(low, noise).dtype == torch.float32
    assert torch.equal(ldm_loss(low, noise), ldm_loss(low.float(), noise))


def test_the_gradients_are_the_numerical_ones_in_float64():
    shape = (2, 2, 3, 3)
    noise_pred, noise, target = noises(11, shape, torch.float64)
    noise_pred.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ldm_loss(x, noise), (noise_pred,))
    embeds = randn(13, 2, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clip_distance(x, randn(14, 2, 5, dtype=torch.float64)), (embeds,))
    assert torch.autograd.gradcheck(lambda x: perceptual_loss(x, target), (noise_pred,))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("normalisation", ["elements", "mask_area"])
def test_the_gradients_of_the_masked_loss_are_the_numerical_ones_in_float64(policy, normalisation):
    shape = (2, 2, 3, 3)
    noise_pred, noise, target = noises(15, shape, torch.float64)
    source_mask, target_mask = (mask.double() for mask in masks(16, shape, soft=True))

    def total(x: Tensor) -> Tensor:
        return masked_noise_loss(
            x, noise, target, source_mask, target_mask, policy=policy, normalisation=normalisation
        ).total

    assert torch.autograd.gradcheck(total, (noise_pred.requires_grad_(),))
