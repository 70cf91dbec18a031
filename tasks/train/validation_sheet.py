"""What the model makes of a few held-out pairs while it learns: source, pseudo-target, edit, edit inside the mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iedit_model.masks import dilate, to_latent_mask
from tasks.train.networks import Networks
from tasks.train.run_config import TrainRunConfig
from tasks.train.train_rows import PairSample

if TYPE_CHECKING:
    from PIL.Image import Image

_PX: Final = 128
_GAP: Final = 6
_LINE: Final = 18
_PAPER: Final = (250, 250, 248)
_INK: Final = (25, 25, 30)
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
            [_picture(pair.source_pixels) for pair in self.pairs],
            [_picture(pair.target_pixels) for pair in self.pairs],
            self._edits(masked=False),
            self._edits(masked=True),
        ]
        captions = [f"{pair.source_prompt} > {pair.prompt}" for pair in self.pairs]
        return _sheet(list(zip(*columns, strict=True)), captions)

    def _edits(self, *, masked: bool) -> "list[Image]":
        import torch

        from iedit_model.editing.batches import to_images
        from iedit_model.editing.sampling import SamplingConfig, SeededNoise, edit_latents, embed_prompts

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


def _picture(pixels: Any) -> "Image":
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _sheet(rows: "Sequence[Sequence[Image]]", captions: Sequence[str]) -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    height = _PX + _LINE + _GAP
    sheet = Image.new("RGB", (len(_HEADERS) * (_PX + _GAP) + _GAP, _LINE + _GAP + len(rows) * height), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for column, header in enumerate(_HEADERS):
        draw.text((_GAP + column * (_PX + _GAP), _GAP // 2), header, fill=_INK, font=font)
    for row, (pictures, caption) in enumerate(zip(rows, captions, strict=True)):
        top = _LINE + _GAP + row * height
        for column, picture in enumerate(pictures):
            sheet.paste(picture.resize((_PX, _PX)), (_GAP + column * (_PX + _GAP), top))
        draw.text((_GAP, top + _PX + 1), caption, fill=_INK, font=font)
    return sheet
