"""A run's weights as an ordinary diffusers pipeline folder, which ``DiffusionPipeline.from_pretrained`` opens.

The UNet in it has the averaged weights where the run keeps an average (the raw ones lie in ``training/``), and merged
adapters where it trains LoRA. All other parts are the base model's own files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from iedit_model.training.config import LayerPolicy
from iedit_model.training.trainable import merge_lora
from storage.atomic import replace_file
from tasks.train.learner import Learner
from tasks.train.run_folder import copy_once

_INDEX: Final = "model_index.json"
_UNET: Final = "unet"
_FROZEN: Final = ("vae", "text_encoder", "tokenizer", "scheduler", "feature_extractor")


@dataclass(frozen=True, kw_only=True)
class PipelineWriter:
    """Writes the pipeline of a run."""

    unet: Any
    learner: Learner
    layers: LayerPolicy
    base: Path
    """Folder of the pipeline that the run started from."""
    kept: Path
    """Folder of the run in which the files that never change lie once."""

    def write(self, folder: Path) -> None:
        """Write the pipeline into an empty folder."""
        replace_file(self.base / _INDEX, folder / _INDEX)
        for name in _FROZEN:
            if (self.base / name).is_dir():
                copy_once(self.base / name, self.kept / name, folder / name)
        with self.averaged():
            unet = self.unet
            if self.layers == "lora":
                unet = deepcopy(unet)
                merge_lora(unet)
            unet.save_pretrained(folder / _UNET, safe_serialization=True)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the UNet its averaged weights for the block, and the raw ones back bit for bit."""
        import torch

        raw, averaged = self.learner.weights(averaged=False), self.learner.weights(averaged=True)
        before = {name: value.clone() for name, value in raw.items()} if averaged is not raw else {}
        with torch.no_grad():
            for name in before:
                raw[name].copy_(averaged[name])
            try:
                yield
            finally:
                for name, value in before.items():
                    raw[name].copy_(value)
