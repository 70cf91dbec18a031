"""The miniature's evaluation sets: the paper's counts, and the truth of its scenes."""

import numpy as np
import pytest

from flows.config.profiles import load_profile
from flows.errors import SourceError
from flows.sources import make_real_set, open_set
from miniature.evalsets import real_pairs
from tasks.evaluate.sets.folder import check_evalset, open_evalset
from tests.builders.scoring_models import few_pairs


def test_the_real_set_holds_52_edits_of_30_scenes_with_their_true_masks(tmp_path):
    make_real_set(tmp_path)
    evalset = open_evalset(tmp_path)
    assert (len(evalset.pairs), evalset.num_images) == (52, 30)
    assert check_evalset(evalset) == []
    for pair, (_, truth) in zip(evalset.pairs, real_pairs(), strict=True):
        np.testing.assert_array_equal(np.asarray(evalset.image(pair)), np.asarray(truth.source.render()))
        mask = evalset.mask(pair)
        np.testing.assert_array_equal(mask, truth.source.masks()[truth.position])
        assert pair.edit_prompt == truth.target.caption
        assert pair.mask_origin == "truth"


def test_writing_it_twice_gives_the_same_set(tmp_path):
    assert make_real_set(tmp_path / "a").digest == make_real_set(tmp_path / "b").digest


def test_the_generated_edits_say_as_instruction_what_their_prompts_differ_in():
    prompts = load_profile("mini").evaluate.generated.prompts
    assert len(prompts) == 70
    assert len({prompt.image_index for prompt in prompts}) == 20
    for prompt in prompts:
        assert prompt.instruction is not None
        assert prompt.replacement is not None
        assert prompt.replacement in prompt.edit_prompt
        new = prompt.instruction.split()[-1]
        assert new in prompt.edit_prompt.split()
        assert new not in prompt.source_prompt.split(" on ")[0].split()
    assert {prompt.kind for prompt in prompts} == {"noun", "colour"}


def test_a_set_is_found_by_its_name_under_the_root_and_by_its_folder_anywhere(tmp_path, monkeypatch):
    root, config = tmp_path / "store", load_profile("mini").evaluate
    inside = few_pairs(root / "evalsets" / "mine", num_pairs=2, name="mine")
    outside = few_pairs(tmp_path / "elsewhere", num_pairs=3, name="theirs")
    assert open_set("mine", str(root), config).digest == inside.digest
    assert open_set(str(tmp_path / "elsewhere"), str(root), config).digest == outside.digest
    monkeypatch.chdir(tmp_path)
    assert open_set("elsewhere", str(root), config).digest == outside.digest
    with pytest.raises(SourceError, match="there is no evaluation set 'nowhere'"):
        open_set("nowhere", str(root), config)
