"""CLIP through open_clip: unit embeddings of images and texts, with the preprocessing that the weights were made for.

A model is an open_clip folder (``open_clip_config.json``, safetensors weights, tokenizer files), a hub id of one, or
``open_clip:ARCHITECTURE:TAG`` for open_clip's own list. Weights trained with QuickGELU (OpenAI's and some others) give
other features, silently, under a configuration without it: such a pair is refused.
"""

import re
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from iedit_model.configuration import configuration
from iedit_model.errors import ConfigError, ForeignCodeError, MissingModelError, OverflowedError, WeightsError
from iedit_model.models.devices import DeviceConfig, resolve_device
from iedit_model.models.lazy_model import LazyModel
from iedit_model.models.source import (
    HUB_PREFIX,
    ModelSource,
    frozen,
    loaded_once,
    loading,
    model_folder,
    read_model_json,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

CLIP_FILES = (
    "open_clip_config.json",
    "open_clip_model.safetensors",
    *("tokenizer*.json", "special_tokens_map.json", "vocab.*", "merges.txt", "*.model"),
)
"""What makes up an open_clip model; other files of its hub page hold the same weights for other libraries."""

_TOKENIZER_SETTINGS = frozenset({"clean", "strip_sep_token", "language", "reduction_mask", "context_length"})
"""What a model may tell its tokenizer; all else would go on to transformers as it is."""
_WEIGHTS = "open_clip_model.safetensors"
_CONFIG = "open_clip_config.json"
_LISTED = re.compile(r"open_clip:([^:]+):([^:]+)")
_HUB_PAGE = re.compile(r"[\w.-]+/[\w.-]+")
_QUICK_GELU_NAME = re.compile(r"openai(?!\w)|quick-?gelu", re.IGNORECASE)

Embeds = npt.NDArray[np.float32]


@configuration
class ClipSpec:
    """Which CLIP, and where it runs."""

    model: ModelSource
    """A folder, a hub id, or ``open_clip:ViT-L-14-quickgelu:openai``."""
    device: DeviceConfig = field(default_factory=DeviceConfig)


class ClipEncoder(LazyModel[ClipSpec, "OpenClip"]):
    """An open_clip model that embeds images and texts; loaded at the first use, fit for threads."""

    def __init__(self, spec: ClipSpec) -> None:
        """Find the model's files and the device, without loading anything.

        Raises:
            WeightsError: the model cannot be had, or needs QuickGELU and does not say so.
            ConfigError: the device is not there, or open_clip lists no such model.
        """
        source = _listed_source(spec.model)
        # Asked before anything is hashed: a wrong folder may be large.
        self._config = _checked_config(model_folder(source, files=CLIP_FILES), spec.model.name)
        super().__init__(spec, _load_open_clip, source=source, files=CLIP_FILES)

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return int(self._config["embed_dim"])

    def prepare(self, image: "Image", /) -> "Tensor":
        """Return what the model sees of an image: resized, cropped and normalised, float32 (3, s, s)."""
        return self._loaded.preprocess(image)

    def encode_prepared(self, prepared: "Sequence[Tensor]", /) -> Embeds:
        """Return unit embeddings (n, dim) of prepared images, float32."""
        import torch

        with self._lock, torch.inference_mode():
            batch = torch.stack(list(prepared)).to(self._device.type, self._device.torch_dtype)
            return _unit(self._loaded.model.encode_image(batch))

    def encode_images(self, images: "Sequence[Image]", /) -> Embeds:
        """Return unit embeddings (n, dim) of images, float32."""
        return self.encode_prepared([self.prepare(image) for image in images])

    def encode_texts(self, texts: Sequence[str], /) -> Embeds:
        """Return unit embeddings (n, dim) of texts, float32; what exceeds the model's context is cut off."""
        import torch

        loaded = self._loaded
        with self._lock, torch.inference_mode():
            return _unit(loaded.model.encode_text(loaded.tokenizer(list(texts)).to(self._device.type)))


class OpenClip(NamedTuple):
    """What open_clip makes of a model's folder."""

    model: Any
    preprocess: Any
    tokenizer: Any


@loaded_once
def load_clip(spec: ClipSpec) -> ClipEncoder:
    """Return the encoder of a spec, the same one for the same spec in all threads of a process.

    Raises:
        WeightsError: the model cannot be had, or needs QuickGELU and does not say so.
        ConfigError: the device is not there, or open_clip lists no such model.
    """
    return ClipEncoder(spec)


@loaded_once
def _load_open_clip(spec: ClipSpec) -> OpenClip:
    device = resolve_device(spec.device)
    return read_open_clip(spec.model, precision=device.dtype, device=device.type)


def read_open_clip(source: ModelSource, *, precision: str = "fp32", device: str = "cpu") -> OpenClip:
    """Return the frozen parts of an open_clip model, read anew from safetensors.

    open_clip itself only warns when the weights are missing, and goes on with random ones; and it would read a pickled
    file. Here either is an error.

    Raises:
        WeightsError: the model cannot be had, needs QuickGELU and does not say so, or its files do not fit together.
        ConfigError: open_clip lists no such model.
    """
    from open_clip import CLIP, CustomTextCLIP, create_model, get_tokenizer
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    folder = model_folder(_listed_source(source), files=CLIP_FILES)
    text = _checked_config(folder, source.name).get("text_cfg") or {}
    # Said by the caller it goes over whatever the folder says; open_clip's own tokenizer does not know the word.
    no_code: dict[str, Any] = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
    name = f"local-dir:{folder}"
    with loading(source, "an open_clip model"):
        model: Any = create_model(name, precision=precision, device=device, require_pretrained=True, weights_only=True)
        tokenizer = get_tokenizer(name, **no_code)
    if not isinstance(model, CLIP | CustomTextCLIP):
        raise WeightsError(
            f"{source.name} holds a {type(model).__name__}, expected open_clip's model of image and text"
        )
    frozen(model, origin=folder / _WEIGHTS)
    preprocessing: Any = model.visual.preprocess_cfg
    with loading(source, "an open_clip model"):
        preprocess: Any = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)
        preprocess(Image.new("RGB", (64, 48)))  # what its settings cannot do shows at the first image
    size = getattr(model, "vocab_size", None)

    def tokens_of(texts: list[str]) -> "Tensor":
        tokens: Tensor = tokenizer(texts)
        if size is not None and int(tokens.max()) >= size:
            raise WeightsError(
                f"the tokenizer of {source.name} gives the number {int(tokens.max())} to a word, and its model knows "
                f"{size} words: they belong to two models"
            )
        return tokens

    return OpenClip(model, preprocess, tokens_of)


def _unit(embeds: "Tensor") -> Embeds:
    from torch.nn import functional

    unit = functional.normalize(embeds.float(), dim=-1).cpu().numpy()
    if not np.isfinite(unit).all():
        raise OverflowedError("the embeddings of CLIP", embeds.dtype)
    return unit


def _listed_source(source: ModelSource) -> ModelSource:
    """Return the hub page of a model that open_clip lists; anything else as it is."""
    if source.name.startswith("open_clip:"):
        from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

        found = _LISTED.fullmatch(source.name)
        listed = get_pretrained_cfg(*found.groups()) if found else {}
        if not listed:
            tags = list_pretrained_tags_by_model(found[1]) if found else []
            raise ConfigError(
                f"open_clip lists no weights {source.name!r}, expected open_clip:ARCHITECTURE:TAG"
                + (f" with one of the tags {', '.join(tags)}" if tags else "")
            )
        page = str(listed.get("hf_hub", "")).rpartition("/")[0]
        if not page:
            raise MissingModelError(f"open_clip knows {source.name} only as a pickled file: take another tag")
        return ModelSource(page, source.revision)
    return source


def _checked_config(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / _WEIGHTS).is_file():
        raise WeightsError(f"{name} ({folder}) has no {_WEIGHTS}: open_clip would go on with random weights")
    config = read_model_json(folder, _CONFIG).get("model_cfg")
    if not isinstance(config, dict) or not isinstance(config.get("embed_dim"), int):
        raise WeightsError(f"{name} ({folder}): {_CONFIG} has no model_cfg with an embed_dim")
    towers = [config.get(name) for name in ("vision_cfg", "text_cfg")]
    for tower in (tower for tower in towers if isinstance(tower, dict)):
        strange = set(tower.get("tokenizer_kwargs") or ()) - _TOKENIZER_SETTINGS
        names = [str(tower[key]) for key in ("timm_model_name", "hf_model_name") if tower.get(key)]
        outside = [name for name in names if ":" in name or Path(name).exists() or Path(name).is_absolute()]
        if strange or outside:
            raise ForeignCodeError(
                f"{folder / _CONFIG} hands {min(strange or outside)!r} to the libraries, by which they could be told "
                "to run code or to load another model: remove the entry, or take the model from its original page"
            )
    if needs_quick_gelu(name) and not config.get("quick_gelu"):
        raise WeightsError(
            f"the weights of {name} were trained with QuickGELU, but their {_CONFIG} does not say quick_gelu: its "
            "features would be wrong without any error; add quick_gelu: true to model_cfg, or take the original page"
        )
    return config


def needs_quick_gelu(name: str) -> bool:
    """Return whether the weights of this name are known to be trained with QuickGELU.

    Asked are open_clip's list of hub pages and the name itself: copies of OpenAI's weights are called after them.
    """
    if name.startswith("open_clip:"):
        from open_clip.pretrained import get_pretrained_cfg

        return bool(get_pretrained_cfg(*name.split(":")[1:3]).get("quick_gelu"))
    page = name.removeprefix(HUB_PREFIX)
    known = _listed_entries(page) if _HUB_PAGE.fullmatch(page) else []
    return any(entry.get("quick_gelu") for entry in known) or (
        not known and _QUICK_GELU_NAME.search(page.rpartition("/")[2]) is not None
    )


def _listed_entries(page: str) -> list[dict[str, Any]]:
    """Return what open_clip's list says about the weights of a hub page; asked for no folder, as its import is slow."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained

    listed = [get_pretrained_cfg(*pair) for pair in list_pretrained()]
    return [entry for entry in listed if str(entry.get("hf_hub", "")).rpartition("/")[0] == page]
