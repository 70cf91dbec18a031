"""Read and write the folder of an evaluation set; whatever lies in it is checked before it is believed."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from iedit_model.configuration import parsed_json
from storage import CorruptFileError, Files, MissingFileError, SchemaError, json_document, parquet_bytes, validated
from tasks.evaluate.errors import EvalSetError, EvalSetExistsError
from tasks.evaluate.sets.evalset import (
    EVALSET,
    IMAGES,
    INFO,
    MAX_PAIRS,
    PAIRS,
    EvalPair,
    EvalSet,
    EvalSetInfo,
    MaskOrigin,
    PairWords,
    digest_of_bytes,
)
from tasks.evaluate.sets.pixels import Mask, extension, mask_bytes, set_image
from tasks.evaluate.sets.untrusted import read_bounded

_MAX_INFO_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class NewPair(PairWords):
    """A pair that is to be written."""

    image: bytes
    """The file as it is to be stored; pairs of one ``image_id`` bring the same bytes."""
    mask: Mask | None = None
    """(height, width) of the image, True = edit here."""


def open_evalset(root: str | Path) -> EvalSet:
    """Read the set in a folder or at an fsspec address; images are read when they are used.

    Raises:
        EvalSetError: no set is there, or something in its tables cannot be.
        AddressError: the root cannot be used.
    """
    files = Files(str(root))
    info = _read_info(files)
    try:
        table = validated(read_bounded(files, PAIRS), EVALSET)
    except (MissingFileError, CorruptFileError, SchemaError) as error:
        raise EvalSetError(f"{files.root} is no evaluation set: {error}") from error
    if not 0 < table.num_rows <= MAX_PAIRS:
        raise EvalSetError(f"{files.address(PAIRS)} has {table.num_rows} pairs, expected 1 to {MAX_PAIRS}")
    pairs = tuple(EvalPair(**row) for row in table.to_pylist())
    _check_images(pairs)
    return EvalSet(files=files, info=info, pairs=pairs)


def write_evalset(root: str | Path, info: EvalSetInfo, pairs: Iterable[NewPair]) -> EvalSet:
    """Write a set into an empty folder and return it; the table comes last, so that a killed run leaves no set.

    Raises:
        EvalSetError: a pair cannot be, two share an id, or there are none.
        EvalSetExistsError: another set is there. The same set again is no error and writes nothing.
        DiskFullError: no room.
    """
    files = Files(str(root))
    rows: dict[str, EvalPair] = {}
    images: dict[str, bytes] = {}
    for new in pairs:
        row, data = _row(new)
        if row.pair_id in rows:
            raise EvalSetError(f"two pairs are called {row.pair_id!r}")
        if len(rows) == MAX_PAIRS:
            raise EvalSetError(f"a set has at most {MAX_PAIRS} pairs")
        rows[row.pair_id], images[row.image] = row, data
    if not rows:
        raise EvalSetError(f"the set {info.name} would have no pair")
    evalset = EvalSet(files=files, info=info, pairs=tuple(rows[name] for name in sorted(rows)))
    _check_images(evalset.pairs)
    if _same_is_there(files, evalset):
        return evalset
    contents = {**images, INFO: json_document(asdict(info))}
    for path, data in contents.items():
        if files.exists(path) and (files.size(path) != len(data) or files.read_bytes(path) != data):
            raise EvalSetExistsError(f"{files.address(path)} is no part of this set and stays: take another folder")
    for path, data in contents.items():
        files.write_bytes(path, data)
    _write_pairs(evalset)
    return evalset


def replace_masks(evalset: EvalSet, masks: Mapping[str, Mask | None], *, origin: MaskOrigin = "hand") -> EvalSet:
    """Write other masks into the set's table, in one switch, and return the new set; None takes a mask away.

    Raises:
        EvalSetError: a mask has not the size of its image.
        UnknownPairError: the set holds no such pair.
    """
    changed = {}
    for pair_id, mask in masks.items():
        pair = evalset.pair(pair_id)
        if mask is not None and mask.shape[::-1] != (size := evalset.image(pair).size):
            raise EvalSetError(f"the mask of pair {pair_id} is {mask.shape[::-1]}, its image {size}")
        data = None if mask is None else mask_bytes(mask)
        changed[pair_id] = replace(pair, mask=data, mask_origin="none" if data is None else origin)
    renewed = replace(evalset, pairs=tuple(changed.get(pair.pair_id, pair) for pair in evalset.pairs))
    _write_pairs(renewed)
    return renewed


def check_evalset(evalset: EvalSet) -> list[str]:
    """Decode every image and mask and return one line a problem; an empty list is a whole set."""
    problems = []
    for pair in evalset.pairs:
        try:
            evalset.mask(pair, size=evalset.image(pair).size)
        except EvalSetError as error:
            problems.append(str(error))
    return problems


def _row(new: NewPair) -> tuple[EvalPair, bytes]:
    name = f"the image of pair {new.pair_id!r:.80}"
    size = set_image(new.image, name=name).size
    if new.mask is not None and new.mask.shape[::-1] != size:
        raise EvalSetError(f"the mask of pair {new.pair_id!r:.80} is {new.mask.shape[::-1]}, its image {size}")
    row = EvalPair(
        **{field.name: getattr(new, field.name) for field in fields(PairWords)},
        image=f"{IMAGES}/{new.image_id}.{extension(new.image, name=name)}",
        image_sha256=digest_of_bytes(new.image),
        mask=None if new.mask is None else mask_bytes(new.mask),
    )
    return row, new.image


def _check_images(pairs: Iterable[EvalPair]) -> None:
    """Refuse two contents under one image id, or under one file."""
    seen: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        if seen.setdefault(pair.image_id, (pair.image, pair.image_sha256)) != (pair.image, pair.image_sha256):
            raise EvalSetError(f"pair {pair.pair_id}: the image {pair.image_id} has other content in another pair")
    if len({path for path, _ in seen.values()}) != len(seen):
        raise EvalSetError("two images share a file")


def _read_info(files: Files) -> EvalSetInfo:
    known = {column.name for column in fields(EvalSetInfo)}
    try:
        content: Any = parsed_json(files.read_bytes(INFO, max_bytes=_MAX_INFO_BYTES))
        if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
            raise EvalSetError(f"{files.address(INFO)} is no object of strings")
        return EvalSetInfo(**{name: value for name, value in cast("dict[str, Any]", content).items() if name in known})
    except (MissingFileError, CorruptFileError) as error:
        raise EvalSetError(f"{files.root} is no evaluation set: {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise EvalSetError(f"{files.address(INFO)} does not describe an evaluation set: {error}") from error


def _same_is_there(files: Files, evalset: EvalSet) -> bool:
    if not files.exists(PAIRS):
        return False
    there = open_evalset(files.root)
    if (there.info, there.digest) != (evalset.info, evalset.digest):
        raise EvalSetExistsError(f"{files.root} already holds the set {there.info.name!r}: take another folder")
    return True


def _write_pairs(evalset: EvalSet) -> None:
    table = EVALSET.table(asdict(pair) for pair in evalset.pairs)
    evalset.files.write_bytes(PAIRS, parquet_bytes(table, EVALSET))
