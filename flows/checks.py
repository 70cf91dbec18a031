"""What is looked at before a command or a flow starts anything.

Commands check before they start a server or import torch, flows before they ask for a place in a queue. Nothing is
fetched, and nothing is left behind.
"""

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flows.errors import FolderError, SourceError
from iedit_model.errors import ConfigError
from iedit_model.models.source import ModelSource, model_folder
from storage import Files, VersionInfo, VersionStore

if TYPE_CHECKING:
    from flows.config.tree import Config, EvaluationConfig
    from tasks.train.run_config import TrainRunConfig

_COUNTED_FILES = 64
_WRITE_CHECK: Final = ".write_check"
WEIGHTS: Final = dict.fromkeys(("iedit", "iedit_m", "copy_source", "masked_noise")) | {"instruct_pix2pix": "instruct"}
"""Editing method -> which of ``EditorModels`` it needs where that is not the base; ``method_info`` would load torch."""


def check_build(config: "Config", root: str, *, shards: str | None = None) -> None:
    """Refuse a build whose metadata, root, shards or models are not there.

    Raises:
        MetadataError: nothing can be read at the metadata's address.
        FolderError: the root cannot be written.
        SourceError: neither metadata nor a site is configured.
        ConfigError: the shards are no range, or certainly lie behind the last one.
        WeightsError: a model cannot be had.
    """
    from flows.config.overrides import parse_shard_range
    from tasks.stage import find_config
    from tasks.stages import DATASET

    data = config.data
    wanted = parse_shard_range(shards) if shards is not None else None
    check_writable(root, "root")
    if data.source.metadata is not None:
        rows = _rows_of(data.source.metadata)
    elif data.source.site is not None:
        rows = 2 * data.source.site.num_urls  # some stand there twice
    else:
        raise SourceError("no metadata is given: name a parquet file or folder (data.source.metadata, --metadata)")
    if wanted is not None and rows is not None and wanted.start >= (most := -(-rows // data.plan.shard_size)):
        raise ConfigError(f"--shards {shards!r} lies behind the last one: the plan has at most {most} shard(s)")
    stages = [find_config(data, stage.config) for stage in DATASET]
    _check_models(stage for stage, one in zip(stages, DATASET, strict=True) if one.wanted(stage))


def check_train(config: "TrainRunConfig", root: str, out: str, version: str) -> VersionInfo:
    """Refuse a training whose version or models are not there, or whose folder cannot be written.

    Returns:
        The version.

    Raises:
        UnknownVersionError: there is no such version.
        FolderError: the root or the folder of the run cannot be written.
        WeightsError: a model cannot be had.
    """
    from flows.reporting.version_text import find_version

    info = find_version(VersionStore(Files(root)), version)
    check_writable(root, "root")  # the encodings are kept there
    check_writable(out, "folder of the run")
    check_train_models(config)
    return info


def check_train_models(config: "TrainRunConfig") -> None:
    """Refuse a training one of whose models is not there.

    Raises:
        WeightsError: a model cannot be had.
    """
    loss = config.train.loss
    used = {
        "clip": loss.use_global or loss.use_loc,
        "perceptual": loss.use_perc,
        "tiny_decoder": (loss.use_global or loss.use_loc or loss.use_perc) and loss.decoder == "tiny",
    }
    _check_models([config.model, *(getattr(config, name) for name, is_used in used.items() if is_used)])


def check_evaluation(
    config: "EvaluationConfig",
    root: str,
    checkpoints: Sequence[str] = (),
    version: str | None = None,
    sets: Sequence[str] | None = None,
) -> None:
    """Refuse an evaluation whose checkpoints, sets, version or models are not there, or whose root cannot be written.

    Raises:
        FolderError: the root cannot be written.
        ConfigError: a checkpoint is not named as one.
        SourceError: there is no such checkpoint or set.
        EvalSetError: a set cannot be used.
        UnknownVersionError: there is no such version.
        WeightsError: a model cannot be had.
    """
    from flows.config.overrides import parse_checkpoints
    from flows.reporting.version_text import find_version
    from flows.sources import find_set

    weights = parse_checkpoints(checkpoints)
    check_writable(root, "root")
    if version is not None:
        find_version(VersionStore(Files(root)), version)
    for source in (source for by_seed in weights.values() for source in by_seed.values()):
        if Path(source.name).expanduser().is_dir() and not Path(source.name, "model_index.json").is_file():
            raise SourceError(f"there is no checkpoint in {source.name}: give the folder of a training run, or of one")
    for name in sets or config.sets:
        find_set(name, root, config)
    plan = config.plan
    kinds = {kind for method in plan.methods if (kind := WEIGHTS.get(method, "base")) is not None}
    kinds |= {"segmenter"} if plan.settings.masks.source == "word" else set()
    _check_models([*(getattr(plan.models, kind) for kind in sorted(kinds)), plan.scoring, weights])


def check_all(config: "Config", root: str) -> None:
    """Refuse what builds, trains and evaluates in one go for a reason of any of them.

    Raises what ``check_build``, ``check_train_models`` and ``check_evaluation`` raise.
    """
    check_build(config, root)
    check_train_models(config.train)
    check_evaluation(config.evaluate, root)


def check_writable(address: str, what: str) -> None:
    """Refuse a folder or address that cannot be written; it is not made yet.

    Raises:
        FolderError: it cannot be written; the message says why.
        AddressError: a remote address that is for reading alone, or without credentials.
        RemoteError: it cannot be reached.
    """
    files = Files(address)
    if not files.is_local:
        # Only a write tells: a system may be for reading alone, and so may credentials.
        files.write_bytes(_WRITE_CHECK, b"")
        files.remove(_WRITE_CHECK)
        return
    folder = Path(files.root)
    above = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise FolderError(f"the {what} {address} cannot be written ({above}: {error.strerror or error})") from None


def _rows_of(address: str) -> int | None:
    """Return the rows of the metadata, None where counting them would take long; its first file must be readable."""
    import pyarrow as pa
    from pyarrow import parquet

    from storage.remote import open_system
    from tasks.plan.metadata import Metadata

    metadata = Metadata(address)
    first = metadata.files[0]
    system, _ = open_system(address)
    with system.open(first.path, "rb") as stream:
        first.reader.footer_digest(stream, name=first.name, size=first.size)
    if "://" in address or len(metadata.files) > _COUNTED_FILES:
        return None
    try:
        return sum(parquet.read_metadata(file.path).num_rows for file in metadata.files)
    except (pa.ArrowException, OSError):  # no parquet, or damaged, which its reader will say
        return None


def check_at_hand(source: ModelSource) -> None:
    """Refuse a model that certainly cannot be had, without a library of models and without fetching anything.

    Raises:
        WeightsError: the folder is no model, there is none of that name, or it is not cached and no hub may be asked.
    """
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    is_listed = source.name.startswith("open_clip:")
    is_hub_id = source.name.count("/") == 1 and not source.name.startswith(("/", ".", "~"))
    if Path(source.name).expanduser().is_dir() or not (is_listed or (is_hub_id and not offline)):
        model_folder(source)


def _check_models(configs: Any) -> None:
    for source in dict.fromkeys(_sources(list(configs))):
        check_at_hand(source)


def _sources(value: Any) -> Iterator[ModelSource]:
    """Yield the models that a configuration names, wherever they stand in it."""
    if isinstance(value, ModelSource):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _sources(getattr(value, field.name))
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _sources(one)
