"""The metrics by name: what each says, in which unit, and which way is better. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from iedit_model.metrics.errors import MetricInputError

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricInfo:
    """What a table has to say about a metric."""

    name: str
    """Name of the result, without the network behind "@"."""
    title: str
    """Head of a column."""
    unit: str
    """Unit as it is printed; "" for none."""
    display_factor: float = 1.0
    """Factor from the stored value to the printed one."""
    better: Better
    """Which way is better; "neither" where the paper draws no arrow either."""
    definition: str
    """One sentence for a legend."""


def _masked(name: str, title: str, *, definition: str, better: Better, unit: str, factor: float) -> list[MetricInfo]:
    """Return the entries inside (M; never better one way) and outside (not M) of the mask."""
    sides: tuple[tuple[str, str, Better, str], ...] = (
        ("inside", "M", "neither", "inside of the mask"),
        ("outside", "notM", better, "outside of the mask"),
    )
    return [
        MetricInfo(
            name=f"{name}_{side}",
            title=title.format(label),
            unit=unit,
            display_factor=factor,
            better=direction,
            definition=definition.format(where),
        )
        for side, label, direction, where in sides
    ]


_ENTRIES: list[MetricInfo] = [
    MetricInfo(
        name="clip_score",
        title="CLIPScore",
        unit="%",
        better="higher",
        definition="100 * 2.5 * max(cos, 0) of the edited image and the edit prompt, as published.",
    ),
    MetricInfo(
        name="clip_cosine",
        title="CLIP cosine",
        unit="",
        better="higher",
        definition="Raw cosine of the edited image and the edit prompt.",
    ),
    MetricInfo(
        name="clip_directional",
        title="CLIP directional",
        unit="",
        better="higher",
        definition="Cosine of the change of the image and the change of the prompt; undefined without a change.",
    ),
    MetricInfo(
        name="clip_image_similarity",
        title="CLIP image similarity",
        unit="",
        better="neither",
        definition="Cosine of the source and the edited image.",
    ),
    MetricInfo(
        name="ssim",
        title="SSIM",
        unit="%",
        display_factor=100,
        better="neither",
        definition="Mean SSIM of source and edited image (Gaussian window 11 x 11, sigma 1.5, data range 1).",
    ),
    *_masked(
        "ssim_zero_fill",
        "SSIM-{} (zero-fill)",
        definition="SSIM of the whole frame after all but what lies {} was set to black; the paper's definition, "
        "which rises with the area set to black.",
        better="higher",
        unit="%",
        factor=100,
    ),
    *_masked(
        "ssim_map_mean",
        "SSIM-{} (map mean)",
        definition="Mean of the SSIM map {}; windows at the edge see both sides.",
        better="higher",
        unit="%",
        factor=100,
    ),
    *_masked(
        "ssim_normconv",
        "SSIM-{} (normalised convolution)",
        definition="Mean SSIM {} from pixels there alone; independent of the area.",
        better="higher",
        unit="%",
        factor=100,
    ),
    MetricInfo(
        name="mse",
        title="MSE",
        unit="x 1e-3",
        display_factor=1000,
        better="neither",
        definition="Mean squared difference of source and edited image in [0, 1].",
    ),
    *_masked(
        "mse",
        "MSE-{}",
        definition="Mean squared difference {}, divided by the area there.",
        better="lower",
        unit="x 1e-3",
        factor=1000,
    ),
    MetricInfo(
        name="psnr",
        title="PSNR",
        unit="dB",
        better="neither",
        definition="-10 log10 of the MSE, at most 60.",
    ),
    *_masked(
        "psnr", "PSNR-{}", definition="-10 log10 of the MSE {}, at most 60.", better="higher", unit="dB", factor=1
    ),
    MetricInfo(
        name="lpips",
        title="LPIPS",
        unit="",
        better="neither",
        definition="Learned perceptual distance of source and edited image.",
    ),
    *_masked(
        "lpips_map_mean",
        "LPIPS-{} (map mean)",
        definition="Mean of the map of learned perceptual distances {}.",
        better="lower",
        unit="",
        factor=1,
    ),
    MetricInfo(
        name="fid",
        title="FID",
        unit="",
        better="lower",
        definition="Squared Frechet distance of the features of the edited images and of the reference set.",
    ),
    MetricInfo(
        name="kid",
        title="KID",
        unit="x 1e-3",
        display_factor=1000,
        better="lower",
        definition="Unbiased squared MMD of the same features under the cubic kernel.",
    ),
    MetricInfo(
        name="cmmd",
        title="CMMD",
        unit="",
        better="lower",
        definition="1000 times the squared MMD of CLIP embeddings under a Gaussian kernel of width 10, as published.",
    ),
    MetricInfo(
        name="cmmd_unbiased",
        title="CMMD (unbiased)",
        unit="",
        better="lower",
        definition="CMMD without each image's similarity to itself: no floor at small N.",
    ),
    MetricInfo(
        name="mask_area",
        title="mask area",
        unit="%",
        display_factor=100,
        better="neither",
        definition="Share of the frame inside of the mask.",
    ),
]

METRICS: dict[str, MetricInfo] = {entry.name: entry for entry in _ENTRIES}
"""Every metric by the name of its result, without the network behind "@"."""


def metric_info(name: str) -> MetricInfo:
    """Return the entry of a result's name, with or without its network: ``clip_score@vit-b-32``.

    Raises:
        MetricInputError: no such metric.
    """
    bare = name.partition("@")[0]
    if bare not in METRICS:
        raise MetricInputError(f"no metric is called {bare!r}; known: {', '.join(METRICS)}")
    return METRICS[bare]
