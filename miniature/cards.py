"""The cards of the family: ``python -m miniature.cards FIGURES.json`` writes a README.md into every member's folder.

The figures are the file that ``python -m miniature.measure --json FIGURES.json`` wrote; sizes, parameters and recipes
are read off the folders and the code, so that a card cannot say what is not there.
"""

import argparse
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miniature.pretrain import NUM_SCENES, WEIGHTS, WORK


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """What a card says that no file shows."""

    title: str
    purpose: str
    limits: str
    recipes: dict[str, Any]
    """Checkpoint name -> recipe."""
    commands: str = ""
    """Members to train for this folder, when they are more than its own name."""


_WORLD = (
    "Knows only its own picture world: 53 drawn things in 9 colours on 6 grounds; a photograph comes back as such a "
    "picture."
)


def members() -> dict[str, Member]:
    """Return the folders that get a card, with their recipes."""
    from miniature.family import captioner, clip, latent_diffusion, perceptual, segmenter, vae

    return {
        "captioner": Member(
            title="BLIP captioner (transformers `BlipForConditionalGeneration`)",
            purpose="Describes a scene in one plain sentence: “a red bus on a white background”.",
            limits="Knows the 53 nouns, 9 colours and 6 grounds of the world and one sentence pattern.",
            recipes={"captioner": captioner.RECIPE},
        ),
        "clip": Member(
            title="CLIP for retrieval and loss (open_clip `local-dir:`)",
            purpose="Embeds pictures and texts for retrieval (Section 3.1) and for the CLIP losses (Eq. 5 and 11).",
            limits="Separates the world's captions; its cosines are far higher than those of a web-scale CLIP.",
            recipes={"clip": clip.CLIP_RECIPE},
        ),
        "clip_metric": Member(
            title="CLIP for scoring (open_clip `local-dir:`)",
            purpose="Scores edits. Another architecture and seed than `clip`, and never used in training.",
            limits="Trained on the same world as `clip`: independent weights, not independent data.",
            recipes={"clip_metric": clip.CLIP_METRIC_RECIPE},
        ),
        "segmenter": Member(
            title="CLIPSeg segmenter (transformers `CLIPSegForImageSegmentation`)",
            purpose="Finds the thing a prompt names and answers an absent noun with an empty mask.",
            limits="Edges are as fine as its 8-pixel patches allow; a wrong colour of a present noun is not refused.",
            recipes={"segmenter_trunk": segmenter.TRUNK_RECIPE, "segmenter": segmenter.RECIPE},
        ),
        "ldm": Member(
            title="Latent diffusion model (diffusers `StableDiffusionPipeline`)",
            purpose="Draws a scene from its caption; the base that iEdit fine-tunes.",
            limits=f"{_WORLD} 64 x 64 pixels. Fine lines wobble, two-object captions often mix the objects up.",
            recipes={"vae": vae.RECIPE, "ldm": latent_diffusion.LDM_RECIPE},
            commands="vae ldm",
        ),
        "instruct_pix2pix": Member(
            title="InstructPix2Pix baseline (diffusers `StableDiffusionInstructPix2PixPipeline`)",
            purpose="Follows “replace the bus with a train” and “make the bus blue”.",
            limits=f"{_WORLD} Trained on true pairs, which no real system has. Ground or a kept colour often drift.",
            recipes={"instruct_pix2pix": latent_diffusion.INSTRUCT_RECIPE},
        ),
        "perceptual": Member(
            title="VGG features (`iedit_model.models.vgg`)",
            purpose="Features for the perceptual loss (Eq. 10) and for the Fréchet distance.",
            limits="A narrow network trained to name noun, colour and ground of scenes with one object.",
            recipes={"perceptual": perceptual.RECIPE},
        ),
    }


def write_card(folder: Path, member: Member, figures: list[dict[str, Any]], work: Path) -> Path:
    """Write one card and return its path."""
    lines = [
        f"# {member.title}",
        "",
        member.purpose,
        "",
        "| | |",
        "|---|---|",
        f"| parameters | {_num_parameters(folder) / 1e6:.2f} M, {_num_bytes(folder) / 1e6:.1f} MB in fp16 |",
        f"| data | the first {NUM_SCENES:,} scenes of world 0; 11 % of the noun-colour combinations never appear |",
    ]
    for name, recipe in member.recipes.items():
        lines.append(f"| training of `{name}` | {_schedule(recipe)}{_duration(work / f'{name}.safetensors')} |")
    lines += [
        f"| made by | `python -m miniature.pretrain {member.commands or folder.name}` |",
        "| licence | CC BY-SA 4.0 (the pictures derive from OpenMoji: see THIRD_PARTY_NOTICES.md) |",
        "",
        f"## Figures\n\nPrinted by `python -m miniature.measure {folder.name}` on scenes of world 1.",
        "",
        "| figure | measured | floor | samples |",
        "|---|---|---|---|",
    ]
    lines += [_figure_row(figure) for figure in figures if figure["member"] == folder.name]
    lines += ["", "## Limits", "", member.limits, ""]
    path = folder / "README.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _schedule(recipe: Any) -> str:
    rate = f"AdamW at {recipe.learning_rate:g}"
    return f"{recipe.num_steps:,} steps of {recipe.batch_size} samples, {rate}, seed {recipe.seed}"


def _figure_row(figure: dict[str, Any]) -> str:
    digits = 2 if figure["unit"] == "" else 1
    shown = [f"{figure[key]:.{digits}f} {figure['unit']}".strip() for key in ("value", "floor")]
    return f"| {figure['name']} | {' | '.join(shown)} | {figure['num_samples']} |"


def _duration(checkpoint: Path) -> str:
    if not checkpoint.exists():
        return ""
    seconds = float(_header(checkpoint).get("__metadata__", {}).get("seconds", 0))
    if not seconds:
        return "; time not recorded"
    return f"; {seconds / 60:.0f} min on one shared core of a server CPU"


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


def _num_parameters(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*.safetensors"):
        for name, entry in _header(path).items():
            if name != "__metadata__":
                size = 1
                for side in entry["shape"]:
                    size *= side
                total += size
    return total


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def main(arguments: list[str] | None = None) -> None:
    """Write all cards."""
    parser = argparse.ArgumentParser(prog="python -m miniature.cards", description=__doc__)
    parser.add_argument("figures", type=Path, help="what `python -m miniature.measure --json` wrote")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the members")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the checkpoints, which know the time spent")
    options = parser.parse_args(arguments)
    figures = json.loads(options.figures.read_text(encoding="utf-8"))
    for name, member in members().items():
        if (options.weights / name).is_dir():
            print(write_card(options.weights / name, member, figures, options.work))


if __name__ == "__main__":
    main()
