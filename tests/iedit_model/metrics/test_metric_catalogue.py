"""Every result has an entry, and every entry is a result."""

import pytest
import torch

from iedit_model.metrics.catalogue import METRICS, metric_info
from iedit_model.metrics.clip_score import clip_cosine, clip_directional, clip_score
from iedit_model.metrics.errors import MetricInputError
from iedit_model.metrics.image_metrics import clip_metrics, pixel_metrics
from iedit_model.metrics.psnr import masked_psnr, psnr
from iedit_model.metrics.ssim import ssim_normconv

SET_METRICS = {"fid", "kid", "cmmd", "cmmd_unbiased"}
LPIPS = {"lpips", "lpips_map_mean_inside", "lpips_map_mean_outside"}


def results() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    source, edited = torch.rand((2, 2, 3, 16, 16), generator=generator)
    masks = torch.zeros(2, 16, 16)
    masks[0, :8] = 1
    embeds = torch.randn((4, 2, 8), generator=generator)
    clip = clip_metrics(
        source_image_embeds=embeds[0],
        edited_image_embeds=embeds[1],
        source_text_embeds=embeds[2],
        edit_text_embeds=embeds[3],
        encoder="mini",
    )
    pixels = pixel_metrics(source, edited, masks)
    assert clip["clip_score@mini"].equal(clip_score(embeds[1], embeds[3]))
    assert clip["clip_cosine@mini"].equal(clip_cosine(embeds[1], embeds[3]))
    assert clip["clip_directional@mini"].equal(clip_directional(*embeds))
    assert clip["clip_image_similarity@mini"].equal(clip_cosine(embeds[0], embeds[1]))
    # the joint functions hand on what the single ones say
    torch.testing.assert_close(pixels["psnr"], psnr(source, edited))
    single = masked_psnr(source, edited, masks) | ssim_normconv(source, edited, masks)
    for name, values in single.items():
        torch.testing.assert_close(pixels[name], values, equal_nan=True)
    assert pixels["mask_area"].tolist() == [0.5, 0.0]
    return pixels | clip


def test_the_catalogue_lists_exactly_the_results() -> None:
    names = {name.partition("@")[0] for name in results()}
    assert names | SET_METRICS | LPIPS == set(METRICS)


def test_each_result_is_one_value_an_image_and_only_the_empty_mask_lacks_them() -> None:
    for name, values in results().items():
        assert values.shape == (2,)
        assert torch.isnan(values).tolist() == [False, name.endswith("_inside")], name


def test_an_entry_is_found_with_and_without_its_network() -> None:
    assert metric_info("clip_score@vit-b-32") is metric_info("clip_score") is METRICS["clip_score"]
    with pytest.raises(MetricInputError, match="no metric is called 'ssim_m'"):
        metric_info("ssim_m")


def test_directions_are_the_papers() -> None:
    arrows = {
        name: METRICS[name].better for name in ("clip_score", "fid", "ssim_zero_fill_inside", "ssim_zero_fill_outside")
    }
    assert list(arrows.values()) == ["higher", "lower", "neither", "higher"]
    assert all(info.better == "neither" for name, info in METRICS.items() if name.endswith("_inside"))


def test_legends_are_whole_sentences() -> None:
    for info in METRICS.values():
        assert info.definition.endswith(".")
        assert "{" not in info.definition + info.title
