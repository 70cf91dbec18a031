"""``IEditPipeline``: editing in diffusers' own manner, on any Stable Diffusion v1 or v2 folder, fine-tuned or not."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput, StableDiffusionSafetyChecker
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer

from iedit_model.editing.batches import CanvasBatch, EditedBatch, edit_in_batches
from iedit_model.editing.edit_masks import MaskConfig, latent_masks
from iedit_model.editing.editor import EditRequest
from iedit_model.editing.framing import FramingConfig, frame
from iedit_model.editing.pipeline_inputs import Images, Masks, broadcast, images_of, masks_of
from iedit_model.editing.sampling import edit_latents, embed_prompts
from iedit_model.editing.settings import SamplerName, SamplingConfig
from iedit_model.errors import ConfigError, EditError
from iedit_model.models.latent_diffusion import LatentDiffusion, check_prediction, read_parts
from iedit_model.models.source import ModelSource, loading, model_folder

if TYPE_CHECKING:
    from PIL.Image import Image

OutputType = Literal["pil", "np", "pt"]
Generators = torch.Generator | list[torch.Generator] | None


class IEditPipeline(DiffusionPipeline):
    """Edits images by prompts, everywhere or inside a mask; images of any size, results in the size of their source.

    The scheduler says how it samples: ``DDIMScheduler`` and ``PNDMScheduler`` (Stable Diffusion's own folder) mean
    DDIM, the paper's sampler, ``DPMSolverMultistepScheduler`` means DPM-Solver++(2M). Its config says the rest, also
    that the UNet predicts a velocity, trailing timestep spacing and a schedule that ends without signal.

    Example:
        >>> pipeline = IEditPipeline.from_pretrained("runs/iedit")
        >>> edited = pipeline(image=photo, prompt="a train on a road", strength=0.7).images[0]
    """

    _optional_components = ["safety_checker", "feature_extractor", "image_encoder"]  # noqa: RUF012 - diffusers' own form

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler | PNDMScheduler | DPMSolverMultistepScheduler,
        safety_checker: StableDiffusionSafetyChecker | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        image_encoder: Any = None,
        *,
        requires_safety_checker: bool = False,
    ) -> None:
        """Put the parts together; names and kinds are those of ``StableDiffusionPipeline``."""
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
        )
        self.register_to_config(requires_safety_checker=requires_safety_checker)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Return the pipeline of a Stable Diffusion folder or hub id; weights are read from safetensors only.

        Args:
            pretrained_model_name_or_path: a folder as ``StableDiffusionPipeline.save_pretrained`` writes it, or a hub
                id.
            **kwargs: what ``DiffusionPipeline.from_pretrained`` takes: ``dtype``, ``revision``, ...

        Raises:
            ConfigError: pickled weights, or code that does not come with diffusers, are asked for.
            WeightsError: the model cannot be had or is of another kind; the message says what to do.
        """
        if not kwargs.pop("use_safetensors", True):
            raise ConfigError("use_safetensors is off; pickled weights can run code and are never read")
        if asked := [name for name in ("custom_pipeline", "trust_remote_code") if kwargs.get(name)]:
            raise ConfigError(f"{asked[0]} is given; no code of a model is ever run")
        kwargs.pop("local_files_only", None)  # after ``model_folder`` everything is local
        source = ModelSource(str(pretrained_model_name_or_path), kwargs.pop("revision", None))
        folder = model_folder(source)
        parts = read_parts(source, folder)
        check_prediction(parts, source)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        for name in ("unet", "vae", "text_encoder"):
            nn.Module.to(parts[name].requires_grad_(requires_grad=True), dtype=dtype)
        given = {name: parts[name] for name in ("unet", "vae", "text_encoder", "tokenizer") if name not in kwargs}
        with loading(source, "a pipeline"):
            pipeline: Any = super().from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, **given, **kwargs
            )
        return pipeline

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write an ordinary Stable Diffusion folder, which ``DiffusionPipeline.from_pretrained`` opens everywhere.

        Args:
            save_directory: where to.
            *args: as in ``StableDiffusionPipeline.save_pretrained``.
            **kwargs: likewise.

        Raises:
            ConfigError: ``safe_serialization`` is asked to be off.
        """
        parts: dict[str, Any] = dict(self.components)
        if not kwargs.get("safe_serialization", True):
            raise ConfigError("safe_serialization is off; weights are written as safetensors only")
        required = bool(dict(self.config)["requires_safety_checker"])
        ordinary = StableDiffusionPipeline(**parts, requires_safety_checker=required)
        ordinary.save_pretrained(str(save_directory), *args, **kwargs)

    @torch.no_grad()
    def __call__(
        self,
        image: Images,
        prompt: str | Sequence[str],
        mask_image: Masks | None = None,
        *,
        strength: float = 0.7,
        guidance_scale: float = 7.5,
        num_inference_steps: int = 50,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        mask_config: MaskConfig | None = None,
        framing: FramingConfig | None = None,
        paste_back: bool = False,
    ) -> StableDiffusionPipelineOutput | tuple[Any, list[bool] | None]:
        """Edit images, one or many at once.

        Args:
            image: a PIL image of any mode and size, or a list; arrays (h, w, 3) or (b, h, w, 3) and tensors (3, h, w)
                or (b, 3, h, w), in [0, 1] or as uint8.
            prompt: what the edited images shall show; one for all or one an image.
            mask_image: white (1) = edit here, in the form of ``image`` but with one channel; None edits everywhere.
            strength: share of the steps taken, in [0, 1]; 0 gives the VAE's round trip.
            guidance_scale: 1 or less is none.
            num_inference_steps: steps of the whole trajectory.
            num_images_per_prompt: results for each image and prompt, one after another in the list.
            generator: one for all results, or one a result; on the CPU results are the same on every device.
            output_type: pil, np ((b, h, w, 3) in [0, 1]) or pt ((b, 3, h, w) in [0, 1]); arrays of several sizes come
                as a list.
            return_dict: whether to return an output object instead of a tuple.
            mask_config: how pixels become latent cells, and the mask's growth.
            framing: the canvases that images go through the model in.
            paste_back: put the source's pixels back outside the mask.

        Raises:
            EditError: images, prompts, masks and generators do not go together.
            ConfigError: a number is out of its range, or the scheduler is of another kind.
        """
        sampling = SamplingConfig(
            strength=strength,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            sampler=self._sampler,
        )
        requests, model = _requests(image, prompt, mask_image, num_images_per_prompt), self._model()
        framing, masks = framing or FramingConfig(), mask_config or MaskConfig()
        noise = _noise_of(requests, model, framing, generator)
        results = edit_in_batches(
            requests,
            lambda batch: _edited(model, batch, [noise[index] for index in batch.indices], sampling, masks),
            framing=framing,
            native_px=model.native_px,
            cell_px=model.cell_px,
            batch_size=len(requests),
            num_unet_evaluations=sampling.num_unet_evaluations,
            masks=[request.mask_array for request in requests],
            paste_back=paste_back,
        )
        images, flags = self._screened([result.image for result in results])
        output = _as_output(images, output_type)
        return StableDiffusionPipelineOutput(output, flags) if return_dict else (output, flags)

    @property
    def _sampler(self) -> SamplerName:
        if isinstance(self.scheduler, DPMSolverMultistepScheduler):
            return "dpmsolver++"
        if isinstance(self.scheduler, DDIMScheduler | PNDMScheduler):
            return "ddim"
        raise ConfigError(
            f"the scheduler is a {type(self.scheduler).__name__}; expected DDIMScheduler, PNDMScheduler or "
            "DPMSolverMultistepScheduler"
        )

    def _model(self) -> LatentDiffusion:
        return LatentDiffusion(
            unet=self.unet,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            scheduler_config=self.scheduler.config,
        )

    def _screened(self, images: "list[Image]") -> "tuple[list[Image], list[bool] | None]":
        """Return the images with what the safety checker objects to blackened; without a checker, unchanged."""
        from PIL import Image

        if self.safety_checker is None:
            return images, None
        inputs = self.feature_extractor(images, return_tensors="pt").pixel_values
        inputs = inputs.to(self.safety_checker.device, self.safety_checker.dtype)
        arrays = [np.asarray(image, np.float32) / 255 for image in images]
        _, flags = self.safety_checker(images=arrays, clip_input=inputs)
        screened = [Image.new("RGB", image.size) if flag else image for image, flag in zip(images, flags, strict=True)]
        return screened, [bool(flag) for flag in flags]


def _requests(
    image: Images, prompt: str | Sequence[str], mask_image: Masks | None, num_images: int
) -> list[EditRequest]:
    if num_images < 1:
        raise EditError(f"num_images_per_prompt is {num_images}, expected 1 or more")
    sources = images_of(image)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    count = max(len(sources), len(prompts))
    sources, prompts = broadcast(sources, count, "images"), broadcast(prompts, count, "prompts")
    masks = masks_of(mask_image, [source.size for source in sources])
    return [
        EditRequest(image=source, edit_prompt=words, mask=mask)
        for source, words, mask in zip(sources, prompts, masks, strict=True)
        for _ in range(num_images)
    ]


def _noise_of(
    requests: Sequence[EditRequest], model: LatentDiffusion, framing: FramingConfig, generator: Generators
) -> dict[int, Tensor]:
    """Return the noise (c, h, w) of each request: all of one canvas size at once, as diffusers' pipelines sample it."""
    if isinstance(generator, list) and len(generator) != len(requests):
        raise EditError(
            f"there are {len(generator)} generators for {len(requests)} results: give one for all or one each"
        )
    sizes = [
        frame(request.image.size, framing, native_px=model.native_px, multiple_px=model.cell_px).canvas_size
        for request in requests
    ]
    noise: dict[int, Tensor] = {}
    for size in dict.fromkeys(sizes):
        chosen = [index for index, own in enumerate(sizes) if own == size]
        rows = [generator[index] for index in chosen] if isinstance(generator, list) else generator
        shape = (len(chosen), model.latent_channels, size[1] // model.cell_px, size[0] // model.cell_px)
        sampled = randn_tensor(shape, generator=rows, device=model.device, dtype=torch.float32)
        noise |= dict(zip(chosen, sampled, strict=True))
    return noise


def _edited(
    model: LatentDiffusion, batch: CanvasBatch, noise: list[Tensor], sampling: SamplingConfig, masks: MaskConfig
) -> EditedBatch:
    latent_mask = None
    if any(mask is not None for mask in batch.masks):
        latent_mask = latent_masks(batch.masks, batch.frames, masks, cell_px=model.cell_px).to(model.device)
    latents = edit_latents(
        model,
        model.encode_images(batch.pixel_values()).to(model.device),
        embed_prompts(model, [request.edit_prompt for request in batch.requests]),
        noise=torch.stack(noise),
        config=sampling,
        latent_mask=latent_mask,
    )
    return EditedBatch(pixel_values=model.decode_latents(latents), latent_mask=latent_mask)


def _as_output(images: "list[Image]", output_type: OutputType) -> Any:
    if output_type == "pil":
        return images
    if output_type not in ("np", "pt"):
        raise EditError(f"output_type is {output_type!r}, expected pil, np or pt")
    arrays = [np.asarray(image, np.float32) / 255 for image in images]
    if output_type == "np":
        return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else arrays
    tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    return torch.stack(tensors) if len({tensor.shape for tensor in tensors}) == 1 else tensors
