"""Contact sheets to look at: ``python -m miniature.sheets --out runs/sheets`` draws what the family sees and makes."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from iedit_model.imaging.sheet import SheetCell, contact_sheet
from miniature.measure import (
    WEIGHTS,
    caption,
    double_scenes,
    generate,
    instruct,
    segment,
    silence_libraries,
    single_scenes,
    vae_round_trip,
)
from miniature.pairs import true_pair
from miniature.world import Scene, World


def _sheet(rows: Sequence[Sequence[Image.Image]], labels: Sequence[Sequence[str]], columns: int) -> Image.Image:
    cells = [
        SheetCell(images=[image.convert("RGB") for image in images], lines=lines)
        for images, lines in zip(rows, labels, strict=True)
    ]
    return contact_sheet(cells, columns=columns)


def sheet_of_scenes(_weights: Path) -> Image.Image:
    """Draw scenes of the training world with their captions."""
    scenes = [World(0).scene(index) for index in range(40)]
    return _sheet([[scene.render()] for scene in scenes], [_wrapped(scene.caption) for scene in scenes], 8)


def sheet_of_pairs(_weights: Path) -> Image.Image:
    """Draw true editing pairs: source, target, and the edit as prompt and as instruction."""
    rng = np.random.default_rng(0)
    pairs = [true_pair(scene, rng) for scene in single_scenes(20) + double_scenes(10)]
    return _sheet(
        [[pair.source.render(), pair.target.render()] for pair in pairs],
        [[pair.edit_prompt, pair.instruction] for pair in pairs],
        5,
    )


def sheet_of_captions(weights: Path) -> Image.Image:
    """Draw fresh scenes with the captioner's words."""
    scenes = single_scenes(24) + double_scenes(8) + single_scenes(8, share="held_out")
    images = [scene.render() for scene in scenes]
    return _sheet([[image] for image in images], [_wrapped(text) for text in caption(weights / "captioner", images)], 8)


def sheet_of_masks(weights: Path) -> Image.Image:
    """Draw images and the segmenter's probability for a prompt; the last row asks for absent objects."""
    scenes = single_scenes(12) + double_scenes(12)
    prompts = [scene.objects[index % len(scene.objects)].noun for index, scene in enumerate(scenes)]
    absent = single_scenes(6, first=100)
    scenes += absent
    prompts += ["train", "apple", "dog", "guitar", "shirt", "owl"]
    images = [scene.render() for scene in scenes]
    maps = segment(weights / "segmenter", images, prompts)
    rows = [[image, Image.fromarray((255 * found).astype(np.uint8))] for image, found in zip(images, maps, strict=True)]
    return _sheet(rows, [[f"“{prompt}”", _nouns(scene)] for prompt, scene in zip(prompts, scenes, strict=True)], 6)


def _nouns(scene: Scene) -> str:
    return "shown: " + ", ".join(shown.phrase for shown in scene.objects)


def sheet_of_vae(weights: Path) -> Image.Image:
    """Draw images beside their way through the VAE."""
    images = [scene.render() for scene in single_scenes(15) + double_scenes(9)]
    decoded = vae_round_trip(weights / "ldm" / "vae", images)
    rows = [[image, Image.fromarray(array.astype(np.uint8))] for image, array in zip(images, decoded, strict=True)]
    return _sheet(rows, [["source | round trip"]] * len(rows), 6)


def sheet_of_samples(weights: Path) -> Image.Image:
    """Draw samples of the text-to-image model, the last row from combinations it has never seen."""
    scenes = single_scenes(32, share="seen", first=30_000) + single_scenes(8, share="held_out", first=30_000)
    prompts = [scene.caption for scene in scenes]
    return _sheet([[image] for image in generate(weights / "ldm", prompts)], [_wrapped(text) for text in prompts], 8)


def sheet_of_instructions(weights: Path) -> Image.Image:
    """Draw InstructPix2Pix edits: source, edit, true target."""
    rng = np.random.default_rng(1)
    pairs = [true_pair(scene, rng) for scene in single_scenes(20, first=40_000)]
    sources = [pair.source.render() for pair in pairs]
    edited = instruct(weights / "instruct_pix2pix", sources, [pair.instruction for pair in pairs])
    rows = [[source, edit, pair.target.render()] for source, edit, pair in zip(sources, edited, pairs, strict=True)]
    return _sheet(rows, [[pair.instruction + "  (source | edit | truth)"] for pair in pairs], 4)


def _wrapped(text: str) -> list[str]:
    words = text.split()
    middle = (len(words) + 1) // 2
    return [" ".join(words[:middle]), " ".join(words[middle:])]


SHEETS: dict[str, Callable[[Path], Image.Image]] = {
    "scenes": sheet_of_scenes,
    "pairs": sheet_of_pairs,
    "captions": sheet_of_captions,
    "masks": sheet_of_masks,
    "vae": sheet_of_vae,
    "samples": sheet_of_samples,
    "instructions": sheet_of_instructions,
}


def main(arguments: list[str] | None = None) -> None:
    """Draw the sheets named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m miniature.sheets", description=__doc__)
    parser.add_argument("sheets", nargs="*", metavar="SHEET", help=f"of {', '.join(SHEETS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/sheets"), help="folder of the images")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the family")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.sheets if name not in SHEETS]:
        parser.error(f"no sheet is called {unknown[0]}: choose from {', '.join(SHEETS)}")
    silence_libraries()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sheets or SHEETS:
        path = options.out / f"{name}.png"
        SHEETS[name](options.weights).save(path)
        print(path)


if __name__ == "__main__":
    main()
