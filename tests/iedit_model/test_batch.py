"""A batch refuses what does not fit and keeps what it is given, sample by sample."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from iedit_model.errors import BatchError, IEditError, MaskError
from iedit_model.training.batch import EditBatch


def fields(batch: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    return {
        "sample_ids": tuple(f"{index:09d}" for index in range(batch)),
        "source_latents": randn(4, 8, 6),
        "target_latents": randn(4, 8, 6),
        "prompt_embeds": randn(5, 12),
        "source_prompt_embeds": randn(5, 12),
        "source_mask": randn(1, 8, 6).sigmoid().round(),
        "target_mask": randn(1, 8, 6).sigmoid(),
        "source_pixel_mask": randn(1, 16, 12).sigmoid().round(),
        "target_pixel_mask": randn(1, 16, 12).sigmoid().round(),
        "target_pixels": randn(3, 16, 12),
        "target_features": randn(7, 2, 2),
        "text_embeds": randn(8),
        "diff_text_embeds": randn(8),
    }


def test_a_full_batch_and_a_bare_one_are_accepted():
    full = EditBatch(**fields())
    full.check_values()
    assert [name for name, _ in full.tensors()] == [name for name in fields() if name != "sample_ids"]
    bare = {name: value for name, value in fields().items() if name in ("sample_ids", "source_latents")}
    bare |= {"target_latents": fields()["target_latents"], "prompt_embeds": fields()["prompt_embeds"]}
    EditBatch(**bare).check_values()
    assert len(list(EditBatch(**bare).tensors())) == 3


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("target_latents", (3, 4, 8, 8)),
        ("target_latents", (2, 4, 8, 6)),
        ("prompt_embeds", (3, 5)),
        ("source_prompt_embeds", (3, 6, 12)),
        ("source_mask", (3, 1, 16, 12)),
        ("target_mask", (3, 3, 8, 6)),
        ("target_pixel_mask", (3, 1, 12, 16)),
        ("target_pixels", (3, 1, 16, 12)),
        ("target_features", (2, 7, 2, 2)),
        ("diff_text_embeds", (3, 9)),
        ("text_embeds", (3, 8, 1)),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_with_both_shapes(name, shape):
    with pytest.raises(BatchError, match=name) as caught:
        EditBatch(**{**fields(), name: torch.zeros(shape)})
    assert str(tuple(shape)) in str(caught.value)
    assert "000000000" in str(caught.value)
    assert isinstance(caught.value, IEditError)


def test_a_batch_without_samples_is_refused():
    with pytest.raises(BatchError, match="no samples"):
        EditBatch(**{**fields(), "sample_ids": ()})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_found_and_its_sample_named(bad):
    values = fields()
    values["target_latents"][1, 2, 3, 4] = bad
    with pytest.raises(BatchError, match="target_latents of 000000001 is not finite"):
        EditBatch(**values).check_values()


@pytest.mark.parametrize("bad", [-0.01, 1.01, 255.0])
@pytest.mark.parametrize("name", ["source_mask", "target_mask", "source_pixel_mask", "target_pixel_mask"])
def test_a_mask_outside_zero_to_one_is_found_and_its_samples_named(name, bad):
    values = fields()
    values[name][[0, 2], 0, 0, 0] = bad
    with pytest.raises(MaskError, match=f"{name} of 000000000, 000000002"):
        EditBatch(**values).check_values()


def test_a_missing_tensor_is_named_with_what_needs_it():
    batch = EditBatch(**{**fields(), "text_embeds": None})
    with pytest.raises(BatchError, match="no text_embeds, which use_global needs"):
        batch.require("text_embeds", needed_by="use_global")
    assert batch.require("prompt_embeds", needed_by="the UNet") is batch.prompt_embeds


def test_selecting_takes_the_same_samples_of_every_tensor_in_the_order_asked_for():
    batch = EditBatch(**fields())
    part = batch.select([2, 0])
    assert part.sample_ids == ("000000002", "000000000")
    for name, tensor in batch.tensors():
        assert torch.equal(getattr(part, name), torch.stack([tensor[2], tensor[0]]))
    assert batch.select([0, 1, 2]) is batch


@pytest.mark.parametrize("indices", [[], [3], [-1], [0, 5]])
def test_selecting_what_is_not_there_is_refused(indices):
    with pytest.raises(BatchError, match="batch of 3"):
        EditBatch(**fields()).select(indices)


def test_moving_a_batch_moves_every_tensor_and_nothing_else():
    batch = EditBatch(**{**fields(), "target_pixels": None})
    moved = batch.to("meta")
    assert {tensor.device.type for _, tensor in moved.tensors()} == {"meta"}
    assert {name: tensor.shape for name, tensor in moved.tensors()} == {n: t.shape for n, t in batch.tensors()}
    assert (moved.sample_ids, moved.target_pixels) == (batch.sample_ids, None)


def test_a_batch_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EditBatch(**fields()).sample_ids = ()  # type: ignore[misc]
