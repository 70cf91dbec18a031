"""InstructPix2Pix (arXiv:2211.09800) by diffusers' own pipeline, behind the interface of all methods."""

from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import PositiveInt
from torch import nn

from iedit_model.configuration import configuration
from iedit_model.editing.batches import CanvasBatch, EditedBatch, config_digest, edit_in_batches
from iedit_model.editing.editor import EditRequest, EditResult
from iedit_model.editing.framing import FramingConfig
from iedit_model.editing.instructions import instruction_of
from iedit_model.editing.methods import editing_method, edits_with
from iedit_model.editing.settings import InstructSampling
from iedit_model.errors import WeightsError
from iedit_model.models.devices import DeviceConfig, resolve_device
from iedit_model.models.latent_diffusion import read_parts
from iedit_model.models.source import ModelSource, loaded_once, loading, model_fingerprint, model_folder

if TYPE_CHECKING:
    from iedit_model.editing.registry import EditorModels, EditorSettings


@configuration
class InstructModelSpec:
    """Which InstructPix2Pix folder, and where it runs."""

    model: ModelSource
    """A folder as ``StableDiffusionInstructPix2PixPipeline.save_pretrained`` writes it, or a hub id."""
    device: DeviceConfig = field(default_factory=DeviceConfig)


@configuration
class InstructEditorSpec:
    """InstructPix2Pix with its weights and settings."""

    model: InstructModelSpec
    sampling: InstructSampling = field(default_factory=InstructSampling)
    framing: FramingConfig = field(default_factory=FramingConfig)
    batch_size: PositiveInt = 4
    name: str = "instruct_pix2pix"


@edits_with(InstructEditorSpec)
class InstructEditor:
    """Edits by instruction; masks of requests are not looked at."""

    def __init__(self, spec: InstructEditorSpec) -> None:
        """Find the model's files and the device, without loading anything.

        Raises:
            WeightsError: the model cannot be had; the message says what to do.
            ConfigError: the device is not there.
        """
        self._spec = spec
        self.name = spec.name
        settings = config_digest(spec.sampling, spec.framing)
        weights = model_fingerprint(spec.model.model, resolve_device(spec.model.device))
        self.fingerprint = f"{spec.name}:{settings}:{weights}"

    def edit(self, requests: Sequence[EditRequest], /) -> list[EditResult]:
        """Return one result for each request, in order; see ``Editor.edit``."""
        spec, pipeline = self._spec, _load_pipeline(self._spec.model)
        instructions = [instruction_of(request) for request in requests]
        cell_px = pipeline.vae_scale_factor
        return edit_in_batches(
            requests,
            lambda batch: self._edited(pipeline, batch, [instructions[index] for index in batch.indices]),
            framing=spec.framing,
            native_px=int(pipeline.unet.config.sample_size) * cell_px,
            cell_px=cell_px,
            batch_size=spec.batch_size,
            num_unet_evaluations=3 * spec.sampling.num_inference_steps,
        )

    def _edited(self, pipeline: Any, batch: CanvasBatch, instructions: list[str]) -> EditedBatch:
        sampling = self._spec.sampling
        pixels = pipeline(
            instructions,
            # The pipeline takes tensors in [0, 1].
            image=(batch.pixel_values() + 1) / 2,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            image_guidance_scale=sampling.image_guidance_scale,
            generator=[torch.Generator().manual_seed(request.seed) for request in batch.requests],
            output_type="pt",
        ).images
        return EditedBatch(pixel_values=pixels * 2 - 1)


@loaded_once
def _load_pipeline(spec: InstructModelSpec) -> Any:
    import diffusers

    folder, device = model_folder(spec.model), resolve_device(spec.device)
    parts = read_parts(spec.model, folder, num_images=2)
    config = parts.pop("scheduler_config")
    with loading(spec.model, "InstructPix2Pix"):
        name = str(config.get("_class_name"))
        kind = getattr(diffusers, name)
        if not issubclass(kind, diffusers.SchedulerMixin):
            raise WeightsError(f"the scheduler of {spec.model.name} is a {name}, which is none")
        scheduler = cast("Any", kind).from_config(config)
        build: Any = diffusers.StableDiffusionInstructPix2PixPipeline
        pipeline = build(
            **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        nn.Module.to(part, device.type, device.torch_dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@editing_method("instruct_pix2pix", title="InstructPix2Pix", weights="instruct")
def _instruct_pix2pix(models: "EditorModels", settings: "EditorSettings") -> InstructEditorSpec:
    source = models.needed("instruct", "instruct_pix2pix")
    return InstructEditorSpec(
        model=InstructModelSpec(model=source, device=settings.device),
        sampling=settings.instruct,
        framing=settings.framing,
        batch_size=settings.batch_size,
    )
