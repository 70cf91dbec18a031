"""Where a trained model comes from: a local folder or a hub id, and what identifies its content.

Everything becomes a local folder first, so that nothing but safetensors, JSON and tokenizer text is ever fetched or
read. The hub is asked through its own client: its cache, its mirror and ``HF_HUB_OFFLINE`` work as everywhere.
"""

import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from iedit_model.configuration import configuration
from iedit_model.errors import MissingModelError, PickledWeightsError, WeightsError
from iedit_model.models.devices import ComputeDevice

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Names of what a model is made of: configuration, weights, vocabularies. The rest of a folder does not count."""

HUB_PREFIX = "hf-hub:"

BROKEN_MODEL = (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError)
"""What the model libraries raise on folders that are damaged or of another kind."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack"})
_READ_BYTES = 1 << 20

_LOADING = threading.RLock()
"""Held while a model is loaded: the libraries set process-wide switches in the meantime."""

Spec = TypeVar("Spec", bound=Hashable)
Model = TypeVar("Model")


@configuration
class ModelSource:
    """A model's folder or hub id; in a stage's fingerprint its content counts (``weights_digest``), not its path."""

    name: str = field(kw_only=False, metadata={"fingerprint": False})
    """A folder as ``save_pretrained`` or open_clip write it, or a hub id like ``CIDAS/clipseg-rd64-refined``, which may
    begin with ``hf-hub:``. A folder of that name goes first."""
    revision: str | None = field(default=None, kw_only=False, metadata={"fingerprint": False})
    """Branch, tag or commit of a hub id; None is its main branch. Folders have none."""

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise ValueError(f"a model needs a folder or a hub id, got {self.name!r}")


def model_folder(source: ModelSource, *, files: tuple[str, ...] = MODEL_FILES) -> Path:
    """Return the local folder of a model, fetched into the hub's cache when it is neither here nor there yet.

    Args:
        source: the model.
        files: patterns of what to fetch from a hub id; the default leaves out all pickled files.

    Raises:
        MissingModelError: no such folder, or a hub id that cannot be had (offline, unknown, no access).
        PickledWeightsError: the weights are there in pickled form only.
        WeightsError: there are no weights, or a part of them is missing.
    """
    folder = Path(source.name).expanduser()
    if not folder.is_dir():
        folder = _hub_folder(source, files)
    _check_weights(folder, source)
    return folder.resolve()


def weights_digest(source: ModelSource, *, files: tuple[str, ...] = MODEL_FILES) -> str:
    """Return 64 hex characters over the names and bytes of a model's files; where the folder lies does not count.

    Hashed once per process unless a file changes. Raises what ``model_folder`` raises.
    """
    folder = model_folder(source, files=files)
    paths = model_files(folder, files=files)
    stats = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    return _content_hash(folder, tuple(paths), stats)


def model_fingerprint(source: ModelSource, device: ComputeDevice, *, files: tuple[str, ...] = MODEL_FILES) -> str:
    """Return what decides a model's numbers: the content of its files, the device and the precision.

    Raises what ``model_folder`` raises.
    """
    return f"{weights_digest(source, files=files)}@{device.name}"


def model_files(folder: Path, *, files: tuple[str, ...] = MODEL_FILES) -> list[Path]:
    """Return the files of a folder and its subfolders that make up the model, sorted; hidden ones are left out."""
    found = {path for pattern in files for path in folder.rglob(pattern) if path.is_file()}
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def loaded_once(load: Callable[[Spec], Model]) -> Callable[[Spec], Model]:
    """Make a loader keep what it loaded, one model a spec and process, however many threads ask at once."""
    cached = functools.cache(load)

    @functools.wraps(load)
    def guarded(spec: Spec) -> Model:
        with _LOADING:
            return cached(spec)

    return guarded


def load_transformer(
    source: ModelSource, processor_class: Any, model_class: Any, *, device: ComputeDevice
) -> tuple[Any, Any]:
    """Return the processor and the frozen model of a transformers folder, in evaluation mode.

    Args:
        source: the model.
        processor_class: a transformers class with ``from_pretrained``.
        model_class: likewise.
        device: where the model goes and in which precision.

    Raises:
        WeightsError: the model cannot be had, its files do not fit the classes, or a weight is missing.
    """
    import torch

    folder = model_folder(source)
    try:
        with without_progress_bars():
            processor = processor_class.from_pretrained(folder, local_files_only=True)
            model, report = model_class.from_pretrained(
                # Another type here would be torch's default for all threads until the weights are read.
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except BROKEN_MODEL as error:
        raise WeightsError(f"{source.name} cannot be loaded as {model_class.__name__}: {error}") from error
    if lacking := sorted(report["missing_keys"]):
        raise WeightsError(
            f"{source.name} lacks the weight {lacking[0]} and {len(lacking) - 1} more of a {model_class.__name__}, "
            "which would be random: it is another kind of model, or the folder is not whole"
        )
    model.eval().requires_grad_(requires_grad=False)
    return processor, model.to(device=device.type, dtype=device.torch_dtype)


def read_model_json(folder: Path, name: str) -> dict[str, object]:
    """Return the JSON object in one of a model's files.

    Raises:
        WeightsError: the file is missing or holds something else.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / name} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{folder / name} holds a {type(content).__name__}, expected an object")
    return content


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars while it loads."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _hub_folder(source: ModelSource, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    hub_id = source.name.removeprefix(HUB_PREFIX)
    if not _HUB_ID.fullmatch(hub_id):
        raise MissingModelError(f"{source.name} is no folder here and no hub id of the form owner/name: check the path")
    try:
        return Path(snapshot_download(hub_id, revision=source.revision, allow_patterns=list(files)))
    except (OSError, HFValidationError) as error:
        at = f" at revision {source.revision}" if source.revision else ""
        raise MissingModelError(
            f"the model {hub_id}{at} is neither a folder here nor in the hub's cache, and the hub gave none "
            f"({type(error).__name__}): go online once with HF_HUB_OFFLINE unset, or give the path of a local copy"
        ) from error


def _check_weights(folder: Path, source: ModelSource) -> None:
    names = {path.relative_to(folder).as_posix() for path in model_files(folder)}
    if not any(name.endswith(".safetensors") for name in names):
        pickles = sorted(path.name for path in folder.rglob("*") if path.suffix in _PICKLES)
        if pickles:
            raise PickledWeightsError(
                f"{source.name} has its weights only as {pickles[0]}, a format that can run code when it is read: "
                "take a revision with safetensors (often refs/pr/N on the hub) or convert it once and give the folder"
            )
        raise WeightsError(f"{source.name} ({folder}) has no .safetensors file: it would be a random model")
    for name in sorted(name for name in names if name.endswith(".safetensors.index.json")):
        parts = read_model_json(folder, name).get("weight_map")
        wanted = set(parts.values()) if isinstance(parts, dict) else set()
        if lacking := sorted(str(part) for part in wanted if not (folder / name).with_name(str(part)).is_file()):
            raise WeightsError(f"{source.name} ({folder}) lacks {lacking[0]}, which {name} lists: fetch it again")


@functools.lru_cache(maxsize=64)
def _content_hash(folder: Path, paths: tuple[Path, ...], stats: tuple[tuple[int, int], ...]) -> str:
    hasher = hashlib.blake2b(digest_size=32)
    for path, (size, _) in zip(paths, stats, strict=True):
        hasher.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                hasher.update(block)
    return hasher.hexdigest()
