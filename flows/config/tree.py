"""The configuration tree: one root made of the stages' own configurations."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field, PositiveFloat

from iedit_model.configuration import Seed, configuration
from tasks.caption import CaptionConfig
from tasks.download.stage import DownloadConfig
from tasks.embed.stage import EmbedConfig
from tasks.evaluate.plan import EvaluationPlan
from tasks.evaluate.sets.evalset import EvalSetInfo
from tasks.evaluate.sets.generated import GeneratedPrompt
from tasks.index.stage import IndexConfig
from tasks.mask.stage import MaskConfig
from tasks.pack.stage import PackConfig
from tasks.plan.stage import PlanConfig
from tasks.retrieve.stage import RetrieveConfig
from tasks.stages import DATASET, stage_names
from tasks.swap.stage import SwapConfig
from tasks.train.run_config import TrainRunConfig

Kind = TypeVar("Kind")
RunnerKind = Literal["threads", "ray"]

SITE_HOST: Final = "127.0.0.1"
"""Where the picture world's site listens: for this machine alone."""


@configuration
class SiteConfig:
    """The picture world's own web site, which a flow starts for as long as it runs."""

    port: Annotated[int, Field(ge=1, le=65_535)] = 8765
    """Port; the URLs of the images, and so their ids, contain it."""
    num_urls: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    """Image URLs on the site."""
    seed: Seed = 3
    """Which site and world."""


@configuration
class SourceConfig:
    """Where the metadata comes from."""

    metadata: str | None = None
    """LAION-style parquet: a file, a folder or a pattern at any fsspec address; None takes what ``site`` serves."""
    site: SiteConfig | None = None
    """A site to start first; None starts none."""


@configuration
class RunnerConfig:
    """What runs the tasks; nothing of it changes a byte of the result."""

    kind: RunnerKind = "threads"
    """``threads`` of this process, or ``ray``."""
    workers: Annotated[int, Field(ge=1, le=100_000)] = 2
    """Tasks that compute at the same time."""
    downloads: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Downloads at the same time beside them; each has its own threads (``download.threads``)."""
    model_threads: Annotated[int, Field(ge=1, le=100_000)] = 1
    """CPU threads of one model call. With more than one, the last bits of a row depend on its position in the batch,
    so that other shard sizes could give other bytes."""
    ray_address: str | None = None
    """A running Ray cluster; None starts one on this machine."""
    max_failed_shards: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Shards that may fail for good before the run does, all stages together; what they lack is lacking in the
    dataset."""


@configuration
class TaskOptions:
    """How the task runs of one stage are run."""

    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """Further tries of a shard after an error that may pass (disk, network, memory)."""
    retry_delay_s: Annotated[float, Field(ge=0, le=1e6)] = 10.0
    """Wait before the first of them, seconds; it doubles with each."""
    timeout_s: PositiveFloat | None = None
    """Longest time of one try, seconds; None is no limit."""
    tags: tuple[str, ...] = ()
    """Tags of the task runs in Prefect; a tag may have a concurrency limit there (see ``tag_limits``)."""
    cpus: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Share of CPUs that a task takes on Ray."""
    gpus: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Share of GPUs that a task takes on Ray."""


def _with_fields(kind: type[Kind], fields: Mapping[str, type]) -> type[Kind]:
    """Add fields to a class that becomes a configuration, each with its class's own defaults."""
    for name, of in fields.items():
        setattr(kind, name, field(default_factory=of))
    kind.__annotations__ = {**fields, **kind.__annotations__}
    return kind


def _with_options(kind: type[Kind]) -> type[Kind]:
    return _with_fields(kind, dict.fromkeys(stage_names(), TaskOptions))


def _with_stages(kind: type[Kind]) -> type[Kind]:
    """Add a section for each stage of the list whose configuration the class does not declare itself."""
    known = kind.__annotations__.values()
    return _with_fields(kind, {stage.name: stage.config for stage in DATASET if stage.config not in known})


@configuration
@_with_options
class OptionsByStage:
    """Task options of a training, of an evaluation, and of each stage of a build by its name."""

    train: TaskOptions = field(default_factory=TaskOptions)
    evaluate: TaskOptions = field(default_factory=TaskOptions)
    """Of the task runs of an evaluation: two for each shard of a set and method."""

    def of(self, stage: str) -> TaskOptions:
        """Return the options of a stage; one that is not in the list of stages has the defaults."""
        return getattr(self, stage, TaskOptions())


@configuration
class TagLimit:
    """How many task runs with a tag may run at the same time, all flows of one Prefect server together."""

    tag: Annotated[str, Field(pattern=r"\S")]
    limit: Annotated[int, Field(ge=1, le=100_000)] = 1


@configuration
@_with_stages
class DataConfig:
    """Everything that decides a dataset, stage by stage; a stage that is not named here has a section all the same."""

    source: SourceConfig
    plan: PlanConfig
    download: DownloadConfig
    caption: CaptionConfig
    swap: SwapConfig
    embed: EmbedConfig
    index: IndexConfig
    retrieve: RetrieveConfig
    mask: MaskConfig
    pack: PackConfig


@configuration
class GeneratedSet:
    """The set whose images the base model generates: its description, and the prompts of its edits."""

    info: EvalSetInfo
    prompts: tuple[GeneratedPrompt, ...]


@configuration
class EvaluationConfig:
    """What is evaluated on which sets."""

    plan: EvaluationPlan
    """What decides the numbers."""
    generated: GeneratedSet
    """What ``iedit evalset make-generated`` generates, also where ``sets`` names it."""
    sets: tuple[str, ...] = ()
    """Evaluation sets: names that the project can make itself (``flows.sources``), or folders."""


@configuration
class RunConfig:
    """How the work is run; nothing of it changes a result."""

    runner: RunnerConfig = field(default_factory=RunnerConfig)
    options: OptionsByStage = field(default_factory=OptionsByStage)
    tag_limits: tuple[TagLimit, ...] = ()


@configuration
class Config:
    """The one configuration: what decides a dataset, a training and an evaluation, and how they are run."""

    data: DataConfig
    train: TrainRunConfig
    evaluate: EvaluationConfig
    run: RunConfig = field(default_factory=RunConfig)
