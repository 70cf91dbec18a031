"""What follows from content alone: canonical JSON of a configuration, sample ids, seeds, digests, fingerprints.

Two configurations that compare equal have the same text, whatever was written ``1`` or ``1.0``. Types whose text could
depend on the machine or on the order of insertion (paths, lists, dicts, dates, functions) are refused. Nothing here
uses ``hash()``, which is salted anew in every process.
"""

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from storage.errors import CorruptFileError, FingerprintError

TYPE_KEY = "@"
"""Key under which an object says what it is; no Python field can be called so."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""What JSON can say."""

_Plain = bool | int | float | str | bytes | None


def canonical_json(value: object) -> str:
    """Return the compact canonical text of ``value``, ASCII, keys sorted.

    Raises:
        FingerprintError: see ``canonical_value``.
    """
    return json.dumps(canonical_value(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def json_document(content: object) -> bytes:
    """Return a JSON file for people and programs, ASCII, indented, keys sorted: the same content has the same bytes.

    Raises:
        ValueError: a number is not finite.
    """
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


_CHECKSUM = "checksum"


def sealed_document(content: Mapping[str, Any]) -> bytes:
    """Return a JSON file that says its own sha256, so that a flipped bit in it is noticed when it is read."""
    return json_document({**content, _CHECKSUM: hashlib.sha256(json_document(content)).hexdigest()})


def sealed_content(data: bytes) -> dict[str, Any]:
    """Return what ``sealed_document`` wrote; a file of before it had a checksum is taken as it is.

    Raises:
        CorruptFileError: the bytes are not those that were written.
        ValueError: no JSON.
    """
    content: dict[str, Any] = json.loads(data)
    if _CHECKSUM in content:
        del content[_CHECKSUM]
        if sealed_document(content) != data:
            raise CorruptFileError("its bytes are not those that were written: the checksum differs")
    return content


def canonical_value(value: object, *, at: str = "config") -> Json:
    """Return ``value`` as JSON values, readable and without loss.

    Fields with ``metadata={"fingerprint": False}`` are left out: they change how fast, never what.

    Args:
        value: None, bool, int, float, str, bytes, an enum member, a tuple, a frozenset or a frozen dataclass of these.
        at: what an error calls the value.

    Raises:
        FingerprintError: a type outside this list, a dataclass that is not frozen, or a NaN; the message says where.
    """
    if isinstance(value, enum.Enum):  # before the scalars, which many enums also are
        return {TYPE_KEY: type(value).__name__, "value": canonical_value(value.value, at=f"{at}.value")}
    if value is None or isinstance(value, bool | int | str | float | bytes):
        return _canonical_scalar(value, at)
    if isinstance(value, tuple):
        return [canonical_value(item, at=f"{at}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, frozenset):
        items = [canonical_value(item, at=f"{at}{{}}") for item in value]
        return {TYPE_KEY: "frozenset", "items": sorted(items, key=lambda item: json.dumps(item, sort_keys=True))}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _canonical_dataclass(value, at)
    raise FingerprintError(
        f"{at} is a {type(value).__name__} ({value!r:.80}), which has no stable form: use None, bool, int, float, "
        "str, bytes, an enum, a tuple, a frozenset or a frozen dataclass, or mark the field "
        'metadata={"fingerprint": False}'
    )


def _canonical_scalar(value: _Plain, at: str) -> Json:
    if isinstance(value, bytes):
        return {TYPE_KEY: "bytes", "hex": value.hex()}
    return _canonical_float(value, at) if isinstance(value, float) else value


def _canonical_float(value: float, at: str) -> Json:
    if math.isnan(value):
        raise FingerprintError(f"{at} is NaN, which does not equal itself: use None for an unknown number")
    if math.isinf(value):
        return {TYPE_KEY: "float", "value": "inf" if value > 0 else "-inf"}
    # 1 == 1.0 and -0.0 == 0.0 in Python: equal configurations must not be computed twice
    return int(value) if value.is_integer() else float(value)


def _canonical_dataclass(value: Any, at: str) -> Json:
    kind = type(value)
    if not kind.__dataclass_params__.frozen:
        raise FingerprintError(f"{at} is a {kind.__name__} that is not frozen: it could change after it was hashed")
    named: dict[str, Json] = {TYPE_KEY: kind.__name__}
    for field in dataclasses.fields(value):
        if field.metadata.get("fingerprint", True):
            named[field.name] = canonical_value(getattr(value, field.name), at=f"{at}.{field.name}")
    return named


_READ_BYTES = 1 << 20


def sample_id(url: str) -> str:
    """Return the id of the sample at ``url``: 20 hex characters, blake2b of the URL's UTF-8 bytes.

    80 bits: among a billion URLs the chance that any two share an id is below one in a million.

    Raises:
        FingerprintError: the URL is empty or not a string.
    """
    if not isinstance(url, str) or not url:
        raise FingerprintError(f"a sample needs a URL, got {url!r}")
    return hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()


def sample_seed(run_seed: int, stage: str, sample_id: str) -> int:
    """Return a seed in [0, 2**63) fixed by run, stage and sample alone.

    Raises:
        FingerprintError: stage or sample id holds a slash, which would make two triples one.
    """
    if "/" in stage or "/" in sample_id:
        raise FingerprintError(f"stage {stage!r} and sample id {sample_id!r} must not hold a slash")
    digest = hashlib.blake2b(f"{run_seed}/{stage}/{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def digest_of(*parts: str | bytes | int) -> str:
    """Return 64 hex characters (sha256) over the parts, their types, order and borders.

    Raises:
        FingerprintError: a part is of another type.
    """
    hasher = hashlib.sha256()
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, str | bytes | int):
            raise FingerprintError(f"cannot take the digest of a {type(part).__name__} ({part!r:.80})")
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        hasher.update(f"{type(part).__name__} {len(data)} ".encode())
        hasher.update(data)
    return hasher.hexdigest()


def fingerprint(
    *, stage: str, version: int, config: object, inputs: Sequence[str] = (), weights_digest: str | None = None
) -> str:
    """Return 16 hex characters that name everything which decides a stage's bytes.

    Args:
        stage: the stage's name.
        version: the stage's ``VERSION``, raised by hand when the meaning of its output changes.
        config: a frozen dataclass; see ``canonical_value`` for what its fields may hold.
        inputs: digests of what the stage reads; their order counts.
        weights_digest: content hash of the model that the stage runs, if any.

    Raises:
        FingerprintError: the config is no frozen dataclass or holds a value without a stable form.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise FingerprintError(f"the config of stage {stage} must be a frozen dataclass, got {config!r:.80}")
    if isinstance(inputs, str):
        raise FingerprintError(f"inputs of stage {stage} must be a sequence of digests, got the string {inputs!r:.80}")
    text = canonical_json((stage, version, canonical_json(config), tuple(inputs), weights_digest))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def folder_identity(folder: Path) -> str:
    """Return 64 hex characters over the names and bytes of all files in ``folder``: a model's content hash.

    Hidden files are left out; where the folder lies does not count.

    Raises:
        FingerprintError: the folder holds no file.
    """
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not names:
        raise FingerprintError(f"the folder {folder} holds no file, so it has no digest")
    return digest_of(*(part for name in names for part in (name, file_sha256(folder / name))))


def file_sha256(path: Path) -> str:
    """Return the sha256 of a local file, 64 hex characters, read in pieces."""
    with path.open("rb") as stream:
        return stream_sha256(stream)


def stream_sha256(stream: BinaryIO) -> str:
    """Return the sha256 of what a binary stream still holds, 64 hex characters, read in pieces."""
    hasher = hashlib.sha256()
    while block := stream.read(_READ_BYTES):
        hasher.update(block)
    return hasher.hexdigest()
