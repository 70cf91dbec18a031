"""Time and memory of 1 and 4 edits against diffusers' own img2img: ``python -m benchmarks.bench_edit`` (one core).

Both sides run on the same networks in the same process, turn about, after a warm-up of each: prompts and image in,
images out. With the same noise both give the same image, which is checked first. ``--random-sd14`` takes Stable
Diffusion v1.4's architecture with random weights, for example on a GPU:
``python -m benchmarks.bench_edit --random-sd14 --size 384 --strength 0.8``. Memory is what a run needs beyond the
networks: the peak of torch's allocator.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from benchmarks.memory import allocated_peak_mib
from benchmarks.random_sd14 import WEIGHTS, random_sd14
from benchmarks.report import CONSOLE, print_provenance, print_rows
from iedit_model.editing.batches import to_images
from iedit_model.editing.sampling import SeededNoise, edit_latents, embed_prompts
from iedit_model.editing.settings import SamplingConfig
from iedit_model.models.devices import DeviceConfig, resolve_device
from iedit_model.models.latent_diffusion import LatentDiffusion
from miniature.family.latent_diffusion import build_scheduler
from miniature.world import World

PROMPT = "a red bus on a white background"

Edit = Callable[[int], Any]
"""Edits an image so many times at once."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way to edit, measured."""

    seconds: float
    """Median over the rounds."""
    spread: float
    """Slowest round minus quickest."""
    peak_mib: float


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=WEIGHTS / "ldm", help="a Stable Diffusion folder")
    parser.add_argument("--random-sd14", action="store_true", help="SD v1.4's architecture with random weights instead")
    parser.add_argument("--size", type=int, help="side of the image (default: the model's own)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument("--vae-dtype", choices=("same", "fp32"), default="same")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--strength", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=3, help="rounds that are timed")
    parser.add_argument("--threads", type=int, default=1, help="cores to compute with, where there is no GPU")
    parser.add_argument("--compile", action="store_true", help="compile the UNet and the decoder (GPU)")
    parser.add_argument("--channels-last", action="store_true", help="channels-last memory format of all convolutions")
    options = parser.parse_args()
    if int(options.steps * options.strength) != round(options.steps * options.strength):
        parser.error("diffusers cuts steps * strength off and we round it: take values whose product is whole")
    _hush()
    torch.set_num_threads(options.threads)
    device = resolve_device(DeviceConfig(device=options.device, dtype=options.dtype))
    parts = _random_sd14(device) if options.random_sd14 else _loaded(options.model, device)
    if options.vae_dtype == "fp32":
        parts["vae"].to(torch.float32)
    _speed_up(parts, compiled=options.compile, channels_last=options.channels_last)
    model = LatentDiffusion(
        **{name: parts[name] for name in ("unet", "vae", "text_encoder", "tokenizer")},
        scheduler_config=parts["scheduler"].config,
    )
    side = options.size or model.native_px
    sampling = SamplingConfig(strength=options.strength, num_inference_steps=options.steps)
    print_provenance(f"edits at {side} px on {device.name}, N={options.steps}, strength {options.strength}")
    if device.type == "cuda":
        CONSOLE.print(torch.cuda.get_device_name())
    image = World(5).scene(0).render().resize((side, side))
    ways = _ways(parts, model, image, sampling)
    _check_equal(parts, model, image, sampling)
    measured = {count: _measure(ways, count, rounds=options.rounds) for count in (1, 4)}
    _print(measured)


def _ways(
    parts: dict[str, Any], model: LatentDiffusion, image: Image.Image, sampling: SamplingConfig
) -> dict[str, Edit]:
    size = (image.height // model.cell_px, image.width // model.cell_px)
    mask = torch.zeros(1, 1, *size, device=model.device)
    mask[:, :, size[0] // 4 : -size[0] // 4, size[1] // 4 : -size[1] // 4] = 1
    quick = replace(sampling, sampler="dpmsolver++", num_inference_steps=20)
    return {
        "diffusers img2img, DDIM": lambda count: _theirs(parts, image, sampling, count),
        "ours, DDIM": lambda count: _ours(model, image, sampling, count, None),
        "ours, DDIM, masked (Eq. 13)": lambda count: _ours(model, image, sampling, count, mask),
        "ours, DPM-Solver++ of 20 steps": lambda count: _ours(model, image, quick, count, None),
    }


def _theirs(parts: dict[str, Any], image: Image.Image, sampling: SamplingConfig, count: int) -> Any:
    pipeline = _img2img(parts)
    return pipeline(
        PROMPT,
        image=image,
        strength=sampling.strength,
        guidance_scale=sampling.guidance_scale,
        num_inference_steps=sampling.num_inference_steps,
        num_images_per_prompt=count,
        generator=[torch.Generator().manual_seed(seed) for seed in range(count)],
    ).images


def _img2img(parts: dict[str, Any]) -> Any:
    unchecked: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = StableDiffusionImg2ImgPipeline(**parts, **unchecked)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _ours(
    model: LatentDiffusion, image: Image.Image, sampling: SamplingConfig, count: int, mask: torch.Tensor | None
) -> Any:
    source_latents = model.encode_images(_pixels(image)).to(model.device)
    noise = SeededNoise(range(count), shape=tuple(source_latents.shape[1:]), device=model.device)
    latents = edit_latents(
        model,
        source_latents.expand(count, -1, -1, -1),
        embed_prompts(model, [PROMPT] * count),
        noise=noise(),
        config=sampling,
        latent_mask=mask,
    )
    return to_images(model.decode_latents(latents))


def _check_equal(parts: dict[str, Any], model: LatentDiffusion, image: Image.Image, sampling: SamplingConfig) -> None:
    """Say how far the two sides' images differ where the source latents and the noise are the same."""
    pipeline = _img2img(parts)
    latents = model.encode_images(_pixels(image)).to(model.device, model.unet.dtype)
    theirs = pipeline(
        PROMPT,
        image=latents,
        strength=sampling.strength,
        guidance_scale=sampling.guidance_scale,
        num_inference_steps=sampling.num_inference_steps,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    ours = _ours(model, image, sampling, 1, None)[0]
    difference = np.abs(np.asarray(theirs).astype(int) - np.asarray(ours))
    CONSOLE.print(f"same noise: mean difference {difference.mean():.3f} of 255, largest {difference.max()}")


def _measure(ways: dict[str, Edit], count: int, *, rounds: int) -> dict[str, Measured]:
    for edit in ways.values():
        edit(count)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, edit in ways.items():
            _synchronize()
            began = time.perf_counter()
            edit(count)
            _synchronize()
            seconds[name].append(time.perf_counter() - began)
    return {
        name: Measured(
            seconds=statistics.median(times), spread=max(times) - min(times), peak_mib=_peak_mib(ways[name], count)
        )
        for name, times in seconds.items()
    }


def _print(measured: dict[int, dict[str, Measured]]) -> None:
    header = ("way", "edits", "seconds", "spread", "against diffusers", "memory, MiB")
    rows = []
    for count, ways in measured.items():
        plain = next(iter(ways.values())).seconds
        for name, one in ways.items():
            rows.append(
                (
                    name,
                    str(count),
                    f"{one.seconds:.3f}",
                    f"{one.spread:.3f}",
                    f"{plain / one.seconds:.2f} x",
                    f"{one.peak_mib:.1f}",
                )
            )
    print_rows(header, rows)


def _peak_mib(edit: Edit, count: int) -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        edit(count)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    return allocated_peak_mib(lambda: edit(count))


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def _loaded(folder: Path, device: Any) -> dict[str, Any]:
    pipeline: Any = StableDiffusionImg2ImgPipeline.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        torch.nn.Module.to(network, device.type, device.torch_dtype)
    return {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")}


def _random_sd14(device: Any) -> dict[str, Any]:
    """Build Stable Diffusion v1.4 with random weights where it runs, frozen and ready."""
    with torch.device(device.type):
        parts = random_sd14()
    for name in ("unet", "vae", "text_encoder"):
        network = parts[name].eval().requires_grad_(requires_grad=False)
        torch.nn.Module.to(network, device.type, device.torch_dtype)
    return {**parts, "scheduler": build_scheduler()}


def _speed_up(parts: dict[str, Any], *, compiled: bool, channels_last: bool) -> None:
    if channels_last:
        for name in ("unet", "vae"):
            torch.nn.Module.to(parts[name], memory_format=torch.channels_last)
    if compiled:
        parts["unet"].compile(mode="reduce-overhead", fullgraph=True)
        parts["vae"].decoder.compile(mode="reduce-overhead", fullgraph=True)


def _hush() -> None:
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
