"""Every result has an entry, and every entry is a result."""

import pytest
import torch

from iedit_model.metrics.catalogue import metric_info, metric_infos, metric_versions, score_edits, shown_in
from iedit_model.metrics.clip_score import clip_cosine, clip_directional, clip_score
from iedit_model.metrics.errors import MetricInputError
from iedit_model.metrics.psnr import squared_errors
from iedit_model.metrics.registry import ClipEmbeds, EditBatch
from iedit_model.metrics.ssim import ssim_normconv

SET_METRICS = {"fid", "kid", "cmmd", "cmmd_unbiased"}
LPIPS = {"lpips", "lpips_map_mean_inside", "lpips_map_mean_outside"}


def results() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    source, edited = torch.rand((2, 2, 3, 16, 16), generator=generator)
    masks = torch.zeros(2, 16, 16)
    masks[0, :8] = 1
    embeds = torch.randn((4, 2, 8), generator=generator)
    clip = ClipEmbeds(
        source_images=embeds[0], edited_images=embeds[1], source_prompts=embeds[2], edit_prompts=embeds[3]
    )
    found = score_edits(EditBatch(source_images=source, edited_images=edited, masks=masks, clip={"mini": clip}))
    assert found["clip_score@mini"].equal(clip_score(embeds[1], embeds[3]))
    assert found["clip_cosine@mini"].equal(clip_cosine(embeds[1], embeds[3]))
    assert found["clip_directional@mini"].equal(clip_directional(*embeds))
    assert found["clip_image_similarity@mini"].equal(clip_cosine(embeds[0], embeds[1]))
    # the joint function hands on what the single ones say
    single = squared_errors(source, edited, masks) | ssim_normconv(source, edited, masks)
    for name, values in single.items():
        torch.testing.assert_close(found[name], values, equal_nan=True)
    assert found["mask_area"].tolist() == [0.5, 0.0]
    return found


def test_the_catalogue_lists_exactly_the_results() -> None:
    names = {name.partition("@")[0] for name in results()}
    assert names | SET_METRICS | LPIPS == set(metric_infos()) == set(metric_versions())


def test_each_result_is_one_value_an_image_and_only_the_empty_mask_lacks_them() -> None:
    for name, values in results().items():
        assert values.shape == (2,)
        assert torch.isnan(values).tolist() == [False, name.endswith("_inside")], name


def test_an_entry_is_found_with_and_without_its_network() -> None:
    assert metric_info("clip_score@vit-b-32") is metric_info("clip_score") is metric_infos()["clip_score"]
    with pytest.raises(MetricInputError, match="no metric is called 'ssim_m'"):
        metric_info("ssim_m")


def test_what_is_masked_needs_a_mask_and_nothing_else_does() -> None:
    masked = {name for name, info in metric_infos().items() if info.needs_mask}
    assert masked == {name for name in metric_infos() if name.endswith(("_inside", "_outside"))} | {"mask_area"}


def test_the_tables_show_and_a_fall_is_watched_as_the_files_say() -> None:
    assert shown_in("comparisons") == [
        *("clip_score", "clip_directional", "ssim_zero_fill_outside", "ssim_normconv_outside", "psnr_outside"),
    ]
    assert shown_in("strata") == ["clip_score", "ssim_zero_fill_outside", "ssim_normconv_outside"]
    assert shown_in("edits") == [
        *("clip_score", "clip_directional", "ssim_zero_fill_inside", "ssim_zero_fill_outside"),
        *("ssim_normconv_outside", "psnr_outside", "lpips", "mask_area"),
    ]
    watched = [name for name, info in metric_infos().items() if info.is_watched]
    assert watched == ["clip_score", "ssim_zero_fill_outside", "ssim_normconv_outside", "fid"]


def test_directions_are_the_papers() -> None:
    arrows = {
        name: metric_info(name).better
        for name in ("clip_score", "fid", "ssim_zero_fill_inside", "ssim_zero_fill_outside")
    }
    assert list(arrows.values()) == ["higher", "lower", "neither", "higher"]
    assert all(info.better == "neither" for name, info in metric_infos().items() if name.endswith("_inside"))


def test_legends_are_whole_sentences() -> None:
    for info in metric_infos().values():
        assert info.definition.endswith(".")
        assert "{" not in info.definition + info.title
