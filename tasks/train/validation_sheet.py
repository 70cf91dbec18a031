"""What the model makes of a few held-out pairs while it learns: source, pseudo-target, edit, edit inside the mask."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iedit_model.imaging.sheet import SheetCell, contact_sheet
from iedit_model.masks import dilate, to_latent_mask
from tasks.train.networks import Networks
from tasks.train.run_config import TrainRunConfig
from tasks.train.train_rows import PairSample

if TYPE_CHECKING:
    from PIL.Image import Image

_HEADERS: Final = ("source", "target", "edit", "edit in mask")


@dataclass(frozen=True, kw_only=True)
class ValidationSheet:
    """Draws sheets of the same pairs under the same noise, so that sheets of different steps compare."""

    networks: Networks
    pairs: tuple[PairSample, ...]
    config: TrainRunConfig

    def draw(self) -> "Image":
        """Return a sheet of what the UNet, as it is now, makes of the pairs."""
        columns = [
            [_image(pair.source_pixels) for pair in self.pairs],
            [_image(pair.target_pixels) for pair in self.pairs],
            self._edits(masked=False),
            self._edits(masked=True),
        ]
        captions = [f"{pair.source_prompt} > {pair.prompt}" for pair in self.pairs]
        rows = zip(zip(*columns, strict=True), captions, strict=True)
        return contact_sheet([SheetCell(images=images, lines=[caption]) for images, caption in rows], heads=_HEADERS)

    def _edits(self, *, masked: bool) -> "list[Image]":
        import torch

        from iedit_model.editing.batches import to_images
        from iedit_model.editing.sampling import SeededNoise, edit_latents, embed_prompts
        from iedit_model.editing.settings import SamplingConfig

        model, loop = self.networks.model, self.config.loop
        pixels = torch.from_numpy(np.stack([pair.source_pixels for pair in self.pairs])).float() / 127.5 - 1
        latents = model.encode_images(pixels).to(self.networks.device)
        new_noise = SeededNoise(range(len(self.pairs)), shape=tuple(latents.shape[1:]), device=self.networks.device)
        mask = None
        if masked:
            masks = torch.from_numpy(np.stack([pair.source_mask for pair in self.pairs])).float() / 255
            size = (latents.shape[-2], latents.shape[-1])
            mask = dilate(to_latent_mask(masks, size=size, mode="max"), 1).to(self.networks.device)
        edited = edit_latents(
            model,
            latents,
            embed_prompts(model, [pair.prompt for pair in self.pairs]),
            noise=new_noise(),
            config=SamplingConfig(num_inference_steps=loop.validation_steps, blend_noise=self.config.train.blend_noise),
            latent_mask=mask,
            new_noise=new_noise,
        )
        return to_images(model.decode_latents(edited))


def _image(pixels: Any) -> "Image":
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
