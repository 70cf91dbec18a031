"""The format of an evaluation set: a folder with ``evalset.json``, ``pairs.parquet`` and ``images/``.

``pairs.parquet`` has one row per pair: which image, the prompts, the word, the instruction and the mask. Images lie
beside it as they came, one file a distinct image, named in the rows together with their hash.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from iedit_model.imaging.decode import LIMITS, STORED_FORMATS
from storage import Column, CorruptFileError, Files, MissingFileError, TableSchema, digest_of
from tasks.evaluate.errors import EvalSetError, UnknownPairError
from tasks.evaluate.sets.pixels import Frame, Mask, framed, set_image, set_mask

if TYPE_CHECKING:
    from PIL.Image import Image

PAIRS, INFO, IMAGES = "pairs.parquet", "evalset.json", "images"
MAX_PAIRS: Final = 100_000
MAX_TEXT_CHARS: Final = 2000
"""Longest prompt, instruction or word; CLIP reads 77 tokens."""

MaskOrigin = Literal["truth", "hand", "imported", "predicted", "none"]
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,95}")
_IMAGE = re.compile(rf"images/[A-Za-z0-9][A-Za-z0-9_-]{{0,95}}\.({'|'.join(STORED_FORMATS.values())})")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _text(name: str, description: str, **options: bool | tuple[str, ...]) -> Column:
    return Column(name=name, type="string", description=description, **options)  # pyright: ignore[reportArgumentType]


EVALSET = TableSchema(
    name="evalset",
    description="One row per editing pair of an evaluation set.",
    columns=(
        _text("pair_id", "Name of the pair."),
        _text("image_id", "Name of the source image; pairs of one image share it."),
        _text("image", "File of the source image, relative to the folder."),
        _text("image_sha256", "Hash of that file."),
        _text("source_prompt", "What the source image shows."),
        _text("edit_prompt", "What the edited image should show."),
        _text("word", "The object to edit, as the source image shows it.", nullable=True),
        _text("replacement", "What takes its place in the edit prompt.", nullable=True),
        _text("instruction", "The edit as an instruction.", nullable=True),
        _text("kind", "Kind of edit, one word; strata of the report.", nullable=True),
        Column(
            name="mask", type="binary", description="Where the edit belongs.", unit="PNG, 255 = edit", nullable=True
        ),
        _text("mask_origin", "Who made the mask.", allowed=("truth", "hand", "imported", "predicted", "none")),
    ),
    sort_by=("pair_id",),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairWords:
    """What a pair is called and what it says, before it is written as after."""

    pair_id: str
    image_id: str
    source_prompt: str
    edit_prompt: str
    word: str | None = None
    replacement: str | None = None
    instruction: str | None = None
    kind: str | None = None
    mask_origin: MaskOrigin = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalPair(PairWords):
    """One editing pair.

    Raises:
        EvalSetError: an id, path or hash of another form, a text that is empty or too long, or a mask that its origin
            denies.
    """

    image: str
    """Path of the source image inside the folder."""
    image_sha256: str
    mask: bytes | None = None
    """PNG, 255 = edit here."""

    def __post_init__(self) -> None:
        for name, value, pattern in (
            ("pair_id", self.pair_id, _ID),
            ("image_id", self.image_id, _ID),
            ("image", self.image, _IMAGE),
            ("image_sha256", self.image_sha256, _SHA256),
        ):
            if not pattern.fullmatch(value):
                raise EvalSetError(f"pair {self.pair_id!r:.80}: {name} is {value!r:.80}, expected {pattern.pattern}")
        for name in ("source_prompt", "edit_prompt", "word", "replacement", "instruction", "kind"):
            _check_text(self.pair_id, name, getattr(self, name))
        if (self.mask is None) != (self.mask_origin == "none"):
            raise EvalSetError(
                f"pair {self.pair_id}: mask_origin is {self.mask_origin!r}, but the mask is "
                f"{'missing' if self.mask is None else 'there'}"
            )
        if self.mask is not None and len(self.mask) > LIMITS.max_bytes:
            raise EvalSetError(f"pair {self.pair_id}: the mask has {len(self.mask)} bytes, at most {LIMITS.max_bytes}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSetInfo:
    """What a set is and where it comes from.

    Raises:
        EvalSetError: the name cannot be part of an address, or a text is too long.
    """

    name: str
    """Short name, small letters and digits: ``mini-real``."""
    origin: Literal["real", "generated", "imported"]
    description: str
    """One sentence for the report."""
    license: str = "unknown"
    """Licence of the images."""
    created: str = ""
    """Day on which it was made, ISO 8601; empty for a set that depends on no day."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise EvalSetError(f"an evaluation set cannot be called {self.name!r:.80}, expected {_NAME.pattern}")
        if self.origin not in {"real", "generated", "imported"}:
            raise EvalSetError(f"set {self.name}: origin is {self.origin!r:.80}, expected real, generated or imported")
        for name in ("description", "license"):
            _check_text(f"of set {self.name}", name, getattr(self, name))
        try:
            datetime.fromisoformat(self.created or "2000-01-01")
        except ValueError as error:
            raise EvalSetError(f"set {self.name}: created is {self.created!r:.40}, expected ISO 8601") from error


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """A set as it was read: texts in memory, images decoded when they are used."""

    files: Files
    info: EvalSetInfo
    pairs: tuple[EvalPair, ...]
    """Sorted by ``pair_id``."""

    @property
    def num_images(self) -> int:
        """Distinct source images."""
        return len({pair.image_id for pair in self.pairs})

    @property
    def digest(self) -> str:
        """64 hex characters over the content of all pairs; name, description and place do not count."""
        return digest_of(*(pair_digest(pair) for pair in self.pairs))

    def pair(self, pair_id: str) -> EvalPair:
        """Return one pair.

        Raises:
            UnknownPairError: there is none of this id.
        """
        for pair in self.pairs:
            if pair.pair_id == pair_id:
                return pair
        raise UnknownPairError(f"the set {self.info.name} has no pair {pair_id!r:.80}")

    def image_bytes(self, pair: EvalPair) -> bytes:
        """Return the encoded source image of a pair.

        Raises:
            EvalSetError: the file is missing, too large or not what the row says.
        """
        try:
            data = self.files.read_bytes(pair.image, max_bytes=LIMITS.max_bytes)
        except (MissingFileError, CorruptFileError) as error:
            raise EvalSetError(f"pair {pair.pair_id}: {error}") from error
        if digest_of_bytes(data) != pair.image_sha256:
            raise EvalSetError(
                f"{self.files.address(pair.image)} does not have the hash that pair {pair.pair_id} names"
            )
        return data

    def image(self, pair: EvalPair) -> "Image":
        """Return the source image of a pair, RGB.

        Raises:
            EvalSetError: the file is missing, damaged or not an image.
        """
        return set_image(self.image_bytes(pair), name=self.files.address(pair.image))

    def mask(self, pair: EvalPair, *, size: tuple[int, int] | None = None) -> Mask | None:
        """Return the mask of a pair, or None where the set has none.

        Raises:
            EvalSetError: it is not an image, or not of the expected width and height.
        """
        if pair.mask is None:
            return None
        return set_mask(pair.mask, name=f"the mask of pair {pair.pair_id}", size=size)

    def frame(self, pair: EvalPair, *, size_px: int) -> Frame:
        """Return image and mask in the square frame of an evaluation.

        Raises:
            EvalSetError: image or mask cannot be used.
        """
        image = self.image(pair)
        return framed(image, self.mask(pair, size=image.size), size_px=size_px)


def digest_of_bytes(data: bytes) -> str:
    """Return the sha256 of ``data``, 64 hex characters."""
    import hashlib

    return hashlib.sha256(data).hexdigest()


def pair_digest(pair: EvalPair) -> str:
    """Return 64 hex characters over all that a pair says and shows; the file that holds its image does not count."""
    words = (pair.word, pair.replacement, pair.instruction, pair.kind)
    mask = digest_of_bytes(pair.mask) if pair.mask is not None else ""
    return digest_of(
        *(pair.pair_id, pair.image_id, pair.image_sha256, pair.source_prompt, pair.edit_prompt),
        *(value or "" for value in words),
        mask,
    )


def _check_text(pair_id: str, name: str, text: str | None) -> None:
    if text is None:
        return
    if not text.strip() or len(text) > MAX_TEXT_CHARS:
        raise EvalSetError(
            f"pair {pair_id}: {name} has {len(text)} characters ({text[:40]!r}), expected 1 to {MAX_TEXT_CHARS}"
        )
    if any(ord(character) < 32 or 0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise EvalSetError(f"pair {pair_id}: {name} holds a control character: {text[:80]!r}")
