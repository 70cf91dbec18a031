"""Frozen-encoder outputs of a pair, as far as the configured losses need them: one encoding per kind of tensor.

An encoding is computed once per dataset version and kept (``encoding_cache``), or anew for every batch. Its settings
and the digest of its network say everything that decides its values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from iedit_model.masks import dilate, to_latent_mask
from iedit_model.training.config import LatentMaskMode, LossConfig, MaskFill, PerceptualAlign
from tasks.train.networks import Networks
from tasks.train.run_config import CacheConfig, PromptSource, TrainRunConfig
from tasks.train.train_rows import PairSample

if TYPE_CHECKING:
    from torch import Tensor

Encode = Callable[[Sequence[PairSample]], "Mapping[str, Tensor]"]


@dataclass(frozen=True, kw_only=True)
class EncodingSettings:
    """What every encoding depends on, beside its own ``options``."""

    name: str
    prompts: PromptSource
    cache: CacheConfig
    """Whole, but for its neutral fields: also how many samples are encoded at once decides the last bits."""
    device: str
    """cpu or cuda: another one computes other last bits."""
    options: object = None


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How pixel masks become latent ones."""

    mode: LatentMaskMode
    threshold: float
    dilation: int
    cell_px: int
    """Pixels per latent cell, each way."""


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Which perceptual features."""

    layer: str
    align: PerceptualAlign
    fill: MaskFill
    size_px: int | None
    margin: float
    precision: str


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One kind of tensors of every pair."""

    settings: EncodingSettings
    weights_digest: str | None
    """Hash of the network, if there is one."""
    encode: Encode
    """Names of ``EditBatch`` fields and their tensors for some pairs; called without gradients."""
    keeps_dtype: bool = False
    """Whether the tensors are kept as they are (bytes), not in the cache's precision."""


def build_encodings(networks: Networks, config: TrainRunConfig, *, keep_features: bool) -> list[Encoding]:
    """Return the encodings that the configured losses need.

    Args:
        networks: the networks of the run.
        config: its configuration.
        keep_features: whether Eq. 10 gets the target's features, else the target's pixels and mask.
    """
    from iedit_model.training.terms import needed_fields

    kinds = _Kinds(networks, config)
    needed = needed_fields(config.train.loss)
    by_fields = [
        (("source_prompt_embeds",), kinds.source_prompts),
        (("source_mask", "target_mask"), kinds.latent_masks),
        (("source_pixel_mask",), kinds.pixel_masks),
        (("text_embeds",), kinds.clip_prompts),
        (("diff_text_embeds",), kinds.clip_diffs),
        (("target_features",), kinds.target_features if keep_features else kinds.target_images),
        (("target_pixels", "target_pixel_mask"), kinds.target_images),
    ]
    builders = [kinds.latents, kinds.prompts]
    builders += [build for fields, build in by_fields if not needed.keys().isdisjoint(fields)]
    return [build() for build in dict.fromkeys(builders)]


def cell_px(networks: Networks) -> int:
    """Return how many pixels a latent cell stands for, each way."""
    return networks.model.cell_px


class _Kinds:
    def __init__(self, networks: Networks, config: TrainRunConfig) -> None:
        self._networks, self._config = networks, config
        self._loss: LossConfig = config.train.loss

    def latents(self) -> Encoding:
        def encode(pairs: Sequence[PairSample]) -> "Mapping[str, Tensor]":
            return {
                "source_latents": self._networks.model.encode_images(_pixels(pairs, "source_pixels")),
                "target_latents": self._networks.model.encode_images(_pixels(pairs, "target_pixels")),
            }

        return self._encoding("latents", encode, "model")

    def prompts(self) -> Encoding:
        return self._encoding(
            "prompts", lambda pairs: {"prompt_embeds": self._tau([pair.prompt for pair in pairs])}, "model"
        )

    def source_prompts(self) -> Encoding:
        return self._encoding(
            "source-prompts",
            lambda pairs: {"source_prompt_embeds": self._tau([pair.source_prompt for pair in pairs])},
            "model",
        )

    def latent_masks(self) -> Encoding:
        loss = self._loss
        options = MaskOptions(
            mode=loss.latent_mask_mode,
            threshold=loss.latent_mask_threshold,
            dilation=loss.latent_mask_dilation,
            cell_px=cell_px(self._networks),
        )

        def encode(pairs: Sequence[PairSample]) -> "Mapping[str, Tensor]":
            return {name: _latent_mask(_masks(pairs, name), options) for name in ("source_mask", "target_mask")}

        return self._encoding("latent-masks", encode, None, options)

    def pixel_masks(self) -> Encoding:
        return self._encoding(
            "pixel-masks", lambda pairs: {"source_pixel_mask": _bytes(pairs, "source_mask")}, None, keeps_dtype=True
        )

    def target_images(self) -> Encoding:
        def encode(pairs: Sequence[PairSample]) -> "Mapping[str, Tensor]":
            return {
                "target_pixels": _bytes(pairs, "target_pixels"),
                "target_pixel_mask": _bytes(pairs, "target_mask"),
            }

        return self._encoding("target-images", encode, None, keeps_dtype=True)

    def clip_prompts(self) -> Encoding:
        return self._encoding(
            "clip-prompts", lambda pairs: {"text_embeds": self._clip_texts([pair.prompt for pair in pairs])}, "clip"
        )

    def clip_diffs(self) -> Encoding:
        return self._encoding(
            "clip-diffs",
            lambda pairs: {"diff_text_embeds": self._clip_texts([pair.diff_prompt for pair in pairs])},
            "clip",
        )

    def target_features(self) -> Encoding:
        loss, perceptual = self._loss, self._networks.perceptual
        options = FeatureOptions(
            layer=loss.perc_layer,
            align=loss.perc_align,
            fill=loss.mask_fill,
            size_px=loss.perc_size_px,
            margin=loss.crop_margin,
            precision=self._config.compute.loss_precision,
        )

        def encode(pairs: Sequence[PairSample]) -> "Mapping[str, Tensor]":
            if perceptual is None:
                return {}
            device = self._networks.device
            pixels, mask = _pixels(pairs, "target_pixels").to(device), _masks(pairs, "target_mask").to(device)
            return {"target_features": perceptual.target(pixels, mask)}

        return self._encoding("target-features", encode, "perceptual", options)

    def _tau(self, prompts: Sequence[str]) -> "Tensor":
        return self._networks.model.encode_prompts(prompts)

    def _clip_texts(self, texts: Sequence[str]) -> "Tensor":
        import torch

        clip = self._networks.clip
        return torch.empty(0) if clip is None else clip.embed_texts(texts)

    def _encoding(
        self, name: str, encode: Encode, network: str | None, options: object = None, *, keeps_dtype: bool = False
    ) -> Encoding:
        settings = EncodingSettings(
            name=name,
            prompts=self._config.rows.prompts,
            cache=self._config.cache,
            device=self._networks.device.type,
            options=options,
        )
        weights_digest = None if network is None else self._networks.weights_digests[network]
        return Encoding(settings=settings, weights_digest=weights_digest, encode=encode, keeps_dtype=keeps_dtype)


def encode_pairs(encodings: Sequence[Encoding], pairs: Sequence[PairSample]) -> "dict[str, Tensor]":
    """Return all tensors of some pairs, on the CPU, without gradients."""
    return {name: tensor for _, name, tensor in encoded(encodings, pairs)}


def encoded(encodings: Sequence[Encoding], pairs: Sequence[PairSample]) -> "Iterator[tuple[Encoding, str, Tensor]]":
    """Yield each tensor of some pairs with its encoding and name, on the CPU, without gradients."""
    import torch

    with torch.no_grad():
        for encoding in encodings:
            for name, tensor in encoding.encode(pairs).items():
                yield encoding, name, tensor.cpu()


def to_batch_range(name: str, tensor: "Tensor") -> "Tensor":
    """Return a kept tensor as ``EditBatch`` wants it: fp32, bytes of images in [-1, 1], of masks in [0, 1]."""
    import torch

    if tensor.dtype != torch.uint8:
        return tensor.float()
    values = tensor.float() / 255
    return values * 2 - 1 if name == "target_pixels" else values


def _bytes(pairs: Sequence[PairSample], field: str) -> "Tensor":
    import torch

    return torch.from_numpy(np.stack([getattr(pair, field) for pair in pairs]))


def _pixels(pairs: Sequence[PairSample], field: str) -> "Tensor":
    return _bytes(pairs, field).float() / 255 * 2 - 1


def _masks(pairs: Sequence[PairSample], field: str) -> "Tensor":
    return _bytes(pairs, field).float() / 255


def _latent_mask(mask: "Tensor", options: MaskOptions) -> "Tensor":
    size: Any = tuple(side // options.cell_px for side in mask.shape[-2:])
    return dilate(to_latent_mask(mask, size=size, mode=options.mode, threshold=options.threshold), options.dilation)
