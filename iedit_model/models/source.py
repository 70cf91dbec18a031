"""Where a trained model comes from: a local folder or a hub id, and what identifies its content.

Everything becomes a local folder first, so that nothing but safetensors, JSON and tokenizer text is ever fetched or
read. The hub is asked through its own client: its cache, its mirror and ``HF_HUB_OFFLINE`` work as everywhere.

Every call into a model library goes through ``loading`` and every network through ``read_part``, after ``model_folder``
has looked at the JSON files: no code of a folder or of the hub is run, and what the libraries raise is a
``WeightsError``.
"""

import functools
import hashlib
import os
import re
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from iedit_model.configuration import configuration, parsed_json
from iedit_model.errors import ForeignCodeError, IEditError, MissingModelError, PickledWeightsError, WeightsError
from iedit_model.models.devices import ComputeDevice

if TYPE_CHECKING:
    from torch import nn

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Names of what a model is made of: configuration, weights, vocabularies. The rest of a folder does not count."""

HUB_PREFIX = "hf-hub:"

_CODE_KEYS = frozenset({"auto_map", "custom_pipeline", "custom_pipelines", "trust_remote_code"})
"""Keys by which transformers, diffusers and open_clip are told to run Python files of a folder or of the hub."""
_CODE_LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion"})
"""Libraries whose classes a ``model_index.json`` may name; any other name is a module that would be imported."""
_PLAIN_DATA = frozenset({"tokenizer.json", "vocab.json", "merges.json", "added_tokens.json"})
"""Vocabularies: large, and read by no code that looks for such a key."""
CARD = "README.md"
"""A model's description of itself, as on the hub."""
_LIMITS = re.compile(r"^#+[^\n]*\blimit[^\n]*\n(.*?)(?=^#|\Z)", re.IGNORECASE | re.MULTILINE | re.DOTALL)
_MAX_CARD = 1 << 20
_LONGEST_LIMITS = 400
_MAX_JSON_BYTES = 64 << 20

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack"})
"""Suffixes of weights in formats that can run code when they are read; never read and never copied."""
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
        ForeignCodeError: the model asks for Python code of its own to be run.
        WeightsError: there are no weights, a part of them is missing, or the folder cannot be read.
    """
    with loading(source, "a model"):
        folder = Path(source.name).expanduser()
        if not folder.is_dir():
            folder = _hub_folder(source, files)
        _check_weights(folder, source)
        paths = [path for path in model_files(folder) if path.suffix == ".json" and path.name not in _PLAIN_DATA]
        _check_runs_no_code(folder, tuple(paths), _stats(paths))
        return folder.resolve()


def weights_digest(source: ModelSource, *, files: tuple[str, ...] = MODEL_FILES) -> str:
    """Return 64 hex characters over the names and bytes of a model's files; where the folder lies does not count.

    Hashed once per process unless a file changes. Raises what ``model_folder`` raises.
    """
    folder = model_folder(source, files=files)
    with loading(source, "a model"):
        paths = model_files(folder, files=files)
        return _content_hash(folder, tuple(paths), _stats(paths))


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


@contextmanager
def loading(source: ModelSource, kind: str) -> Iterator[None]:
    """Make one ``WeightsError`` of whatever a model library or the disk raises inside the block, and draw no bars.

    Args:
        source: the model, for the message.
        kind: what it is loaded as: "an open_clip model".

    Raises:
        WeightsError: the model cannot be loaded as that.
    """
    try:
        yield
    except IEditError:  # ours, some of which are ValueErrors
        raise
    except Exception as error:
        said = str(error) or type(error).__name__
        raise WeightsError(f"{source.name} cannot be loaded as {kind}: {said}") from error


def read_part(source: ModelSource, folder: Path, model_class: Any) -> Any:
    """Return a frozen network of transformers or diffusers in evaluation mode, fp32; every one is read here.

    Args:
        source: the model, for messages.
        folder: of the network's own config and safetensors.
        model_class: with ``from_pretrained``; a config that names another class is refused.

    Raises:
        WeightsError: the files do not fit the class, a weight is missing, or one is not finite.
    """
    import torch

    kind = model_class.__name__
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{source.name} cannot be loaded as a {kind}: {folder} has no config.json")
    config = read_model_json(folder, "config.json")
    wanted = getattr(getattr(model_class, "config_class", None), "model_type", None)
    for name, expected in (("_class_name", None if wanted else kind), ("model_type", wanted)):
        if expected is not None and config.get(name, expected) != expected:
            raise WeightsError(
                f"{folder} holds a {config[name]!r}, expected {expected!r} ({kind}): {source.name} is another kind of "
                "model"
            )
    with loading(source, f"a {kind}"), without_progress_bars():
        model, report = model_class.from_pretrained(
            # Another type here would be torch's default for all threads until the weights are read.
            folder,
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    # The libraries would fill a weight that is not there with random numbers and only warn.
    if lacking := sorted(str(key) for key in report["missing_keys"]):
        raise WeightsError(
            f"{folder} lacks the weight {lacking[0]} and {len(lacking) - 1} more of a {kind}, which would be random: "
            "it is another kind of model, or the folder is not whole"
        )
    return frozen(model, origin=folder)


def frozen(model: "nn.Module", *, origin: Path) -> Any:
    """Return a network in evaluation mode without gradients, all of whose weights are numbers.

    Raises:
        WeightsError: a weight is NaN or infinite; the message names it.
    """
    import torch

    for name, value in model.state_dict().items():
        # A sum is not finite as soon as one summand is not, and costs no second tensor.
        if value.is_floating_point() and not value.double().sum().isfinite() and not torch.isfinite(value).all():
            raise WeightsError(
                f"{origin} has values that are not finite in the weight {name}: the file is damaged, or comes from a "
                "training that diverged; take another copy or an earlier checkpoint"
            )
    return model.eval().requires_grad_(requires_grad=False)


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
    from PIL import Image

    folder = model_folder(source)
    model = read_part(source, folder, model_class)
    with loading(source, f"a {model_class.__name__}"), without_progress_bars():
        processor = processor_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # What its settings cannot do shows at the first image; better now than in the middle of a shard.
        processor.image_processor(images=[Image.new("RGB", (64, 48))], return_tensors="pt")
        known = getattr(model.config.text_config, "vocab_size", len(processor.tokenizer))
        if len(processor.tokenizer) > known:
            raise WeightsError(
                f"the tokenizer of {source.name} has {len(processor.tokenizer)} words and its model {known}: they "
                "belong to two models"
            )
        return processor, model.to(device=device.type, dtype=device.torch_dtype)


def read_model_json(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in one of a model's files.

    Raises:
        WeightsError: the file is missing, too large or holds something else, or a key twice.
    """
    content = _json(folder / name)
    if not isinstance(content, dict):
        raise WeightsError(f"{folder / name} holds a {type(content).__name__}, expected an object")
    return content


def described_limits(folder: Path) -> str | None:
    """Return what a model's card says under its heading of limits, on one line; None without such a card."""
    try:
        with (folder / CARD).open(encoding="utf-8", errors="replace") as stream:
            card = stream.read(_MAX_CARD)
    except OSError:
        return None
    found = _LIMITS.search(card)
    words = " ".join(found[1].split()) if found else ""
    if not words:
        return None
    return words if len(words) <= _LONGEST_LIMITS else f"{words[:_LONGEST_LIMITS]}..."


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers and, where it is imported, diffusers from drawing bars while they load."""
    from transformers.utils import logging

    libraries = [logging, *(sys.modules[name] for name in ("diffusers.utils.logging",) if name in sys.modules)]
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _check_not_a_path(name: str) -> None:
    """Refuse what can only be meant as a path of this machine: no hub is asked for it."""
    path = Path(name).expanduser()
    is_weights = path.suffix.lower() in {".safetensors", *PICKLES}
    if not is_weights and not os.path.lexists(path):
        return
    what = "a single file" if path.is_file() else "not there" if not os.path.lexists(path) else "no folder"
    raise MissingModelError(
        f"the model {name} is {what}, and a model is a folder as save_pretrained writes it: convert a single "
        "file once with StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER), and give the folder"
    )


def _hub_folder(source: ModelSource, files: tuple[str, ...]) -> Path:
    _check_not_a_path(source.name)
    hub_id = source.name.removeprefix(HUB_PREFIX)
    if not _HUB_ID.fullmatch(hub_id):
        raise MissingModelError(f"{source.name} is no folder here and no hub id of the form owner/name: check the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

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
        pickles = sorted(path.name for path in folder.rglob("*") if path.suffix in PICKLES)
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
def _check_runs_no_code(folder: Path, paths: tuple[Path, ...], stats: tuple[tuple[int, int], ...]) -> None:
    """Refuse a model whose JSON files ask a library to import or run Python that is not the library's own."""
    del stats  # part of the cache's key
    for path in paths:
        try:
            nodes: list[Any] = [[_json(path)]]
        except WeightsError as error:
            if isinstance(error.__cause__, JSONDecodeError | UnicodeDecodeError):  # no JSON for the libraries either
                continue
            raise
        is_index = path == folder / "model_index.json"
        while nodes:
            node = nodes.pop()
            pairs: list[tuple[Any, Any]] = list(node.items() if isinstance(node, dict) else enumerate(node))
            for key, value in pairs:
                if _runs_code(key, value, of_index=is_index):
                    raise ForeignCodeError(
                        f"{path} asks for code that does not come with this program ({key}: {str(value)[:80]}): no "
                        "code of a model is ever run; take a model that the libraries know themselves, or remove the "
                        "entry if the model works without"
                    )
            nodes += [value for _, value in pairs if isinstance(value, dict | list)]


def _runs_code(key: Any, value: Any, *, of_index: bool) -> bool:
    if key in _CODE_KEYS:
        return bool(value)
    if key == "_class_name":
        return not isinstance(value, str)
    if str(key).endswith(("attn_implementation", "experts_implementation")):  # "owner/name" is a kernel of the hub
        return "/" in str(value)
    names_class = of_index and isinstance(value, list) and len(value) > 1
    return names_class and value[0] is not None and value[0] not in _CODE_LIBRARIES


def _json(path: Path) -> Any:
    try:
        if (size := path.stat().st_size) > _MAX_JSON_BYTES:
            raise WeightsError(f"{path} has {size} bytes, at most {_MAX_JSON_BYTES} are read")
        return parsed_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{path} cannot be read as JSON: {error.strerror if isinstance(error, OSError) else error}"
        ) from error


def _stats(paths: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    return tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in paths)


@functools.lru_cache(maxsize=64)
def _content_hash(folder: Path, paths: tuple[Path, ...], stats: tuple[tuple[int, int], ...]) -> str:
    hasher = hashlib.blake2b(digest_size=32)
    for path, (size, _) in zip(paths, stats, strict=True):
        hasher.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                hasher.update(block)
    return hasher.hexdigest()
