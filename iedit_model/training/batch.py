"""One training batch of editing pairs: everything that a step needs, encoded beforehand.

Axis names: b = batch, c h w = channels, height and width of the latents, H W = those of images, s d = tokens and width
of the text encoder, e = CLIP's embedding. Latents carry the VAE's scaling factor; images are in [-1, 1].
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from iedit_model.errors import BatchError, MaskError

_AXES: dict[str, tuple[str, ...]] = {
    "source_latents": ("b", "c", "h", "w"),
    "target_latents": ("b", "c", "h", "w"),
    "prompt_embeds": ("b", "s", "d"),
    "source_prompt_embeds": ("b", "s", "d"),
    "source_mask": ("b", "1", "h", "w"),
    "target_mask": ("b", "1", "h", "w"),
    "source_pixel_mask": ("b", "1", "H", "W"),
    "target_pixel_mask": ("b", "1", "H", "W"),
    "target_pixels": ("b", "3", "H", "W"),
    "target_features": ("b", "..."),
    "text_embeds": ("b", "e"),
    "diff_text_embeds": ("b", "e"),
}
MASK_FIELDS = ("source_mask", "target_mask", "source_pixel_mask")
"""M_1 and M_2 as the losses use them; a sample is said to have an empty mask where one of them is empty."""


@no_type_check  # the class checks its shapes itself, with errors that name the sample
@dataclass(frozen=True, kw_only=True)
class EditBatch:
    """Editing pairs; a field that no loss of the configuration needs may be None.

    Raises:
        BatchError: a tensor does not fit the others.
    """

    sample_ids: tuple[str, ...]
    source_latents: Float[Tensor, "b c h w"]
    """z_1, of the posterior's mean."""
    target_latents: Float[Tensor, "b c h w"]
    """z_2, likewise."""
    prompt_embeds: Float[Tensor, "b s d"]
    """tau(y_2), the edit prompt through the diffusion model's text encoder."""
    source_prompt_embeds: Float[Tensor, "b s d"] | None = None
    """tau(y_1), the caption; for the denoising regularisation on the source."""
    source_mask: Float[Tensor, "b 1 h w"] | None = None
    """M_1 at latent size, 1 = edit here."""
    target_mask: Float[Tensor, "b 1 h w"] | None = None
    """M_2 at latent size."""
    source_pixel_mask: Float[Tensor, "b 1 H W"] | None = None
    """M_1 at the images' size, for Eq. 10 and 11."""
    target_pixel_mask: Float[Tensor, "b 1 H W"] | None = None
    """M_2 at the images' size; not needed where ``target_features`` are given."""
    target_pixels: Float[Tensor, "b 3 H W"] | None = None
    """x_2; not needed where ``target_features`` are given."""
    target_features: Float[Tensor, "b *features"] | None = None
    """V(x_2 * M_2), what ``PerceptualFeatures.target`` returns; saves VGG's forward pass on the target."""
    text_embeds: Float[Tensor, "b e"] | None = None
    """CLIP's embedding of the edit prompt y_2."""
    diff_text_embeds: Float[Tensor, "b e"] | None = None
    """CLIP's embedding of the difference prompt y_2^diff."""

    def __post_init__(self) -> None:
        """Bind each axis name to one size and refuse a tensor that says otherwise."""
        sizes = {"b": len(self.sample_ids), "1": 1, "3": 3}
        if not self.sample_ids:
            raise BatchError("a batch has no samples")
        for name, tensor in self.tensors():
            axes = _AXES[name]
            named = axes[:-1] if axes[-1] == "..." else axes
            found = tuple(tensor.shape)
            expected = tuple(sizes.setdefault(axis, size) for axis, size in zip(named, found, strict=False))
            if found[: len(named)] != expected or len(found) < len(named) or (named == axes and len(found) > len(axes)):
                wanted = " ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in axes)
                raise BatchError(f"{name} of the batch from {self.sample_ids[0]} is {found}, expected ({wanted})")

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over the names and tensors that are there."""
        for entry in dataclasses.fields(self):
            if isinstance(value := getattr(self, entry.name), Tensor):
                yield entry.name, value

    def check_values(self) -> None:
        """Look at every value: all finite, masks in [0, 1]. Meant for the host's side, where it costs no waiting.

        Raises:
            BatchError: a tensor holds NaN or an infinity.
            MaskError: a mask holds a value outside [0, 1].
        """
        for name, tensor in self.tensors():
            flat = tensor.flatten(1)
            if not (finite := flat.isfinite().all(dim=1)).all():
                raise BatchError(f"{name} of {self._ids(~finite)} is not finite; rebuild or drop these samples")
            if name.endswith("mask") and not (inside := ((flat >= 0) & (flat <= 1)).all(dim=1)).all():
                raise MaskError(f"{name} of {self._ids(~inside)} has values outside [0, 1]")

    def require(self, name: str, *, needed_by: str) -> Tensor:
        """Return the tensor called ``name``.

        Raises:
            BatchError: it is None; the message says what needs it.
        """
        value = getattr(self, name)
        if value is None:
            raise BatchError(f"the batch from {self.sample_ids[0]} has no {name}, which {needed_by} needs")
        return value

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "EditBatch":
        """Return the batch with every tensor on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "EditBatch":
        """Return the batch in page-locked memory, from which copies to a GPU need not be waited for."""
        return self._map(lambda tensor: tensor.pin_memory())

    def select(self, indices: Sequence[int]) -> "EditBatch":
        """Return the samples at ``indices``, in that order; the batch itself where that is all of them in order.

        Raises:
            BatchError: no index, or one outside the batch.
        """
        if list(indices) == list(range(len(self.sample_ids))):
            return self
        if not indices or not all(0 <= index < len(self.sample_ids) for index in indices):
            raise BatchError(f"samples {list(indices)} cannot be taken from a batch of {len(self.sample_ids)}")
        return self._map(lambda tensor: tensor[list(indices)], sample_ids=[self.sample_ids[i] for i in indices])

    def _map(self, change: Callable[[Tensor], Tensor], sample_ids: Sequence[str] | None = None) -> "EditBatch":
        changed = {name: change(tensor) for name, tensor in self.tensors()}
        ids = self.sample_ids if sample_ids is None else tuple(sample_ids)
        return dataclasses.replace(self, sample_ids=ids, **changed)

    def _ids(self, chosen: Tensor) -> str:
        return ", ".join(self.sample_ids[int(index)] for index in chosen.nonzero()[:, 0])
