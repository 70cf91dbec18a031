"""The weights and settings that editing methods share, and a method's spec by its name (``methods`` lists them)."""

from dataclasses import field
from typing import Literal

from pydantic import PositiveInt

from iedit_model.configuration import configuration
from iedit_model.editing.framing import FramingConfig
from iedit_model.editing.methods import EditorSpec, method_info
from iedit_model.editing.settings import ContrastConfig, InstructSampling, MaskConfig, SamplingConfig
from iedit_model.errors import ConfigError
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.segmenter import SegmenterSpec
from iedit_model.models.source import ModelSource


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

    def needed(self, name: Literal["base", "tuned", "instruct", "segmenter"], method: str) -> ModelSource:
        """Return one of the models.

        Raises:
            ConfigError: it is not configured; the message names the method that asks.
        """
        model: ModelSource | None = getattr(self, name)
        if model is None:
            raise ConfigError(f"{method} needs the model {name!r}, which is not configured")
        return model


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

    def segmenter(self, models: EditorModels, method: str) -> SegmenterSpec | None:
        """Return the segmenter of a method that edits inside a mask; None where the request brings the mask.

        Raises:
            ConfigError: the masks' source is ``none``, or the segmenter is not configured.
        """
        if self.masks.source == "none":
            raise ConfigError(f"{method} edits inside a mask, and the masks' source is 'none': take word or request")
        if not self.masks.needs_segmenter:
            return None
        return SegmenterSpec(model=models.needed("segmenter", method), device=self.device)


def editor_spec(method: str, models: EditorModels, settings: EditorSettings | None = None) -> EditorSpec:
    """Return what makes a method of its name.

    Args:
        method: one of ``METHODS``.
        models: the weights at hand.
        settings: shared settings; None takes the paper's.

    Raises:
        ConfigError: an unknown method, or a model that it needs is not there.
    """
    return method_info(method).build(models, settings or EditorSettings())
