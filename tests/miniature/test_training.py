"""The training loop of the family: it learns, it resumes bit for bit, and it never shows held-out combinations."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from miniature.family.loop import Recipe, train
from miniature.family.pool import load_pool
from miniature.family.segmenter import draw_prompt
from miniature.family.targets import patch_targets
from miniature.vocabulary import COLOURS, NOUNS, is_held_out

RECIPE = Recipe(
    num_steps=40, batch_size=8, learning_rate=0.3, warmup_steps=4, ema_decay=0.9, bf16=False, weight_decay=0.0
)


def _run(checkpoint, *, stop_at=None):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    true = torch.tensor([[1.0, -2.0, 0.5]])

    def step_loss(rng):
        if stop_at is not None and len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(1)
        x = torch.from_numpy(rng.standard_normal((8, 3), np.float32))
        return (model(x) - x @ true.T).square().mean()

    calls: list[int] = []
    train(model, step_loss, RECIPE, name="toy", checkpoint=checkpoint, save_every_s=0)
    return model


def test_the_loop_finds_the_known_weights(tmp_path):
    model = _run(tmp_path / "whole.safetensors")
    assert torch.allclose(model.weight, torch.tensor([[1.0, -2.0, 0.5]]), atol=0.15)


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    whole = _run(tmp_path / "whole.safetensors")
    try:
        _run(tmp_path / "cut.safetensors", stop_at=17)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("the run was not interrupted")
    resumed = _run(tmp_path / "cut.safetensors")
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.bias, resumed.bias)


def test_the_rate_rises_stays_and_falls_to_zero():
    recipe = replace(RECIPE, num_steps=1000, warmup_steps=100, decay_share=0.5, learning_rate=1.0)
    assert recipe.rate_at(0) == 0.01
    assert recipe.rate_at(49) == 0.5
    assert recipe.rate_at(300) == 1.0
    assert abs(recipe.rate_at(750) - 0.5) < 1e-9
    assert recipe.rate_at(999) < 1e-4


def test_the_pool_is_the_world_and_is_drawn_once(tmp_path):
    pool = load_pool(tmp_path, num_scenes=30)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = load_pool(tmp_path, num_scenes=30)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
    for index in range(30):
        scene = pool.scene(index)
        assert np.array_equal(again.images[index], np.asarray(scene.render()))
        for position, mask in enumerate(scene.masks()):
            assert np.array_equal(pool.mask(index, position), mask)
        assert not any(is_held_out(thing.noun, thing.colour) for thing in scene.objects)


def test_patch_targets_agree_with_a_loop_over_pixels(tmp_path):
    pool = load_pool(tmp_path, num_scenes=12)
    targets = patch_targets(pool, np.arange(12)).numpy()
    for index in range(12):
        scene = pool.scene(index)
        for patch in range(64):
            y, x = divmod(patch, 8)
            noun, colour = len(NOUNS), len(COLOURS)
            for thing, mask in zip(scene.objects, scene.masks(), strict=True):
                count = sum(mask[y * 8 + dy, x * 8 + dx] for dy in range(8) for dx in range(8))
                if count > 0.2 * 64:
                    noun, colour = NOUNS.index(thing.noun), tuple(COLOURS).index(thing.colour)
            assert (targets[index, 0, patch], targets[index, 1, patch]) == (noun, colour)


def test_a_drawn_prompt_and_its_mask_agree_with_the_scene(tmp_path):
    pool = load_pool(tmp_path, num_scenes=40)
    rng = np.random.default_rng(0)
    kinds = set()
    for turn in range(400):
        index = turn % 40
        scene = pool.scene(index)
        text, mask = draw_prompt(pool, index, rng)
        named = [position for position, thing in enumerate(scene.objects) if thing.noun in text.split()]
        if named:
            kinds.add("object")
            assert np.array_equal(mask, scene.masks()[named[0]])
        elif text == f"{scene.background} background":
            kinds.add("ground")
            assert np.array_equal(mask, ~scene.masks().any(axis=0))
        else:
            kinds.add("absent")
            assert not mask.any()
    assert kinds == {"object", "ground", "absent"}
