"""From a version and a configuration to everything that the loop works with: rows, networks, caches, optimiser."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from storage import ShardStore, VersionInfo, VersionStore
from tasks.errors import TrainingRowsError
from tasks.train.encoding_cache import BatchSource, CachedBatches, CacheFiller, CacheReport, EncodingCache, LiveBatches
from tasks.train.encodings import build_encodings, encode_pairs
from tasks.train.learner import Learner, PipelineWriter, autocast_unet, set_up_unet
from tasks.train.networks import Networks, load_networks
from tasks.train.run_config import TrainRunConfig
from tasks.train.run_folder import RunFolder, check_same_run, describe_run
from tasks.train.step_meter import StepMeter
from tasks.train.train_log import TrainProgress
from tasks.train.train_rows import TrainRows, read_pair, read_rows
from tasks.train.training_run import RunParts
from tasks.train.validation_sheet import ValidationSheet

if TYPE_CHECKING:
    from accelerate import Accelerator

    from iedit_model.training.train_models import TrainModels
    from iedit_model.training.trainable import LayerPlan

_MASKS = ("source_mask", "target_mask", "source_pixel_mask")


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """What a run needs, before its first step."""

    parts: RunParts
    cache: CacheReport | None
    left_out: Mapping[str, int]
    manifest: Mapping[str, Any]
    """What ``run.json`` says before the first step."""
    held: Mapping[str, Any] | None
    """What it said already, where the run was begun before."""


def prepare_run(
    info: VersionInfo,
    config: TrainRunConfig,
    store: ShardStore,
    folder: RunFolder,
    *,
    accelerator: "Accelerator",
    stack: ExitStack,
    progress: TrainProgress,
) -> PreparedRun:
    """Load, encode and set up everything; see ``tasks.train.stage.train`` for what is raised."""
    rows = read_rows(VersionStore(store.files), info, config.rows)
    networks = load_networks(config, accelerator.device)
    encodings = build_encodings(networks, config, keep_features=_fits(networks, config, store, rows))
    cache, source, sample_ids = (
        None,
        LiveBatches(store.files, rows, encodings, prompts=config.rows.prompts),
        rows.chosen,
    )
    left_out = Counter(rows.dropped)
    if config.cache.enabled:
        kept = EncodingCache(stack, store)
        filler = CacheFiller(store, info, rows, prompts=config.rows.prompts, config=config.cache)
        with accelerator.main_process_first():
            cache = filler.fill(encodings, kept, progress.on_cache)
        source = CachedBatches(kept)
        sample_ids = _without_empty_masks(kept, rows.chosen, config)
        left_out["empty_mask"] = len(rows.chosen) - len(sample_ids)
    manifest = describe_run(
        config,
        info,
        networks,
        sample_ids=sample_ids,
        left_out=+left_out,
        num_devices=accelerator.num_processes,
    )
    held = check_same_run(folder, manifest)
    sheet = _sheet(info, config, networks, store) if config.loop.validate_every else None
    parts = _parts(config, networks, accelerator, source, sample_ids, folder, progress, sheet)
    return PreparedRun(parts=parts, cache=cache, left_out=+left_out, manifest=manifest, held=held)


def _parts(
    config: TrainRunConfig,
    networks: Networks,
    accelerator: "Accelerator",
    source: BatchSource,
    sample_ids: tuple[str, ...],
    folder: RunFolder,
    progress: TrainProgress,
    sheet: ValidationSheet | None,
) -> RunParts:
    models, plan = _models(config, networks)
    set_up_unet(networks.model.unet, config.compute, on_gpu=accelerator.device.type == "cuda")
    learner = Learner(networks.model.unet, plan, config.train, accelerator)
    return RunParts(
        config=config,
        models=replace(models, unet=autocast_unet(networks.model.unet, accelerator)),
        learner=learner,
        plan=plan,
        accelerator=accelerator,
        source=source,
        sample_ids=sample_ids,
        folder=folder,
        pipeline=PipelineWriter(
            unet=networks.model.unet,
            learner=learner,
            layers=config.train.layers,
            base=networks.folder,
            kept=folder.path / "frozen",
        ),
        progress=progress,
        meter=StepMeter(accelerator.device, config.train),
        sheet=sheet,
    )


def _models(config: TrainRunConfig, networks: Networks) -> "tuple[TrainModels, LayerPlan]":
    import torch

    from iedit_model.schedule import alphas_cumprod_from_config, prediction_type
    from iedit_model.training.train_models import TrainModels, prepare_models
    from iedit_model.training.trainable import plan_layers

    train = config.train
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(train.seed)  # new adapters are random
        plan = plan_layers(
            networks.model.unet,
            train.layers,
            steps_per_phase=train.alternate_every,
            lora_rank=train.lora_rank,
            lora_alpha=train.lora_alpha,
        )
        empty_prompt_embeds = networks.model.encode_prompts([""]).clone()
    models = TrainModels(
        unet=networks.model.unet,
        prediction=prediction_type(networks.model.scheduler_config),
        alphas_cumprod=alphas_cumprod_from_config(networks.model.scheduler_config).to(networks.device),
        decoder=networks.decoder,
        clip=networks.clip,
        perceptual=networks.perceptual,
        empty_prompt_embeds=empty_prompt_embeds,
    )
    prepare_models(models, checkpoint_unet=train.checkpoint_unet, checkpoint_decoder=train.checkpoint_decoder)
    return models, plan


def _sheet(info: VersionInfo, config: TrainRunConfig, networks: Networks, store: ShardStore) -> ValidationSheet:
    """Return the sheet of the first samples of val, or of the trained split where there is no val."""
    split = "val" if info.splits.get("val") else config.rows.split
    rows = read_rows(VersionStore(store.files), info, replace(config.rows, split=split, where=None, max_samples=None))
    chosen = rows.of_ids(rows.chosen[: config.loop.num_validation])
    pairs = tuple(read_pair(store.files, row, config.rows.prompts) for row in chosen)
    return ValidationSheet(networks=networks, pairs=pairs, config=config)


def _fits(networks: Networks, config: TrainRunConfig, store: ShardStore, rows: TrainRows) -> bool:
    """Return whether the target's features of all samples fit into what the cache may take."""
    if not config.train.loss.use_perc:
        return False
    pair = read_pair(store.files, rows.table.slice(0, 1).to_pylist()[0], config.rows.prompts)
    encodings = build_encodings(networks, config, keep_features=True)
    features = [encoding for encoding in encodings if encoding.settings.name == "target-features"]
    size = sum(tensor.numel() for tensor in encode_pairs(features, [pair]).values())
    return size * (2 if config.cache.dtype == "fp16" else 4) * rows.table.num_rows <= config.cache.max_feature_gb * 1e9


def _without_empty_masks(cache: EncodingCache, sample_ids: Sequence[str], config: TrainRunConfig) -> tuple[str, ...]:
    """Return the samples whose masks are not empty, where the configuration leaves the others out.

    Done here and not in the step, so that every batch is full and accumulation makes no difference.

    Raises:
        TrainingRowsError: no sample is left.
    """
    if config.train.loss.empty_mask != "drop":
        return tuple(sample_ids)
    empty: set[str] = set()
    for name in _MASKS:
        columns = cache.column(name, sample_ids)
        empty |= {sample_id for sample_id, mask in zip(sample_ids, columns, strict=False) if not mask.any()}
    kept = tuple(sample_id for sample_id in sample_ids if sample_id not in empty)
    if not kept:
        raise TrainingRowsError(f"all {len(sample_ids)} samples have an empty mask; look at the dataset's masks")
    return kept
