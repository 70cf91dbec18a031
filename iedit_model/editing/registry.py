"""Every method by its name: which weights it takes, and what else makes it that method."""

from collections.abc import Callable
from dataclasses import field, replace
from typing import Final

from pydantic import PositiveInt

from iedit_model.configuration import configuration
from iedit_model.editing.diffedit import ContrastConfig, DiffEditor, DiffEditSpec
from iedit_model.editing.edit_masks import MaskConfig
from iedit_model.editing.editor import Editor
from iedit_model.editing.framing import FramingConfig
from iedit_model.editing.instruct_editor import (
    InstructEditor,
    InstructEditorSpec,
    InstructModelSpec,
    InstructSampling,
)
from iedit_model.editing.latent_editor import LatentEditor, LatentEditorSpec
from iedit_model.editing.partial_noising import SamplingConfig
from iedit_model.editing.references import CopySource, CopySourceSpec, MaskedNoise, MaskedNoiseSpec
from iedit_model.errors import ConfigError
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.latent_diffusion import LatentDiffusionSpec
from iedit_model.models.segmenter import SegmenterSpec
from iedit_model.models.source import ModelSource

EditorSpec = LatentEditorSpec | DiffEditSpec | InstructEditorSpec | CopySourceSpec | MaskedNoiseSpec


@configuration
class EditorModels:
    """The weights that the methods take; a method asks only for its own."""

    base: ModelSource | None = None
    """The untrained text-to-image model: SDEdit, DiffEdit, in-painting and the VAE's round trip."""
    tuned: ModelSource | None = None
    """What the training made of it: iEdit and iEdit-M."""
    instruct: ModelSource | None = None
    """InstructPix2Pix."""
    segmenter: ModelSource | None = None
    """CLIPSeg, for masks from words."""


@configuration
class EditorSettings:
    """What all methods share, so that a comparison changes the method alone."""

    device: DeviceConfig = field(default_factory=DeviceConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    instruct: InstructSampling = field(default_factory=InstructSampling)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    """For the methods that edit inside a mask."""
    framing: FramingConfig = field(default_factory=FramingConfig)
    paste_back: bool = False
    batch_size: PositiveInt = 4


def editor_spec(method: str, models: EditorModels, settings: EditorSettings | None = None) -> EditorSpec:
    """Return what makes a method of its name.

    Args:
        method: one of ``METHODS``.
        models: the weights at hand.
        settings: shared settings; None takes the paper's.

    Raises:
        ConfigError: an unknown method, or a model that it needs is not there.
    """
    if method not in METHODS:
        raise ConfigError(f"the method {method!r} is unknown; there are {', '.join(METHODS)}")
    return METHODS[method](models, settings or EditorSettings())


def build_editor(spec: EditorSpec) -> Editor:
    """Return the method of a spec; its models are loaded at the first request.

    Raises:
        WeightsError: a model cannot be had; the message says what to do.
        ConfigError: the device is not there.
    """
    match spec:
        case LatentEditorSpec():
            return LatentEditor(spec)
        case DiffEditSpec():
            return DiffEditor(spec)
        case InstructEditorSpec():
            return InstructEditor(spec)
        case MaskedNoiseSpec():
            return MaskedNoise(spec)
        case CopySourceSpec():
            return CopySource(spec)


def _sdedit(models: EditorModels, settings: EditorSettings) -> EditorSpec:
    return _everywhere("sdedit", _needed("sdedit", "base", models.base), settings)


def _iedit(models: EditorModels, settings: EditorSettings) -> EditorSpec:
    return _everywhere("iedit", _needed("iedit", "tuned", models.tuned), settings)


def _iedit_m(models: EditorModels, settings: EditorSettings) -> EditorSpec:
    return _masked("iedit_m", _needed("iedit_m", "tuned", models.tuned), models, settings)


def _sdedit_m(models: EditorModels, settings: EditorSettings) -> EditorSpec:
    return _masked("sdedit_m", _needed("sdedit_m", "base", models.base), models, settings)


def _inpaint(models: EditorModels, settings: EditorSettings) -> EditorSpec:
    spec = _masked("inpaint", _needed("inpaint", "base", models.base), models, settings)
    return replace(spec, start="noise", sampling=replace(settings.sampling, strength=1.0))


def _vae_round_trip(models: EditorModels, settings: EditorSettings) -> EditorSpec:
    unmasked = replace(settings, sampling=replace(settings.sampling, strength=0.0))
    return _everywhere("vae_round_trip", _needed("vae_round_trip", "base", models.base), unmasked)


def _diffedit(models: EditorModels, settings: EditorSettings) -> EditorSpec:
    return DiffEditSpec(
        model=_placed(_needed("diffedit", "base", models.base), settings),
        sampling=replace(settings.sampling, sampler="ddim"),
        contrast=settings.contrast,
        framing=settings.framing,
        paste_back=settings.paste_back,
        batch_size=settings.batch_size,
    )


def _instruct_pix2pix(models: EditorModels, settings: EditorSettings) -> EditorSpec:
    source = _needed("instruct_pix2pix", "instruct", models.instruct)
    return InstructEditorSpec(
        model=InstructModelSpec(model=source, device=settings.device),
        sampling=settings.instruct,
        framing=settings.framing,
        batch_size=settings.batch_size,
    )


def _copy_source(models: EditorModels, settings: EditorSettings) -> EditorSpec:
    del models, settings
    return CopySourceSpec()


def _masked_noise(models: EditorModels, settings: EditorSettings) -> EditorSpec:
    segmenter = _segmenter("masked_noise", models, settings)
    return MaskedNoiseSpec(masks=settings.masks, segmenter=segmenter)


METHODS: Final[dict[str, Callable[[EditorModels, EditorSettings], EditorSpec]]] = {
    "iedit": _iedit,
    "iedit_m": _iedit_m,
    "sdedit": _sdedit,
    "sdedit_m": _sdedit_m,
    "instruct_pix2pix": _instruct_pix2pix,
    "inpaint": _inpaint,
    "diffedit": _diffedit,
    "copy_source": _copy_source,
    "vae_round_trip": _vae_round_trip,
    "masked_noise": _masked_noise,
}
"""Each method's name and what builds its spec from the weights and settings at hand.

``sdedit_m`` is the control that tells the mask's part from the training's; ``inpaint`` (the base model, started from
noise inside the mask) plays the part of DALL-E 2 in the paper.
"""

MASKED_FORM: Final = {"iedit": "iedit_m", "sdedit": "sdedit_m"}
"""Methods that edit everywhere -> the same weights with Eq. 13."""

NEEDS_MASK: Final = frozenset({"iedit_m", "sdedit_m", "inpaint", "masked_noise"})
"""Methods that edit inside a mask and cannot do without."""


def _everywhere(name: str, model: ModelSource, settings: EditorSettings) -> LatentEditorSpec:
    return LatentEditorSpec(
        name=name,
        model=_placed(model, settings),
        sampling=settings.sampling,
        framing=settings.framing,
        batch_size=settings.batch_size,
    )


def _masked(name: str, model: ModelSource, models: EditorModels, settings: EditorSettings) -> LatentEditorSpec:
    return replace(
        _everywhere(name, model, settings),
        masks=settings.masks,
        segmenter=_segmenter(name, models, settings),
        paste_back=settings.paste_back,
    )


def _placed(model: ModelSource, settings: EditorSettings) -> LatentDiffusionSpec:
    return LatentDiffusionSpec(model=model, device=settings.device)


def _segmenter(method: str, models: EditorModels, settings: EditorSettings) -> SegmenterSpec | None:
    if settings.masks.source == "none":
        raise ConfigError(f"{method} edits inside a mask, and the masks' source is 'none': take word or request")
    if not settings.masks.needs_segmenter:
        return None
    return SegmenterSpec(model=_needed(method, "segmenter", models.segmenter), device=settings.device)


def _needed(method: str, name: str, model: ModelSource | None) -> ModelSource:
    if model is None:
        raise ConfigError(f"{method} needs the model {name!r}, which is not configured")
    return model
