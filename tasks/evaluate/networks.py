"""The networks that score (training and held-out CLIP, features, LPIPS), and the scores of a batch of edits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from iedit_model.configuration import configuration
from iedit_model.metrics.catalogue import metric_info
from iedit_model.models.clip import ClipEncoder, ClipSpec, load_clip
from iedit_model.models.devices import DeviceConfig, resolve_device
from iedit_model.models.source import ModelSource, loaded_once, weights_digest
from storage import digest_of, file_sha256
from tasks.evaluate.sets.evalset import EvalPair
from tasks.evaluate.sets.pixels import Frame

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from iedit_model.metrics.feature_networks import FeatureNetwork
    from iedit_model.metrics.lpips_network import Lpips


@configuration
class NamedClip:
    """An encoder under the name that its metrics carry behind "@"."""

    name: Annotated[str, Field(pattern="^[a-z0-9-]+$")]
    """Short name: ``vit-b-32``."""
    spec: ClipSpec


@configuration
class FeatureSpec:
    """Which network FID and KID see through."""

    kind: Literal["inception", "vgg"]
    """``inception``: FID's own published weights; ``vgg``: the mean features of a VGG, scaled to a root mean square
    of 1, where those are not at hand."""
    source: ModelSource
    """File of the Inception weights, or folder (or hub id) of the VGG."""
    name: str = ""
    """Name in the tables; empty takes the network's own."""
    device: DeviceConfig = field(default_factory=DeviceConfig)


@configuration
class LpipsSpec:
    """Where the weights of LPIPS lie."""

    folder: str
    trunk: Literal["vgg", "alex", "squeeze"] = "vgg"


@configuration
class ScoringConfig:
    """What the edits are scored with."""

    training_clip: NamedClip
    """The encoder that the training loss uses: the paper's CLIPScore."""
    held_out_clip: NamedClip | None
    """An encoder that nothing was trained on; without it a gain in CLIPScore may be the loss's own echo."""
    features: FeatureSpec
    lpips: LpipsSpec | None = None
    """None leaves LPIPS out: its trunk's weights are not at hand."""
    batch_size: PositiveInt = 32
    """Images in one forward pass; part of the fingerprint."""

    def __post_init__(self) -> None:
        if self.held_out_clip is not None and self.held_out_clip.name == self.training_clip.name:
            raise ValueError(f"both encoders are called {self.training_clip.name!r}")

    @property
    def encoders(self) -> Sequence[NamedClip]:
        """The encoders, that of the training loss first."""
        return [clip for clip in (self.training_clip, self.held_out_clip) if clip is not None]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoringNetworks:
    """The loaded networks."""

    encoders: dict[str, ClipEncoder]
    """Name -> encoder, that of the training loss first."""
    features: "FeatureNetwork"
    lpips: "Lpips | None"
    fingerprint: str
    """What decides the scores: names, weights, device and precision."""


@loaded_once
def load_networks(config: ScoringConfig) -> ScoringNetworks:
    """Return the networks of a config, the same for the same config in all threads of a process.

    Raises:
        WeightsError: a model cannot be had.
        MetricWeightsError: the weights of a feature network cannot be used.
        ConfigError: a device is not there.
    """
    return ScoringNetworks(
        encoders={clip.name: load_clip(clip.spec) for clip in config.encoders},
        features=_features(config.features),
        lpips=_lpips(config.lpips),
        fingerprint=networks_fingerprint(config),
    )


def networks_fingerprint(config: ScoringConfig) -> str:
    """Return what decides the scores, without loading a network: names, weights, device and precision.

    Raises:
        WeightsError: a model cannot be had.
        ConfigError: a device is not there.
    """
    parts = [part for clip in config.encoders for part in (clip.name, load_clip(clip.spec).fingerprint)]
    return digest_of(*parts, *_feature_identity(config.features), *_lpips_identity(config.lpips))


def _features(spec: FeatureSpec) -> "FeatureNetwork":
    from dataclasses import replace

    from iedit_model.metrics.feature_networks import load_inception_network, vgg_network
    from iedit_model.models.vgg import load_vgg

    device = resolve_device(spec.device).type
    if spec.kind == "inception":
        network = load_inception_network(Path(spec.source.name).expanduser(), device=device)
    else:
        network = _unit_rms(vgg_network(load_vgg(spec.source).to(device)))
    return replace(network, name=spec.name) if spec.name else network


def _unit_rms(network: "FeatureNetwork") -> "FeatureNetwork":
    """Scale the features of each image to a root mean square of 1: KID's cubic kernel is made for features near 1."""
    from dataclasses import replace

    def extract(images: "Tensor") -> "Tensor":
        features = network.extract(images)
        return features / features.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)

    return replace(network, name=f"{network.name}-rms", extract=extract)


def _feature_identity(spec: FeatureSpec) -> tuple[str, ...]:
    path = Path(spec.source.name).expanduser()
    content = file_sha256(path) if spec.kind == "inception" else weights_digest(spec.source)
    return spec.kind, spec.name, content, resolve_device(spec.device).type


def _lpips(spec: LpipsSpec | None) -> "Lpips | None":
    from iedit_model.metrics.lpips_network import load_lpips

    return None if spec is None else load_lpips(Path(spec.folder).expanduser(), trunk=spec.trunk)


def _lpips_identity(spec: LpipsSpec | None) -> tuple[str, ...]:
    return (
        () if spec is None else (spec.trunk, weights_digest(ModelSource(spec.folder), files=("*.pth", "*.safetensors")))
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """One edited image with its source."""

    pair: EvalPair
    seed: int
    frame: Frame
    edited: "Image"


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchScores:
    """The metrics of a batch, and the image embeddings that they were made of."""

    metrics: list[dict[str, float | None]]
    """One per row, by the metric's name; None where it is undefined."""
    embeds: "dict[str, Tensor]"
    """Encoder -> embeddings of the edited images."""


def score_batch(batch: Sequence[Scored], networks: ScoringNetworks) -> BatchScores:
    """Return every per-image metric of a batch.

    A pair without a mask in the set leaves all masked metrics undefined; one whose mask is empty leaves those inside
    of it undefined.

    Raises:
        MetricInputError: images or masks are not what the metrics can take.
    """
    import torch

    from iedit_model.metrics.catalogue import score_edits
    from iedit_model.metrics.registry import ClipEmbeds, EditBatch

    # Several seeds of a pair stand beside each other: its source and its prompts are embedded once.
    pairs = {one.pair.pair_id: one for one in batch}
    row_of = {pair_id: row for row, pair_id in enumerate(pairs)}
    rows_of_batch = [row_of[one.pair.pair_id] for one in batch]
    clip: dict[str, ClipEmbeds] = {}
    for name, encoder in networks.encoders.items():
        edited = torch.from_numpy(encoder.encode_images([one.edited for one in batch]))
        source, before, after = (
            torch.from_numpy(found)[rows_of_batch]
            for found in (
                encoder.encode_images([one.frame.image for one in pairs.values()]),
                encoder.encode_texts([one.pair.source_prompt for one in pairs.values()]),
                encoder.encode_texts([one.pair.edit_prompt for one in pairs.values()]),
            )
        )
        clip[name] = ClipEmbeds(source_images=source, edited_images=edited, source_prompts=before, edit_prompts=after)
    columns = score_edits(
        EditBatch(
            source_images=image_tensor([one.frame.image for one in batch]),
            edited_images=image_tensor([one.edited for one in batch]),
            masks=torch.from_numpy(np.stack([one.frame.mask for one in batch])),
            clip=clip,
            lpips=networks.lpips,
        )
    )
    lists = {name: values.tolist() for name, values in columns.items()}
    rows = [
        {name: _value(name, values[index], one) for name, values in lists.items()} for index, one in enumerate(batch)
    ]
    return BatchScores(metrics=rows, embeds={name: embeds.edited_images for name, embeds in clip.items()})


def feature_rows(
    batch: Sequence[Scored], scores: BatchScores | None, networks: ScoringNetworks
) -> list[dict[str, Any]]:
    """Return the rows of ``FEATURES``: the feature network and every encoder on the edited images.

    Args:
        batch: the images.
        scores: their scores, whose embeddings are used; None embeds them here.
        networks: the networks.
    """
    import torch

    images = [one.edited for one in batch]
    found = {networks.features.name: networks.features(image_tensor(images)).float()}
    for name, encoder in networks.encoders.items():
        found[name] = torch.from_numpy(encoder.encode_images(images)) if scores is None else scores.embeds[name]
    return [
        {
            "pair_id": one.pair.pair_id,
            "image_id": one.pair.image_id,
            "seed": one.seed,
            "network": network,
            "features": features[index].tolist(),
        }
        for network, features in found.items()
        for index, one in enumerate(batch)
    ]


def image_tensor(images: "Sequence[Image]") -> "Tensor":
    """Return RGB images of one size as (b, 3, h, w) in [0, 1], fp32."""
    import torch

    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 255


def _value(name: str, value: float, one: Scored) -> float | None:
    needs_mask = metric_info(name).needs_mask
    return None if math.isnan(value) or (needs_mask and not one.frame.mask_known) else value
