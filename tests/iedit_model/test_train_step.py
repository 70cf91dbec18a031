"""One whole step on small models of the real classes, against Eq. 12 put together by hand, and every option of it."""

import dataclasses

import numpy as np
import pytest
import torch

from iedit_model.errors import BatchError, ConfigError, MaskError, TimestepError
from iedit_model.training.batch import EditBatch
from iedit_model.training.config import paper, table2_rows
from iedit_model.training.train_models import TrainModels
from iedit_model.training.train_step import (
    calibrate_lambda_perc,
    contribution_gradient_norms,
    draw_step,
    train_step,
)
from iedit_model.training.trainable import activate_phase, plan_layers
from tests.iedit_model.train_step_cases import (
    ALPHAS,
    FULL,
    PIXELS_ONLY,
    PLAIN,
    TIMESTEPS,
    DecodedSamples,
    as_numpy,
    build_batch,
    build_models,
    expected_loss,
    fixed_draws,
    noise_terms_by_hand,
    number,
    pixel_terms_by_hand,
    predicted_by_hand,
    run,
)
from tests.references import iedit_equations as reference


@pytest.fixture(scope="module")
def models() -> TrainModels:
    return build_models()


def test_the_full_step_is_equation_twelve_put_together_by_hand(models):
    batch = build_batch()
    draws = fixed_draws(batch)
    noise, pixels = noise_terms_by_hand(models, batch, draws)["mask"], pixel_terms_by_hand(models, batch, draws)
    output = run(models, FULL)
    expected = expected_loss(pixels, noise, lambda_perc=0.7)
    assert output.per_sample_loss.tolist() == pytest.approx(expected, rel=1e-5)
    assert number(output.loss) == pytest.approx(np.mean(expected), rel=1e-5)
    for name, values in {"noise": noise, **pixels}.items():
        assert number(output.terms[name]) == pytest.approx(np.mean(values), rel=1e-5)


def test_each_row_of_table_two_has_its_noise_loss_and_its_terms(models):
    batch = build_batch()
    noise, pixels = (
        noise_terms_by_hand(models, batch, fixed_draws(batch)),
        pixel_terms_by_hand(models, batch, fixed_draws(batch)),
    )
    for row in table2_rows(dataclasses.replace(paper(), loss=FULL)).values():
        loss = row.config.loss
        used = {"global", *(["loc"] if loss.use_loc else []), *(["perc"] if loss.use_perc else [])}
        output = run(models, loss)
        assert set(output.contributions) == {"noise", *used}
        terms = {name: pixels[name] if name in used else [0.0] * 4 for name in pixels}
        expected = expected_loss(terms, noise[loss.noise_loss], lambda_perc=0.7)
        assert output.per_sample_loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_contributions_sum_to_the_loss_and_the_loss_is_the_mean_of_the_samples(models):
    config = dataclasses.replace(FULL, target_denoising_weight=0.5, source_denoising_weight=0.25, min_snr_gamma=5.0)
    output = run(models, config)
    assert set(output.contributions) == {"noise", "global", "loc", "perc", "target_denoising", "source_denoising"}
    assert number(torch.stack(list(output.contributions.values())).sum()) == pytest.approx(
        number(output.loss), rel=1e-6
    )
    assert number(output.per_sample_loss.mean()) == pytest.approx(number(output.loss), rel=1e-6)


def test_equal_images_make_the_paired_loss_the_plain_one(models):
    batch = build_batch()
    same = dataclasses.replace(batch, target_latents=batch.source_latents)
    paired = run(models, dataclasses.replace(PLAIN, noise_loss="paired"), batch=same)
    plain = run(models, dataclasses.replace(PLAIN, noise_loss="ldm"), batch=same)
    assert torch.equal(paired.per_sample_loss, plain.per_sample_loss)


def test_masks_of_ones_make_the_masked_loss_the_paired_one(models):
    ones = torch.ones(4, 1, 8, 8)
    batch = dataclasses.replace(build_batch(), source_mask=ones, target_mask=ones)
    masked = run(models, PLAIN, batch=batch)
    paired = run(models, dataclasses.replace(PLAIN, noise_loss="paired"), batch=batch)
    assert torch.allclose(masked.per_sample_loss, paired.per_sample_loss, rtol=1e-6)
    assert (number(masked.terms["mask_overlap"]), number(masked.terms["mask_gap"])) == (0.0, 0.0)


def test_the_same_seed_gives_the_same_step_and_leaves_the_generator_alike_in_every_configuration(models):
    batch, states, losses = build_batch(), [], []
    for config in (PLAIN, PLAIN, dataclasses.replace(FULL, target_denoising_weight=1.0, prompt_dropout=0.5)):
        generator = torch.Generator().manual_seed(11)
        losses.append(train_step(models, batch, config, generator=generator, step=0).loss)
        states.append(generator.get_state())
    assert number(losses[0]) == number(losses[1]) != number(losses[2])
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_configurations_that_share_a_seed_see_the_same_noise_and_timesteps():
    batch = build_batch()
    configs = (PLAIN, dataclasses.replace(FULL, target_denoising_weight=1.0, prompt_dropout=0.5))
    one, two = (
        draw_step(batch, config, num_train_timesteps=1000, generator=torch.Generator().manual_seed(3))
        for config in configs
    )
    assert torch.equal(one.noise, two.noise)
    assert torch.equal(one.timesteps, two.timesteps)
    assert not one.dropped.any()


def test_timesteps_stay_in_the_configured_range_while_the_denoising_sees_all():
    batch, generator = build_batch(size=1), torch.Generator().manual_seed(1)
    config = dataclasses.replace(PLAIN, t_min=400, t_max=402)
    draws = [draw_step(batch, config, num_train_timesteps=1000, generator=generator) for _ in range(200)]
    assert {int(draw.timesteps) for draw in draws} == {400, 401}
    denoised = [int(draw.denoising_timesteps) for draw in draws]
    assert min(denoised) < 100
    assert max(denoised) > 900


def test_a_range_beyond_a_shorter_schedule_is_refused():
    with pytest.raises(TimestepError, match="400"):
        draw_step(
            build_batch(), dataclasses.replace(PLAIN, t_min=400), num_train_timesteps=100, generator=torch.Generator()
        )


def test_prompts_are_dropped_at_the_configured_rate():
    batch, generator = build_batch(), torch.Generator().manual_seed(2)
    config = dataclasses.replace(PLAIN, prompt_dropout=0.25)
    dropped = [draw_step(batch, config, num_train_timesteps=1000, generator=generator).dropped for _ in range(500)]
    assert number(torch.stack(dropped).float().mean()) == pytest.approx(0.25, abs=0.04)  # three standard deviations


def test_samples_at_or_above_the_pixel_limit_are_not_decoded_and_the_others_are_judged_alike(models):
    batch = build_batch()
    pixels = pixel_terms_by_hand(models, batch, fixed_draws(batch))
    with DecodedSamples(models) as decoded:
        output = run(models, dataclasses.replace(FULL, pixel_loss_t_max=640))
    assert decoded.count == 2  # t = 0 and 130; 640 is at the limit
    for name in ("global", "loc", "perc"):
        assert number(output.terms[name]) == pytest.approx(np.mean(pixels[name][:2]), rel=1e-5)
    noise = noise_terms_by_hand(models, batch, fixed_draws(batch))["mask"]
    kept = {name: [*values[:2], 0.0, 0.0] for name, values in pixels.items()}
    expected = expected_loss(kept, noise, lambda_perc=0.7)
    assert output.per_sample_loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_pixel_losses_come_every_nth_step_and_cost_nothing_in_between(models):
    config = dataclasses.replace(FULL, pixel_loss_every=3)
    for step in range(4):
        with DecodedSamples(models) as decoded:
            output = run(models, config, step=step)
        assert decoded.count == (4 if step % 3 == 0 else 0)
        assert ("global" in output.contributions) == (step % 3 == 0)


def test_a_step_without_pixel_losses_decodes_nothing(models):
    with DecodedSamples(models) as decoded:
        run(models, PLAIN)
        output = run(models, dataclasses.replace(FULL, pixel_loss_t_max=900), timesteps=[900, 999, 950, 901])
    assert decoded.count == 0
    assert set(output.contributions) == {"noise"}


@pytest.mark.parametrize("empty_mask", ["keep", "ldm"])
def test_a_dropped_prompt_gets_the_empty_prompt_the_sources_noise_and_no_judge(models, empty_mask):
    batch = build_batch()
    dropped = [True, False, True, False]
    config = dataclasses.replace(FULL, prompt_dropout=0.5, empty_mask=empty_mask)
    with DecodedSamples(models) as decoded:
        output = run(models, config, dropped=dropped)
    assert decoded.count == 2
    kept = run(models, FULL)
    draws = fixed_draws(batch)
    assert models.empty_prompt_embeds is not None
    empty_prompts = models.empty_prompt_embeds.expand(4, -1, -1)
    eps = predicted_by_hand(models, batch.source_latents, draws.noise, draws.timesteps, empty_prompts)
    for i, is_dropped in enumerate(dropped):
        if is_dropped:
            expected = TIMESTEPS[i] / 1000 * reference.mean_square(as_numpy(eps[i]), as_numpy(draws.noise[i]))
        else:
            expected = number(kept.per_sample_loss[i])
        assert number(output.per_sample_loss[i]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "latents", "prompt"),
    [
        ("target_denoising", "target_latents", "prompt_embeds"),
        ("source_denoising", "source_latents", "source_prompt_embeds"),
    ],
)
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_denoising_term_is_ordinary_denoising_at_its_own_timesteps(models, name, latents, prompt, gamma):
    batch = build_batch()
    draws, tensors = fixed_draws(batch), dict(batch.tensors())
    config = dataclasses.replace(PLAIN, denoising_min_snr_gamma=gamma, **{f"{name}_weight": 0.5})
    output = run(models, config)
    eps = predicted_by_hand(models, tensors[latents], draws.denoising_noise, draws.denoising_timesteps, tensors[prompt])
    snrs = [number(ALPHAS[t] / (1 - ALPHAS[t])) for t in draws.denoising_timesteps.tolist()]
    weights = [1.0 if gamma is None else min(snr, gamma) / snr for snr in snrs]
    expected = [
        w * reference.mean_square(as_numpy(e), as_numpy(n))
        for w, e, n in zip(weights, eps, draws.denoising_noise, strict=True)
    ]
    assert number(output.terms[name]) == pytest.approx(np.mean(expected), rel=1e-5)
    assert number(output.contributions[name]) == pytest.approx(0.5 * np.mean(expected), rel=1e-5)
    without = run(models, PLAIN)
    assert torch.allclose(output.per_sample_loss, without.per_sample_loss + 0.5 * torch.tensor(expected), rtol=1e-5)


def test_denoising_alone_is_a_control_that_leaves_the_pairs_out(models):
    config = dataclasses.replace(PLAIN, noise_weight=0.0, target_denoising_weight=1.0)
    output = run(models, config)
    assert set(output.contributions) == {"target_denoising"}
    assert output.noise_pred is None
    assert contribution_gradient_norms(output) == {}
    assert torch.equal(
        output.loss,
        run(models, dataclasses.replace(PLAIN, target_denoising_weight=1.0)).contributions["target_denoising"],
    )


def test_min_snr_multiplies_the_noise_loss_of_each_sample(models):
    plain = run(models, PLAIN)
    weighted = run(models, dataclasses.replace(PLAIN, min_snr_gamma=1.0))
    snrs = [number(ALPHAS[t] / (1 - ALPHAS[t])) for t in TIMESTEPS]
    factors = torch.tensor([min(snr, 1.0) / snr for snr in snrs])
    assert torch.allclose(weighted.per_sample_loss, plain.per_sample_loss * factors, rtol=1e-5)


def emptied(**names: int) -> EditBatch:
    """The batch with one sample's mask emptied for each name."""
    batch = build_batch()
    masks = {name: dict(batch.tensors())[name].clone() for name in names}
    for name, index in names.items():
        masks[name][index] = 0
    return dataclasses.replace(batch, **masks)


def test_empty_masks_are_kept_replaced_dropped_or_refused_as_configured(models):
    batch = emptied(source_mask=0, target_mask=2, source_pixel_mask=3)
    touched, draws = (0, 2, 3), fixed_draws(build_batch())
    outputs = {
        policy: run(models, dataclasses.replace(FULL, empty_mask=policy), batch=batch)
        for policy in ("keep", "ldm", "drop")
    }
    untouched = number(outputs["keep"].per_sample_loss[1])
    for output in outputs.values():
        assert number(output.per_sample_loss[1]) == pytest.approx(untouched, rel=1e-6)
    plain = noise_terms_by_hand(models, batch, draws)["ldm"]
    judged = pixel_terms_by_hand(models, batch, draws)["global"]
    for i in touched:
        share = TIMESTEPS[i] / 1000
        expected = share * plain[i] + (1 - share) * judged[i]
        assert number(outputs["ldm"].per_sample_loss[i]) == pytest.approx(expected, rel=1e-5)
        assert number(outputs["drop"].per_sample_loss[i]) == 0.0
    assert number(outputs["drop"].loss) == pytest.approx(untouched, rel=1e-6)  # the mean of the one that is left
    with pytest.raises(MaskError, match="000000000, 000000002, 000000003"):
        run(models, dataclasses.replace(FULL, empty_mask="raise"), batch=batch)


def test_a_batch_of_nothing_but_empty_masks_gives_a_loss_of_zero_that_can_be_differentiated():
    models = build_models()
    batch = dataclasses.replace(build_batch(), source_mask=torch.zeros(4, 1, 8, 8))
    output = run(models, dataclasses.replace(FULL, empty_mask="drop"), batch=batch)
    output.loss.backward()
    assert number(output.loss) == 0.0
    gradients = [parameter.grad for parameter in models.unet.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.abs().max() == 0 for gradient in gradients)


def test_masks_that_no_loss_uses_may_be_missing_or_empty(models):
    batch = dataclasses.replace(
        emptied(source_mask=0), target_mask=None, source_pixel_mask=None, target_pixel_mask=None, target_pixels=None
    )
    row = table2_rows(dataclasses.replace(paper(), loss=FULL))["global_paired_caption"]
    config = dataclasses.replace(row.config.loss, empty_mask="raise")
    assert number(run(models, config, batch=batch).loss) == pytest.approx(number(run(models, row.config.loss).loss))


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ({"source_mask": None}, "source_mask"),
        ({"target_mask": None}, "target_mask"),
        ({"source_pixel_mask": None}, "source_pixel_mask"),
        ({"target_pixels": None}, "target_pixels"),
        ({"target_pixel_mask": None}, "target_pixel_mask"),
        ({"text_embeds": None}, "text_embeds"),
        ({"diff_text_embeds": None}, "diff_text_embeds"),
        ({"source_prompt_embeds": None}, "source_prompt_embeds"),
    ],
)
def test_a_tensor_that_a_loss_needs_and_the_batch_lacks_is_named(models, missing, named):
    config = dataclasses.replace(FULL, source_denoising_weight=1.0)
    with pytest.raises(BatchError, match=f"no {named}"):
        run(models, config, batch=dataclasses.replace(build_batch(), **missing))


def test_an_uncalibrated_lambda_is_refused_and_zero_only_measures(models):
    with pytest.raises(ConfigError, match="calibrate_lambda_perc"):
        run(models, dataclasses.replace(FULL, lambda_perc=None))
    measured = run(models, dataclasses.replace(FULL, lambda_perc=0.0))
    assert number(measured.contributions["perc"]) == 0.0
    assert number(measured.terms["perc"]) == pytest.approx(number(run(models, FULL).terms["perc"]))


def test_the_calibrated_lambda_makes_the_perceptual_loss_a_tenth_of_the_noise_loss(models):
    measured = run(models, dataclasses.replace(FULL, lambda_perc=0.0))
    value = calibrate_lambda_perc([number(measured.contributions["noise"])], [number(measured.terms["perc"])])
    output = run(models, dataclasses.replace(FULL, lambda_perc=value))
    assert number(output.contributions["perc"] / output.contributions["noise"]) == pytest.approx(0.1, rel=1e-5)
    assert calibrate_lambda_perc([1.0, 3.0], [0.5, 1.5], share=0.5) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("noise", "perc"), [([], [1.0]), ([1.0], []), ([1.0], [0.0]), ([float("nan")], [1.0]), ([1.0], [float("inf")])]
)
def test_a_lambda_cannot_be_calibrated_from_nothing(noise, perc):
    with pytest.raises(ConfigError):
        calibrate_lambda_perc(noise, perc)


@pytest.mark.parametrize("policy", ["alternate", "attention"])
def test_gradients_of_the_pixel_losses_reach_exactly_the_layers_of_the_turn(policy):
    models = build_models()
    plan = plan_layers(models.unet, policy)  # type: ignore[arg-type]
    for step in range(2):
        active = activate_phase(models.unet, plan, step)  # type: ignore[arg-type]
        run(models, PIXELS_ONLY).loss.backward()
        reached = {name for name, parameter in models.unet.named_parameters() if parameter.grad is not None}
        assert reached == set(active)
        assert all(parameter.grad.abs().max() > 0 for parameter in active.values() if parameter.grad is not None)
    judges = [models.decoder, models.clip, models.perceptual]
    assert all(parameter.grad is None for judge in judges if judge for parameter in judge.parameters())


@pytest.mark.parametrize("config", [FULL, PIXELS_ONLY, dataclasses.replace(FULL, loc_crop=True, mask_fill="clip_mean")])
def test_the_gradient_of_the_whole_step_is_the_numerical_one_in_float64(config):
    models = build_models()
    for module in (models.unet, models.decoder, models.clip, models.perceptual):
        assert module is not None
        module.double()
    batch = dataclasses.replace(build_batch(), **{name: value.double() for name, value in build_batch().tensors()})
    weight = next(models.unet.parameters())
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(run(models, config, batch=batch).loss, weight)
    values = []
    with torch.no_grad():
        start = weight.clone()
        for offset in (1e-5, -1e-5):
            weight.copy_(start + offset * direction)
            values.append(number(run(models, config, batch=batch).loss))
    # Not closer, because the small step crosses kinks of VGG's ReLUs.
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(number((gradient * direction).sum()), rel=1e-4)


def test_the_gradient_norms_are_those_of_each_contribution_at_the_prediction(models):
    output = run(models, dataclasses.replace(FULL, target_denoising_weight=1.0))
    norms = contribution_gradient_norms(output)
    assert set(norms) == {"noise", "global", "loc", "perc"}
    assert output.noise_pred is not None
    for name, norm in norms.items():
        (gradient,) = torch.autograd.grad(output.contributions[name], output.noise_pred, retain_graph=True)
        assert number(norm) == pytest.approx(number(gradient.square().sum().sqrt()), rel=1e-5)
        assert number(norm) > 0
    output.loss.backward()  # the graph is still there


def test_half_precision_around_the_unet_keeps_the_loss_in_fp32(models):
    exact = run(models, FULL)
    with torch.autocast("cpu", torch.bfloat16):
        output = run(models, FULL)
    assert output.loss.dtype == torch.float32
    assert number(output.loss) == pytest.approx(number(exact.loss), rel=0.05)
    assert number(output.loss) != number(exact.loss)


def test_one_batch_can_be_learnt_by_heart():
    models, batch = build_models(), build_batch()
    optimiser = torch.optim.AdamW(models.unet.parameters(), lr=3e-3)
    config = dataclasses.replace(PLAIN, mask_policy="union", t_weighting="none")
    values = []
    for _ in range(15):
        optimiser.zero_grad()
        output = run(models, config, batch=batch, timesteps=[500, 600, 700, 800])
        output.loss.backward()
        optimiser.step()
        values.append(number(output.loss))
    assert values[-1] < 0.7 * values[0]
