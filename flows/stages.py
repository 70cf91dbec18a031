"""The stages as task functions: reports in, report out; models and the index are kept for the life of a process.

Everything that goes in and out is small and can be pickled: names, counts and the configuration. The data meets in the
store, so that threads of this process and workers of a Ray cluster give the same bytes.
"""

from types import ModuleType

from flows.config.tree import Config
from iedit_model.models.captioner import Captioner, load_captioner
from iedit_model.models.clip import load_clip
from iedit_model.models.segmenter import load_segmenter
from storage import ShardReport, ShardStore, StageRun, VersionInfo
from tasks import caption as caption_stage
from tasks import words as words_stage
from tasks.download import stage as download_stage
from tasks.embed import stage as embed_stage
from tasks.images.image_index import load_image_index
from tasks.index import stage as index_stage
from tasks.index.open_index_cache import resident_index
from tasks.mask import stage as mask_stage
from tasks.pack.stage import PackInputs, pack_shard, plan_pack, write_dataset
from tasks.plan import stage as plan_stage
from tasks.retrieve import stage as retrieve_stage
from tasks.swap import stage as swap_stage
from tasks.swap.word_counts import read_counts
from tasks.words import WordsConfig

Reports = tuple[ShardReport, ...]


def plan(shard: str, *, metadata: str, config: Config, root: str) -> plan_stage.Plan:  # noqa: ARG001 - names it
    """Read, filter and cut the metadata."""
    return plan_stage.plan_shards(metadata, config.data.plan, ShardStore.at(root))


def download(shard: str, *, plan: ShardReport, retry: bool, config: Config, root: str) -> ShardReport:  # noqa: ARG001
    """Fetch the pictures of one shard; with ``retry`` ask again for those that may still come."""
    fetch = download_stage.retry_failed if retry else download_stage.download_shard
    return fetch(plan, config.data.download, ShardStore.at(root))


def caption(shard: str, *, download: ShardReport, config: Config, root: str) -> ShardReport:  # noqa: ARG001
    """Write a caption for each picture."""
    _limit_threads(config)
    return caption_stage.caption_shard(download, config.data.caption, ShardStore.at(root), _captioner(config))


def count_words(shard: str, *, captions: Reports, config: Config, root: str) -> ShardReport:  # noqa: ARG001
    """Count how often the corpus uses each word."""
    return words_stage.count_words(captions, config.data.swap, ShardStore.at(root))


def swap(
    shard: str,  # noqa: ARG001
    *,
    caption: ShardReport,
    counts: ShardReport | None,
    config: Config,
    root: str,
) -> ShardReport:
    """Turn each caption into an edit prompt."""
    store = ShardStore.at(root)
    return swap_stage.swap_shard(
        caption, config.data.swap, store, counts=read_counts(store, counts) if counts else None
    )


def embed(
    shard: str,  # noqa: ARG001
    *,
    download: ShardReport,
    caption: ShardReport,
    swap: ShardReport,
    config: Config,
    root: str,
) -> ShardReport:
    """Embed pictures, captions and edit prompts."""
    _limit_threads(config)
    encoder = load_clip(config.data.embed.model)
    return embed_stage.embed_shard(
        download, config.data.embed, ShardStore.at(root), encoder, caption=caption, swap=swap
    )


def index(
    shard: str,  # noqa: ARG001
    *,
    embeds: Reports,
    downloads: Reports,
    captions: Reports,
    config: Config,
    root: str,
) -> ShardReport:
    """Build one index over all pictures."""
    store = ShardStore.at(root)
    return index_stage.build_index(
        embeds, downloads=downloads, captions=captions, config=config.data.index, store=store
    )


def retrieve(
    shard: str,  # noqa: ARG001
    *,
    embed: ShardReport,
    index: ShardReport,
    config: Config,
    root: str,
) -> ShardReport:
    """Find a target for each source picture."""
    store = ShardStore.at(root)
    with resident_index(index, store, config.data.index.search) as opened:
        return retrieve_stage.retrieve_shard(embed, config.data.retrieve, store, opened)


def mask(
    shard: str,  # noqa: ARG001
    *,
    retrieve: ShardReport,
    swap: ShardReport,
    downloads: Reports,
    config: Config,
    root: str,
) -> ShardReport:
    """Draw the source's and the target's mask of each pair."""
    _limit_threads(config)
    store = ShardStore.at(root)
    return mask_stage.mask_shard(
        retrieve,
        config.data.mask,
        store,
        load_segmenter(config.data.mask.model),
        swap=swap,
        images=load_image_index(store, downloads),
    )


def plan_tars(shard: str, *, inputs: PackInputs, config: Config, root: str) -> ShardReport:  # noqa: ARG001
    """Decide splits and tars."""
    return plan_pack(inputs, config.data.pack, ShardStore.at(root))


def pack(shard: str, *, plan: ShardReport, inputs: PackInputs, config: Config, root: str) -> ShardReport:
    """Write one tar."""
    return pack_shard(plan, shard, inputs, config.data.pack, ShardStore.at(root))


def version(
    shard: str,  # noqa: ARG001
    *,
    plan: ShardReport,
    packed: Reports,
    inputs: PackInputs,
    word_counts: ShardReport | None,
    index: ShardReport,
    input_digest: str,
    config: Config,
    root: str,
) -> VersionInfo:
    """Write the dataset version."""
    runs = stage_runs(inputs, index=index, word_counts=word_counts, config=config)
    return write_dataset(plan, packed, config.data.pack, ShardStore.at(root), runs=runs, input_digest=input_digest)


def stage_runs(
    inputs: PackInputs, *, index: ShardReport, word_counts: ShardReport | None, config: Config
) -> tuple[StageRun, ...]:
    """Return how each stage before pack was run, for the lineage of a version."""
    captioner = _captioner(config)
    words = (_run(words_stage, WordsConfig.of(config.data.swap), (word_counts,)),) if word_counts else ()
    return (
        _run(plan_stage, config.data.plan, inputs.plan),
        _run(download_stage, config.data.download, inputs.download),
        _run(caption_stage, config.data.caption, inputs.caption, captioner.fingerprint if captioner else None),
        *words,
        _run(swap_stage, config.data.swap, inputs.swap),
        _run(embed_stage, config.data.embed, inputs.embed, load_clip(config.data.embed.model).fingerprint),
        _run(index_stage, config.data.index, (index,)),
        _run(retrieve_stage, config.data.retrieve, inputs.retrieve),
        _run(mask_stage, config.data.mask, inputs.mask, load_segmenter(config.data.mask.model).fingerprint),
    )


def _captioner(config: Config) -> Captioner | None:
    """Return the captioner, or None where the page's own text is the caption."""
    if config.data.caption.mode != "model" or config.data.caption.model is None:
        return None
    return load_captioner(config.data.caption.model)


def _run(stage: ModuleType, config: object, reports: Reports, model_identity: str | None = None) -> StageRun:
    return StageRun(
        stage=stage.STAGE,
        code_version=stage.VERSION,
        config=config,
        reports=reports,
        model_identity=model_identity,
    )


def _limit_threads(config: Config) -> None:
    import torch

    torch.set_num_threads(config.run.runner.model_threads)
