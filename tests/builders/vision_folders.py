"""Model folders for tests: the miniature's trained members, and random models of the same classes."""

from pathlib import Path

import torch

import miniature
from iedit_model.models.captioner import CaptionerSpec
from iedit_model.models.clip import ClipSpec
from iedit_model.models.devices import DeviceConfig
from iedit_model.models.segmenter import SegmenterSpec
from iedit_model.models.source import ModelSource

WEIGHTS = Path(miniature.__file__).parent / "weights"
CPU = DeviceConfig(device="cpu", dtype="fp32")
CAPTIONER = CaptionerSpec(model=ModelSource(str(WEIGHTS / "captioner")), device=CPU, max_new_tokens=15)
CLIP = ClipSpec(model=ModelSource(str(WEIGHTS / "clip")), device=CPU)
SEGMENTER = SegmenterSpec(model=ModelSource(str(WEIGHTS / "segmenter")), device=CPU)


def random_segmenter(folder: Path) -> SegmenterSpec:
    """Save an untrained CLIPSeg of the miniature's size, fp16 on disk as all of its members."""
    from miniature.family.segmenter import build_segmenter, save_segmenter
    from miniature.family.tokenizers import build_clip_tokenizer

    tokenizer = build_clip_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_segmenter(tokenizer)
        for parameter in model.decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # else every probability is one half
    save_segmenter(model, tokenizer, folder)
    return SegmenterSpec(model=ModelSource(str(folder)), device=CPU)
