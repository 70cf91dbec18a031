"""LPIPS as a metric; ``lpips_network`` is the network."""

from typing import TYPE_CHECKING

from iedit_model.metrics.registry import EditBatch, MetricInfo, image_metric, masked_infos

if TYPE_CHECKING:
    from torch import Tensor

    from iedit_model.metrics.lpips_network import Lpips


@image_metric(
    MetricInfo(
        name="lpips",
        title="LPIPS",
        better="neither",
        definition="Learned perceptual distance of source and edited image.",
        shown_in=("edits",),
    ),
    *masked_infos(
        "lpips_map_mean",
        "LPIPS-{} (map mean)",
        definition="Mean of the map of learned perceptual distances {}.",
        better="lower",
    ),
    version=1,
    network="lpips",
)
def _lpips(edits: EditBatch, network: "Lpips") -> "dict[str, Tensor]":
    images = edits.source_images, edits.edited_images
    return {"lpips": network(*images), **network.masked(*images, edits.masks)}
