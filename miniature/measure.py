"""What the family reaches on fresh scenes: ``python -m miniature.measure`` prints the table of the README cards.

Every member is loaded from the repository by the library that any user would take, and judged against the world's
truth (pictures that a diffusion model makes: by ``clip_metric``, which no other member has seen).
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from miniature.vocabulary import COLOURS, NOUNS
from miniature.world import Scene, World

WEIGHTS = Path(__file__).parent / "weights"
MEASURE_SEED = 1
"""Seed of the world that no member was trained on."""
GUIDANCE_SCALE = 5.0
IMAGE_GUIDANCE_SCALE = 1.5
NUM_INFERENCE_STEPS = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured number and the floor it has to reach."""

    member: str
    name: str
    value: float
    floor: float
    unit: str
    num_samples: int

    @property
    def reached(self) -> bool:
        """Whether the value is at its floor or above."""
        return self.value >= self.floor


@dataclass(frozen=True, kw_only=True)
class Sample:
    """How many scenes each figure is measured on, and where the members lie."""

    weights: Path = WEIGHTS
    num_scenes: int = 500
    num_held_out: int = 300
    num_generated: int = 200
    num_edits: int = 100


def single_scenes(count: int, *, share: Any = "seen", first: int = 0) -> list[Scene]:
    """Return fresh scenes of one object."""
    world = World(MEASURE_SEED, share=share, two_object_share=0.0)
    return [world.scene(first + index) for index in range(count)]


def double_scenes(count: int) -> list[Scene]:
    """Return fresh scenes of two objects."""
    world = World(MEASURE_SEED, two_object_share=1.0)
    return [world.scene(index) for index in range(count)]


def _percent(hits: Iterable[bool]) -> float:
    return 100.0 * float(np.mean(list(hits)))


def _both_shares(
    sample: Sample, member: str, what: str, measure: Callable[[list[Scene]], float], floors: tuple[float, float]
) -> list[Figure]:
    """Return one figure, in percent, on scenes of one object: fresh ones, and held-out combinations."""
    return [
        Figure(
            member=member,
            name=f"{what}, {name}",
            value=measure(single_scenes(count, share=share)),
            floor=floor,
            unit="%",
            num_samples=count,
        )
        for name, share, count, floor in (
            ("fresh scenes", "seen", sample.num_scenes, floors[0]),
            ("held-out combinations", "held_out", sample.num_held_out, floors[1]),
        )
    ]


def measure_captioner(sample: Sample) -> list[Figure]:
    """Return the share of exactly right captions."""

    def exact(scenes: list[Scene]) -> float:
        captions = caption(sample.weights / "captioner", [scene.render() for scene in scenes])
        return _percent(scene.caption == text for scene, text in zip(scenes, captions, strict=True))

    return _both_shares(sample, "captioner", "exact noun, colour and background", exact, (95.0, 90.0))


def caption(folder: Path, images: Sequence[Any]) -> list[str]:
    """Caption pictures greedily with a BLIP folder."""
    import torch
    from transformers import BlipForConditionalGeneration, BlipProcessor

    processor: Any = BlipProcessor.from_pretrained(folder)
    model: Any = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    texts: list[str] = []
    for start in range(0, len(images), 100):
        inputs = processor(images=list(images[start : start + 100]), return_tensors="pt")
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=18, num_beams=1, do_sample=False)
        texts += processor.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip() for text in texts]


def measure_clip(sample: Sample, member: str = "clip", floors: tuple[float, float] = (97.0, 95.0)) -> list[Figure]:
    """Return how often the right caption wins against all 2,861 others."""
    from miniature.judge import Judge

    judge = Judge(sample.weights / member)

    def right(scenes: list[Scene]) -> float:
        readings = judge.read([scene.render() for scene in scenes])
        return _percent(_is_right(scene, reading) for scene, reading in zip(scenes, readings, strict=True))

    return _both_shares(sample, member, "right caption of 2,862", right, floors)


def measure_clip_metric(sample: Sample) -> list[Figure]:
    """Return the same for the held-out encoder."""
    return measure_clip(sample, "clip_metric", (95.0, 92.0))


def _is_right(scene: Scene, reading: Any) -> bool:
    thing = scene.objects[0]
    return (thing.noun, thing.colour, scene.background) == (reading.noun, reading.colour, reading.background)


EMPTY_AREA = 0.005
"""A mask of less than this share of the picture counts as empty."""


def measure_segmenter(sample: Sample) -> list[Figure]:
    """Return IoU on one and on two objects, and how often an absent noun gives an empty mask."""
    rng = np.random.default_rng(MEASURE_SEED)
    folder, count = sample.weights / "segmenter", sample.num_scenes
    out = []
    for name, scenes, floor in (
        ("one object", single_scenes(count), 0.80),
        ("one object, held-out combinations", single_scenes(sample.num_held_out, share="held_out"), 0.80),
        ("two objects", double_scenes(count), 0.70),
    ):
        positions = [int(rng.integers(len(scene.objects))) for scene in scenes]
        prompts = [scene.objects[position].noun for scene, position in zip(scenes, positions, strict=True)]
        masks = segment(folder, [scene.render() for scene in scenes], prompts) > 0.5
        truth = np.stack([scene.masks()[position] for scene, position in zip(scenes, positions, strict=True)])
        overlap = (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))
        out.append(
            Figure(
                member="segmenter",
                name=f"mean IoU, {name}",
                value=float(overlap.mean()),
                floor=floor,
                unit="",
                num_samples=len(scenes),
            )
        )
    scenes = single_scenes(count // 2) + double_scenes(count - count // 2)
    prompts = [
        str(rng.choice([noun for noun in NOUNS if all(noun != thing.noun for thing in scene.objects)]))
        for scene in scenes
    ]
    area = (segment(folder, [scene.render() for scene in scenes], prompts) > 0.5).mean((1, 2))
    empty = Figure(
        member="segmenter",
        name="empty mask for an absent noun",
        value=_percent(area < EMPTY_AREA),
        floor=90.0,
        unit="%",
        num_samples=count,
    )
    return [*out, empty]


def segment(folder: Path, images: Sequence[Any], prompts: Sequence[str]) -> np.ndarray:
    """Return the probability map of each picture for its prompt, float32 (b, 64, 64)."""
    import torch
    from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

    processor: Any = CLIPSegProcessor.from_pretrained(folder)
    model: Any = CLIPSegForImageSegmentation.from_pretrained(folder, dtype=torch.float32).eval()
    maps = []
    for start in range(0, len(images), 100):
        batch = slice(start, start + 100)
        inputs = processor(
            images=list(images[batch]), text=list(prompts[batch]), return_tensors="pt", padding="max_length"
        )
        with torch.no_grad():
            logits = model(input_ids=inputs.input_ids, pixel_values=inputs.pixel_values).logits
        maps.append(logits.reshape(-1, *logits.shape[-2:]).sigmoid().numpy())
    return np.concatenate(maps)


def measure_ldm(sample: Sample) -> list[Figure]:
    """Return the VAE's PSNR and what the judge reads off pictures sampled from captions."""
    from miniature.judge import Judge

    folder, scenes = sample.weights / "ldm", single_scenes(sample.num_generated, share="all", first=10_000)
    images = [scene.render() for scene in scenes]
    decoded = vae_round_trip(folder / "vae", images)
    error = np.stack([np.asarray(image, np.float64) for image in images]) - decoded
    psnr = float(np.mean(10 * np.log10(255**2 / np.square(error).mean((1, 2, 3)))))
    drawn = generate(folder, [scene.caption for scene in scenes])
    readings = Judge(sample.weights / "clip_metric").read(drawn)
    count = len(scenes)
    things = [scene.objects[0] for scene in scenes]
    noun = _percent(thing.noun == reading.noun for thing, reading in zip(things, readings, strict=True))
    colour = _percent(thing.colour == reading.colour for thing, reading in zip(things, readings, strict=True))
    return [
        Figure(member="ldm", name="VAE PSNR", value=psnr, floor=28.0, unit="dB", num_samples=count),
        Figure(member="ldm", name="right noun in samples", value=noun, floor=80.0, unit="%", num_samples=count),
        Figure(member="ldm", name="right colour in samples", value=colour, floor=90.0, unit="%", num_samples=count),
    ]


def vae_round_trip(folder: Path, images: Sequence[Any]) -> np.ndarray:
    """Encode and decode pictures; float64 (b, h, w, 3) in 0-255, rounded as a saved picture would be."""
    import torch
    from diffusers import AutoencoderKL
    from diffusers.image_processor import VaeImageProcessor

    vae: Any = AutoencoderKL.from_pretrained(folder, dtype=torch.float32)
    processor: Any = VaeImageProcessor()
    with torch.no_grad():
        pixels = processor.preprocess(list(images))
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    return np.round(processor.postprocess(decoded, output_type="np") * 255.0).astype(np.float64)


def generate(
    folder: Path, prompts: Sequence[str], *, seed: int = 0, guidance_scale: float = GUIDANCE_SCALE
) -> list[Any]:
    """Sample one picture a prompt with a Stable Diffusion folder."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for start in range(0, len(prompts), 50):
        batch = list(prompts[start : start + 50])
        generators = [torch.Generator().manual_seed(seed + start + offset) for offset in range(len(batch))]
        images += pipeline(
            batch,
            num_inference_steps=NUM_INFERENCE_STEPS,
            guidance_scale=guidance_scale,
            generator=generators,
            height=64,
            width=64,
        ).images
    return images


def measure_instruct_pix2pix(sample: Sample) -> list[Figure]:
    """Return how often "replace the bus with a train" puts the new noun into a true pair's source."""
    from miniature.judge import Judge
    from miniature.pairs import true_pair

    rng = np.random.default_rng(MEASURE_SEED)
    scenes = single_scenes(sample.num_edits, first=20_000)
    pairs = [true_pair(scene, rng, kind="noun", only_seen=True) for scene in scenes]
    edited = instruct(
        sample.weights / "instruct_pix2pix",
        [pair.source.render() for pair in pairs],
        [pair.instruction for pair in pairs],
    )
    readings = Judge(sample.weights / "clip_metric").read(edited)
    value = _percent(pair.swapped_to == reading.noun for pair, reading in zip(pairs, readings, strict=True))
    return [
        Figure(
            member="instruct_pix2pix",
            name='follows "replace the bus with a train"',
            value=value,
            floor=70.0,
            unit="%",
            num_samples=len(pairs),
        )
    ]


def instruct(folder: Path, images: Sequence[Any], instructions: Sequence[str], *, seed: int = 0) -> list[Any]:
    """Edit pictures by instruction with an InstructPix2Pix folder."""
    import torch
    from diffusers import StableDiffusionInstructPix2PixPipeline

    pipeline: Any = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        folder, dtype=torch.float32, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    edited = []
    for start in range(0, len(images), 50):
        batch = slice(start, start + 50)
        generators = [torch.Generator().manual_seed(seed + start + offset) for offset in range(len(images[batch]))]
        edited += pipeline(
            list(instructions[batch]),
            image=list(images[batch]),
            num_inference_steps=NUM_INFERENCE_STEPS,
            guidance_scale=GUIDANCE_SCALE,
            image_guidance_scale=IMAGE_GUIDANCE_SCALE,
            generator=generators,
        ).images
    return edited


def measure_perceptual(sample: Sample) -> list[Figure]:
    """Return how often the VGG names the noun."""
    import torch

    from iedit_model.models.source import ModelSource
    from iedit_model.models.vgg import load_vgg

    model = load_vgg(ModelSource(str(sample.weights / "perceptual")))
    scenes = single_scenes(sample.num_scenes, share="all")
    pixels = np.stack([np.asarray(scene.render()) for scene in scenes])
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    named = [NOUNS[int(index)] for index in logits.argmax(dim=1)]
    value = _percent(scene.objects[0].noun == noun for scene, noun in zip(scenes, named, strict=True))
    return [
        Figure(
            member="perceptual",
            name="noun classification",
            value=value,
            floor=95.0,
            unit="%",
            num_samples=len(scenes),
        )
    ]


MEASURES: dict[str, Callable[[Sample], list[Figure]]] = {
    "captioner": measure_captioner,
    "clip": measure_clip,
    "clip_metric": measure_clip_metric,
    "segmenter": measure_segmenter,
    "ldm": measure_ldm,
    "instruct_pix2pix": measure_instruct_pix2pix,
    "perceptual": measure_perceptual,
}


def silence_libraries() -> None:
    """Turn off the progress bars and notices of the model libraries, which would drown the output of a command."""
    import warnings

    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; exit 1 when a figure misses its floor."""
    parser = argparse.ArgumentParser(prog="python -m miniature.measure", description=__doc__)
    parser.add_argument("members", nargs="*", metavar="MEMBER", help=f"of {', '.join(MEASURES)} (default: all)")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the members")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.members if name not in MEASURES]:
        parser.error(f"no member is called {unknown[0]}: choose from {', '.join(MEASURES)}")

    from rich.console import Console
    from rich.table import Table

    silence_libraries()
    table = Table("member", "figure", "measured", "floor", "samples", "")
    figures: list[Figure] = []
    began = time.monotonic()
    for name in options.members or MEASURES:
        for figure in MEASURES[name](Sample(weights=options.weights)):
            figures.append(figure)
            digits = 2 if figure.unit == "" else 1
            shown = [f"{value:.{digits}f} {figure.unit}".strip() for value in (figure.value, figure.floor)]
            verdict = "[green]ok[/]" if figure.reached else "[red]missed[/]"
            table.add_row(figure.member, figure.name, *shown, str(figure.num_samples), verdict)
    console = Console(width=120)
    console.print(table)
    console.print(f"{len(NOUNS)} nouns, {len(COLOURS)} colours; measured in {time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
    return 0 if all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
