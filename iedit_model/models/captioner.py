"""Captions of images: a small protocol, and BLIP behind it with the original classes of transformers.

Greedy or beam search, never sampling: the same image has the same caption. The weights are loaded at the first batch,
so that a stage that finds its work done pays for the hash of the weights only.
"""

import re
from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

from pydantic import Field

from iedit_model.configuration import configuration
from iedit_model.errors import ConfigError, OverflowedError
from iedit_model.inflection import indefinite_article, match_case, plural, word_set
from iedit_model.models.devices import DeviceConfig, resolve_device
from iedit_model.models.lazy_model import LazyModel
from iedit_model.models.source import ModelSource, load_transformer, loaded_once, loading

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_WORD = re.compile(r"[^\W\d_]+", re.UNICODE)


class Captioner(Protocol):
    """Turns images into plain sentences; fit for threads."""

    @property
    def fingerprint(self) -> str:
        """What decides the captions beside the settings: the content of the weights, device and precision."""
        ...

    def prepare(self, image: "Image", /) -> Any:
        """Return what the model sees of one RGB image of any size; runs in threads, ahead of the model."""
        ...

    def caption(self, prepared: Sequence[Any], /) -> list[str]:
        """Return one sentence for each prepared image; it may be empty."""
        ...

    def __call__(self, images: "Sequence[Image]", /) -> list[str]:
        """Return one sentence for each RGB image."""
        ...


@configuration
class CaptionerSpec:
    """Which captioner, and how it decodes."""

    model: ModelSource
    """A BLIP folder or hub id, like ``Salesforce/blip-image-captioning-base``."""
    device: DeviceConfig = field(default_factory=DeviceConfig)
    num_beams: Annotated[int, Field(ge=1, le=64)] = 1
    """1 is greedy search."""
    max_new_tokens: Annotated[int, Field(ge=1, le=512)] = 30
    """Longest caption, in tokens, the prefix not counted."""
    prefix: str = ""
    """Text with which the decoder starts ("a photograph of"); it is no part of the caption."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=32)] = 0
    """Groups of so many tokens never come twice; 0 allows all. It costs time at every step of the decoder."""
    cut_repetition: bool = True
    """Cut "a cat a cat a cat" down to "a cat", which BLIP falls into on odd images; costs nothing."""
    dropped_words: tuple[str, ...] = ("arafed", "araffe", "araffed")
    """Words that BLIP large says and nobody knows; lower case."""

    def __post_init__(self) -> None:
        if loud := [word for word in self.dropped_words if word != word.lower() or not word]:
            raise ValueError(f"dropped_words holds {loud[0]!r}, expected words in lower case")


class BlipCaptioner(LazyModel[CaptionerSpec, "_Blip"]):
    """BLIP (arXiv:2201.12086) with a caption head, loaded at the first image."""

    def __init__(self, spec: CaptionerSpec) -> None:
        """Find the model's files and the device, without loading anything.

        Raises:
            WeightsError: the model cannot be had; the message says what to do.
            ConfigError: the device is not there.
        """
        super().__init__(spec, _load_blip)

    def __call__(self, images: "Sequence[Image]", /) -> list[str]:
        """Return one sentence for each RGB image."""
        return self.caption([self.prepare(image) for image in images])

    def prepare(self, image: "Image", /) -> "Tensor":
        """Return one RGB image resized and normalised as the model's processor says, float32 (3, h, w)."""
        return self._loaded.processor(images=[image], return_tensors="pt").pixel_values[0]

    def caption(self, prepared: "Sequence[Tensor]", /) -> list[str]:
        """Return one sentence for each prepared image; each depends on its own image alone."""
        import torch

        loaded = self._loaded
        # Tokenizers keep state while they run, and two models at once share one device's memory anyway.
        with self._lock, torch.inference_mode():
            pixel_values = torch.stack(list(prepared)).to(self._device.type, self._device.torch_dtype)
            tokens = loaded.model.generate(
                pixel_values=pixel_values,
                input_ids=loaded.prompt.repeat(len(prepared), 1),
                do_sample=False,
                num_beams=self._spec.num_beams,
                max_new_tokens=self._spec.max_new_tokens,
                no_repeat_ngram_size=self._spec.no_repeat_ngram_size,
                logits_processor=[self._checked],
            )
            # generate gives the prompt back, without its end marker.
            texts = loaded.tokenizer.batch_decode(
                tokens[:, loaded.prompt.shape[1] - 1 :], skip_special_tokens=True, clean_up_tokenization_spaces=True
            )
        return [self._cleaned(text) for text in texts]

    def _checked(self, _: "Tensor", scores: "Tensor") -> "Tensor":
        if scores.isnan().any():
            raise OverflowedError("the scores of BLIP's words", self._device.dtype)
        return scores

    def _cleaned(self, text: str) -> str:
        words = without_words(text, self._spec.dropped_words).split()
        return " ".join(without_repetition(words) if self._spec.cut_repetition else words)


class _Blip(NamedTuple):
    model: Any
    processor: Any
    tokenizer: Any
    prompt: "Tensor"


@loaded_once
def _load_blip(spec: CaptionerSpec) -> _Blip:
    from transformers import BlipForConditionalGeneration, BlipProcessor

    device = resolve_device(spec.device)
    model: Any
    processor: Any
    processor, model = load_transformer(spec.model, BlipProcessor, BlipForConditionalGeneration, device=device)
    with loading(spec.model, "a captioner"):
        prompt = processor.tokenizer(spec.prefix, return_tensors="pt").input_ids
    longest = model.config.text_config.max_position_embeddings
    if prompt.shape[1] - 1 + spec.max_new_tokens > longest:
        raise ConfigError(
            f"max_new_tokens is {spec.max_new_tokens} after {prompt.shape[1] - 1} tokens of the prefix, but "
            f"{spec.model.name} knows {longest} positions"
        )
    return _Blip(model, processor.image_processor, processor.tokenizer, prompt.to(device.type))


@loaded_once
def load_captioner(spec: CaptionerSpec) -> Captioner:
    """Return the captioner of a spec, the same one for the same spec in all threads of a process.

    Raises:
        WeightsError: the model cannot be had; the message says what to do.
        ConfigError: the device is not there.
    """
    return BlipCaptioner(spec)


def without_words(text: str, dropped: Sequence[str]) -> str:
    """Return a caption without some words and their plurals, and still English around the gap.

    The article before the gap follows the next word ("an araffe dog" -> "a dog") and goes where none can stand; a
    comma or hyphen behind it goes along, and so does an "and" that joins nothing any more.
    """
    if not dropped:
        return text
    forms = "|".join(sorted({re.escape(form) for word in dropped for form in (word, plural(word))}, key=len)[::-1])
    gap = rf"(?:(?:{forms})(?:['\u2019]s)?(?!\w)\s*[-,;:]?\s*)+"
    found = re.compile(rf"(?<![\w-])(?:(?P<article>an?)\s+)?{gap}", re.IGNORECASE)

    def filled(match: re.Match[str]) -> str:
        rest = text[match.end() :].lstrip()
        following = rest.removeprefix("and ") if match["article"] or not text[: match.start()].strip() else rest
        word = _WORD.match(following)
        if match["article"] is None or word is None or word.group().lower() in _NO_END:
            return ""
        return match_case(indefinite_article(following.lower()), like=match["article"]) + " "

    cut = found.sub(filled, text)
    if cut == text:
        return text
    cut = re.sub(r"(^|\ban? )\s*and\s+", r"\1", re.sub(r"\s+", " ", cut).strip(" ,;:-"))
    return re.sub(r"\s+([,;:.])", r"\1", re.sub(r"\s+and$", "", cut))


_NO_END = word_set(
    """a an and are at behind beside by for from has have in inside into is near next of on or over sitting standing
    that the to under was were which who with without"""
)
"""Words before which no article stands, and with which no caption ends."""


def without_repetition(words: Sequence[str]) -> list[str]:
    """Return words without the immediate repetitions of groups: "a cat a cat in a hat" loses two.

    Case and punctuation make no difference, and groups without a letter ("10 10") stay. Shortest groups go first; one
    pass from left to right for each length, so that the result does not depend on how often something was repeated.
    A further one that was cut off within goes with it.
    """
    kept = list(words)
    for length in range(1, len(words) // 2 + 1):
        kept = _without_repeated_groups(kept, length)
    return [*kept[:-1], kept[-1].rstrip(",;:")] if len(kept) < len(words) else kept


def _without_repeated_groups(words: list[str], length: int) -> list[str]:
    kept: list[str] = []
    plain = [word.lower().strip(",.;:!?") for word in words]
    at, cut_to = 0, -1
    while at < len(words):
        group, before = plain[at : at + length], plain[at - length : at] if at >= length else []
        if group == before and any(_WORD.search(word) for word in group):
            at, cut_to = at + length, at + length
        elif cut_to == at and group == before[: len(group)] and group[-1] in _NO_END:
            break
        else:
            kept.append(words[at])
            at += 1
    return kept
