"""Train the small family from scratch, one member a command: ``python -m miniature.pretrain captioner``.

Training is seeded and resumable: the same command continues where it stopped, and does nothing when it is done.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
WEIGHTS = ROOT / "weights"
WORK = ROOT.parent / ".cache" / "miniature"
NUM_SCENES = 120_000

# glibc gives large blocks back to the kernel and faults them in again at every step; these keep them.
_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """Where one call reads and writes."""

    work: Path
    weights: Path
    num_scenes: int
    num_steps: int | None

    def recipe(self, recipe: Any) -> Any:
        """Return the member's recipe, shortened when the call asks for fewer steps."""
        from dataclasses import replace

        return recipe if self.num_steps is None else replace(recipe, num_steps=self.num_steps)

    def pool(self) -> Any:
        """Return the training scenes."""
        from miniature.family.pool import load_pool

        return load_pool(self.work, num_scenes=self.num_scenes)


def pretrain_vae(job: Job) -> Path:
    """Train the VAE alone; it becomes part of ``ldm`` and ``instruct_pix2pix``."""
    from miniature.family.vae import RECIPE, train_vae

    train_vae(job.pool(), job.work, job.recipe(RECIPE)).save_pretrained(job.work / "vae")
    return job.work / "vae"


def pretrain_ldm(job: Job) -> Path:
    """Train the text-to-image model (needs ``vae``)."""
    from diffusers import AutoencoderKL

    from iedit_model.models.latent_diffusion import load_text_in_fp32
    from miniature.family.latent_diffusion import LDM_RECIPE, train_ldm
    from miniature.family.tokenizers import build_clip_tokenizer

    vae = AutoencoderKL.from_pretrained(job.work / "vae")
    pipeline = train_ldm(job.pool(), vae, build_clip_tokenizer(), job.work, job.recipe(LDM_RECIPE))
    pipeline.save_pretrained(job.work / "ldm")
    _to_half(pipeline).save_pretrained(job.weights / "ldm")
    load_text_in_fp32(job.weights / "ldm")
    return job.weights / "ldm"


def pretrain_instruct_pix2pix(job: Job) -> Path:
    """Train InstructPix2Pix on true pairs (needs ``ldm``)."""
    from diffusers import StableDiffusionPipeline

    from iedit_model.models.latent_diffusion import load_text_in_fp32
    from miniature.family.latent_diffusion import INSTRUCT_RECIPE, train_instruct_pix2pix

    base = StableDiffusionPipeline.from_pretrained(job.work / "ldm")
    pipeline = train_instruct_pix2pix(job.pool(), base, job.work, job.recipe(INSTRUCT_RECIPE))
    _to_half(pipeline).save_pretrained(job.weights / "instruct_pix2pix")
    load_text_in_fp32(job.weights / "instruct_pix2pix")
    return job.weights / "instruct_pix2pix"


def pretrain_clip(job: Job) -> Path:
    """Train the CLIP model of retrieval and loss."""
    from miniature.family.clip import CLIP_MODEL, CLIP_RECIPE

    return _pretrain_any_clip(job, "clip", CLIP_MODEL, CLIP_RECIPE)


def pretrain_clip_metric(job: Job) -> Path:
    """Train the CLIP model that only scores."""
    from miniature.family.clip import CLIP_METRIC_MODEL, CLIP_METRIC_RECIPE

    return _pretrain_any_clip(job, "clip_metric", CLIP_METRIC_MODEL, CLIP_METRIC_RECIPE)


def _pretrain_any_clip(job: Job, name: str, model_config: dict[str, Any], recipe: Any) -> Path:
    from miniature.family.clip import save_clip, train_clip

    model = train_clip(job.pool(), model_config, job.recipe(recipe), name=name, work=job.work)
    save_clip(model, model_config, job.weights / name)
    return job.weights / name


def pretrain_segmenter(job: Job) -> Path:
    """Train the CLIPSeg model of the masks."""
    from miniature.family.segmenter import RECIPE, TRUNK_RECIPE, save_segmenter, train_segmenter
    from miniature.family.tokenizers import build_clip_tokenizer

    tokenizer = build_clip_tokenizer()
    model = train_segmenter(job.pool(), tokenizer, job.work, job.recipe(RECIPE), job.recipe(TRUNK_RECIPE))
    save_segmenter(model, tokenizer, job.weights / "segmenter")
    return job.weights / "segmenter"


def pretrain_captioner(job: Job) -> Path:
    """Train the BLIP model of the captions."""
    from miniature.family.captioner import RECIPE, save_captioner, train_captioner
    from miniature.family.tokenizers import build_bert_tokenizer

    tokenizer = build_bert_tokenizer()
    model = train_captioner(job.pool(), tokenizer, job.work, job.recipe(RECIPE))
    save_captioner(model, tokenizer, job.weights / "captioner")
    return job.weights / "captioner"


def pretrain_perceptual(job: Job) -> Path:
    """Train the VGG of the perceptual loss and of FID."""
    from miniature.family.perceptual import RECIPE, save_perceptual, train_perceptual

    save_perceptual(train_perceptual(job.pool(), job.work, job.recipe(RECIPE)), job.weights / "perceptual")
    return job.weights / "perceptual"


MEMBERS: dict[str, Callable[[Job], Path]] = {
    "vae": pretrain_vae,
    "ldm": pretrain_ldm,
    "clip": pretrain_clip,
    "clip_metric": pretrain_clip_metric,
    "segmenter": pretrain_segmenter,
    "captioner": pretrain_captioner,
    "perceptual": pretrain_perceptual,
    "instruct_pix2pix": pretrain_instruct_pix2pix,
}
"""Member -> its training, in an order in which each finds what it needs."""


def _to_half(pipeline: Any) -> Any:
    from diffusers import AutoencoderKL
    from diffusers.configuration_utils import FrozenDict

    for part in pipeline.components.values():
        if hasattr(part, "half"):
            part.half()
        if isinstance(part, AutoencoderKL):
            # Where it was loaded from is this machine's business; assigned since save_config writes what is there.
            part._internal_dict = FrozenDict({k: v for k, v in part.config.items() if k != "_name_or_path"})
    return pipeline


def _keep_malloc_blocks() -> None:
    if platform.libc_ver()[0] == "glibc" and any(key not in os.environ for key in _MALLOC):
        os.environ.update({key: value for key, value in _MALLOC.items() if key not in os.environ})
        arguments = [sys.executable, "-m", "miniature.pretrain", *sys.argv[1:]]
        os.execv(sys.executable, arguments)  # noqa: S606 - this very program again; glibc reads these once, at start


def main(arguments: list[str] | None = None) -> None:
    """Train the members named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m miniature.pretrain", description=__doc__)
    parser.add_argument("members", nargs="*", metavar="MEMBER", help=f"of {', '.join(MEMBERS)} (default: all)")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the finished members")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of drawn scenes and checkpoints")
    parser.add_argument("--scenes", type=int, default=NUM_SCENES, help="size of the training world")
    parser.add_argument("--steps", type=int, help="fewer steps than the recipe, for a trial")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (one a process is the most efficient)")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.members if name not in MEMBERS]:
        parser.error(f"no member is called {unknown[0]}: choose from {', '.join(MEMBERS)}")
    _keep_malloc_blocks()

    import torch

    torch.set_num_threads(options.threads)
    job = Job(work=options.work, weights=options.weights, num_scenes=options.scenes, num_steps=options.steps)
    for name in options.members or MEMBERS:
        began = time.monotonic()
        folder = MEMBERS[name](job)
        print(f"{name}: {folder} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
