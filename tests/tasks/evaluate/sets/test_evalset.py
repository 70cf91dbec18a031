"""A generated set: its words, its pictures and its predicted masks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from iedit_model.editing.text_to_image import DrawConfig, draw_images
from iedit_model.errors import ConfigError
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.latent_diffusion import LatentDiffusionSpec, load_latent_diffusion
from iedit_model.models.segmenter import PromptedImage, SegmenterSpec, load_segmenter
from iedit_model.models.source import ModelSource
from storage import sample_seed
from tasks.evaluate.sets.evalset import EvalSetInfo
from tasks.evaluate.sets.folder import open_evalset
from tasks.evaluate.sets.generated import GENERATED_PROMPTS, GeneratedConfig, GeneratedPrompt, make_generated

WEIGHTS = Path(__file__).parents[4] / "miniature" / "weights"
CPU = DeviceConfig(device="cpu", dtype="fp32")
INFO = EvalSetInfo(name="drawn", origin="generated", description="Drawn.")
PROMPTS = tuple(
    GeneratedPrompt(image_index=index, source_prompt=f"a {source} on a white background", edit_prompt=edit, word=word)
    for index, source, edit, word in (
        (0, "red bus", "a red train on a white background", "bus"),
        (0, "red bus", "a blue bus on a white background", "bus"),
        (1, "green apple", "a green pear on a white background", "apple"),
    )
)
CONFIG = GeneratedConfig(prompts=PROMPTS, draw=DrawConfig(num_inference_steps=8), batch_size=2)


@pytest.fixture(scope="module")
def model():
    return load_latent_diffusion(LatentDiffusionSpec(model=ModelSource(str(WEIGHTS / "ldm")), device=CPU))


def test_the_published_counts_are_met_and_every_edit_differs():
    assert len(GENERATED_PROMPTS) == 70
    assert {prompt.image_index for prompt in GENERATED_PROMPTS} == set(range(20))
    assert len({(prompt.image_index, prompt.edit_prompt) for prompt in GENERATED_PROMPTS}) == 70
    for prompt in GENERATED_PROMPTS:
        assert prompt.edit_prompt != prompt.source_prompt
        assert prompt.replacement is not None
        assert prompt.replacement in prompt.edit_prompt


def test_the_set_holds_one_picture_an_image_each_from_its_own_seed(tmp_path, model):
    evalset = make_generated(tmp_path, INFO, CONFIG, model)
    assert [(pair.image_id, pair.edit_prompt) for pair in open_evalset(tmp_path).pairs] == [
        (f"image-{prompt.image_index:03d}", prompt.edit_prompt) for prompt in PROMPTS
    ]
    seed = sample_seed(0, "evalset", "00001")
    (alone,) = draw_images(model, [PROMPTS[2].source_prompt], [seed], CONFIG.draw)
    np.testing.assert_allclose(np.asarray(evalset.image(evalset.pairs[2]), float), np.asarray(alone, float), atol=1)
    assert evalset.pairs[0].image_sha256 == evalset.pairs[1].image_sha256 != evalset.pairs[2].image_sha256
    assert {pair.mask_origin for pair in evalset.pairs} == {"none"}


def test_the_same_settings_draw_the_same_set_and_other_seeds_another(tmp_path, model):
    first = make_generated(tmp_path / "a", INFO, CONFIG, model)
    assert make_generated(tmp_path / "b", INFO, CONFIG, model).digest == first.digest
    assert make_generated(tmp_path / "c", INFO, replace(CONFIG, seed=1), model).digest != first.digest


def test_predicted_masks_are_the_segmenters_for_the_word_and_said_to_be_predicted(tmp_path, model):
    segmenter = load_segmenter(SegmenterSpec(model=ModelSource(str(WEIGHTS / "segmenter")), device=CPU))
    evalset = make_generated(tmp_path, INFO, CONFIG, model, segmenter=segmenter)
    pair = evalset.pairs[2]
    image = evalset.image(pair)
    wanted = PromptedImage(prepared=segmenter.prepare(image), size_px=(64, 64), prompts=("apple",))
    expected = segmenter.segment([wanted])[0][0] >= 0.5
    if expected.any():
        np.testing.assert_array_equal(evalset.mask(pair), expected)
        assert pair.mask_origin == "predicted"
    else:
        assert (pair.mask, pair.mask_origin) == (None, "none")
    assert any(pair.mask_origin == "predicted" for pair in evalset.pairs)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": ()},
        {"prompts": PROMPTS[2:]},
        {"prompts": (*PROMPTS, replace(PROMPTS[0], source_prompt="another bus"))},
        {"batch_size": 0},
        {"mask_threshold": 0.0},
    ],
)
def test_settings_without_meaning_are_refused(changes):
    with pytest.raises(ConfigError):
        replace(CONFIG, **changes)


def test_a_word_that_the_source_prompt_lacks_is_refused():
    with pytest.raises(ConfigError, match="does not stand"):
        replace(PROMPTS[0], word="train")
