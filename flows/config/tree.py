"""PipelineConfig: one frozen dataclass made of the stages' own configurations, and how a person changes its values."""

from dataclasses import dataclass, field, fields
from typing import Final, Literal, get_args

from flows.errors import SettingError
from tasks.caption import CaptionConfig
from tasks.download.stage import DownloadConfig
from tasks.embed.stage import EmbedConfig
from tasks.index.stage import IndexConfig
from tasks.mask.stage import MaskConfig
from tasks.pack.stage import PackConfig
from tasks.plan.stage import PlanConfig
from tasks.retrieve.stage import RetrieveConfig
from tasks.swap.stage import SwapConfig
from tasks.train.run_config import TrainRunConfig

RunnerKind = Literal["threads", "ray"]

SITE_HOST: Final = "127.0.0.1"
"""Where the picture world's site listens: for this machine alone."""


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """The picture world's own web site, which a flow starts for as long as it runs.

    Raises:
        SettingError: a field is out of range.
    """

    port: int = 8765
    """Port; the addresses of the pictures, and so their ids, contain it."""
    num_urls: int = 2000
    """Picture addresses on the site."""
    seed: int = 3
    """Which site and world."""

    def __post_init__(self) -> None:
        for name, low, high in (("port", 1, 65_535), ("num_urls", 1, 1_000_000), ("seed", 0, 2**31)):
            if not low <= getattr(self, name) <= high:
                raise SettingError(f"source.site.{name} is {getattr(self, name)}, expected {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where the metadata comes from."""

    metadata: str | None = None
    """LAION-style parquet: a file, a folder or a pattern at any fsspec address; None takes what ``site`` serves."""
    site: SiteConfig | None = None
    """A site to start first; None starts none."""


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """What runs the tasks; nothing of it changes a byte of the result.

    Raises:
        SettingError: a field is out of range.
    """

    kind: RunnerKind = "threads"
    """``threads`` of this process, or ``ray``."""
    workers: int = 2
    """Tasks that compute at the same time."""
    downloads: int = 1
    """Downloads at the same time beside them; each has its own threads (``download.threads``)."""
    model_threads: int = 1
    """Processor threads of one model call. With more than one, the last bits of a row depend on its place in the batch,
    so that other shard sizes could give other bytes."""
    ray_address: str | None = None
    """A running Ray cluster; None starts one on this machine."""
    max_failed_shards: int = 0
    """Shards that may fail for good before the run does, all stages together; what they lack is lacking in the
    dataset."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(RunnerKind):
            raise SettingError(f"runner.kind is {self.kind!r}, expected one of {', '.join(get_args(RunnerKind))}")
        for name, low in (("workers", 1), ("downloads", 1), ("model_threads", 1), ("max_failed_shards", 0)):
            if not low <= getattr(self, name) <= 100_000:
                raise SettingError(f"runner.{name} is {getattr(self, name)}, expected {low} or more")


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """How the task runs of one stage are run.

    Raises:
        SettingError: a field is out of range.
    """

    retries: int = 2
    """Further tries of a shard after an error that may pass (disk, network, memory)."""
    retry_delay_s: float = 10.0
    """Wait before the first of them, seconds; it doubles with each."""
    timeout_s: float | None = None
    """Longest time of one try, seconds; None is no limit."""
    tags: tuple[str, ...] = ()
    """Tags of the task runs in Prefect; a tag may have a concurrency limit there (see ``tag_limits``)."""
    cpus: float = 1.0
    """Share of processors that a task takes on Ray."""
    gpus: float = 0.0
    """Share of GPUs that a task takes on Ray."""

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= 100:
            raise SettingError(f"retries is {self.retries}, expected 0 to 100")
        for name in ("retry_delay_s", "cpus", "gpus"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise SettingError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise SettingError(f"timeout_s is {self.timeout_s}, expected more than 0 or null")


@dataclass(frozen=True, kw_only=True)
class OptionsByStage:
    """Task options of each stage; an evaluation has its own (``flows.config.evaluations``)."""

    plan: TaskOptions = field(default_factory=TaskOptions)
    download: TaskOptions = field(default_factory=TaskOptions)
    caption: TaskOptions = field(default_factory=TaskOptions)
    words: TaskOptions = field(default_factory=TaskOptions)
    swap: TaskOptions = field(default_factory=TaskOptions)
    embed: TaskOptions = field(default_factory=TaskOptions)
    index: TaskOptions = field(default_factory=TaskOptions)
    retrieve: TaskOptions = field(default_factory=TaskOptions)
    mask: TaskOptions = field(default_factory=TaskOptions)
    pack: TaskOptions = field(default_factory=TaskOptions)
    train: TaskOptions = field(default_factory=TaskOptions)

    def of(self, stage: str) -> TaskOptions:
        """Return the options of a stage; one without a field here has the defaults."""
        return getattr(self, stage, TaskOptions())


@dataclass(frozen=True, kw_only=True)
class TagLimit:
    """How many task runs with a tag may run at the same time, all flows of one Prefect server together.

    Raises:
        SettingError: a field is out of range.
    """

    tag: str
    limit: int = 1

    def __post_init__(self) -> None:
        if not self.tag.strip():
            raise SettingError(f"tag_limits holds the tag {self.tag!r}, expected a word")
        if not 1 <= self.limit <= 100_000:
            raise SettingError(f"tag_limits has {self.limit} as limit of {self.tag!r}, expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Everything that decides a dataset and a training, stage by stage, and how the work is run."""

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
    train: TrainRunConfig
    runner: RunnerConfig = field(default_factory=RunnerConfig)
    options: OptionsByStage = field(default_factory=OptionsByStage)
    tag_limits: tuple[TagLimit, ...] = ()

    @classmethod
    def sections(cls) -> tuple[str, ...]:
        """Return the names of the top-level sections."""
        return tuple(entry.name for entry in fields(cls))
