"""What a stage of the dataset is: its configuration, tables, version, model and inputs beside its work.

A stage's module declares one ``Stage``. It owns what is the same for all: the fingerprint, the question whether the
shard is finished, the clock, the commit with its accounting, and the lineage. ``tasks.stages`` lists them in order.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from storage import Dropped, ShardReport, ShardStore, ShardTarget, StageRun, TableSchema, fingerprint
from storage.reports import Scalar
from storage.shards import Blob

if TYPE_CHECKING:
    import pyarrow as pa

C = TypeVar("C")


def find_config(configs: object, kind: type[C]) -> C:
    """Return the configuration of a class among the fields of ``configs``; one that has no field has its defaults."""
    found = next((value for value in vars(configs).values() if isinstance(value, kind)), None)
    return kind() if found is None else found


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one task run of a stage is given; names and counts, the data meets in the store."""

    shard: str
    store: ShardStore
    configs: object
    """Holds the configurations of the stages as its fields."""
    reports: Mapping[str, ShardReport] = field(default_factory=dict)
    """Stage -> its report of this shard."""
    corpus: Mapping[str, tuple[ShardReport, ...]] = field(default_factory=dict)
    """Stage -> its reports of all shards; of a barrier the one that it wrote."""
    retry: bool = False
    """Whether to ask again for what failed for a transient reason."""

    def config(self, kind: type[C]) -> C:
        """Return the configuration of a class."""
        return find_config(self.configs, kind)

    def barrier(self, stage: str) -> ShardReport | None:
        """Return the report of a barrier, None where it was not wanted."""
        return next(iter(self.corpus.get(stage, ())), None)


Work = Callable[[Job], C]


@dataclass(frozen=True, kw_only=True)
class Output:
    """What the work on one shard gives to the commit; see ``ShardTarget.commit`` for the fields."""

    num_in: int
    num_out: int | None = None
    table: "pa.Table | None" = None
    schema: TableSchema | None = None
    """Declaration of the table, if not the first one of the stage."""
    blobs: Mapping[str, Blob] = field(default_factory=dict)
    dropped: "Iterable[Dropped] | pa.Table" = ()
    extra: Mapping[str, Scalar] = field(default_factory=dict)
    seconds_before: float = 0.0
    """Time of the earlier work whose result this one only finishes, seconds."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where the work on one shard makes its files, until they are committed."""

    target: ShardTarget
    stack: ExitStack

    def scratch(self, suffix: str) -> Path:
        """Return an empty local file in which to build a blob."""
        return self.stack.enter_context(self.target.scratch(suffix))


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[C]):
    """One stage of the dataset."""

    name: str
    """Names its folder, its task runs, its section of the configuration and its line of the funnel."""
    version: int
    """Raised by hand whenever the same inputs and configuration may give other results."""
    summary: str
    """What its folder holds, for the documentation of the data format."""
    config: type[C]
    work: Work[ShardReport]
    unit: str = "images"
    """What comes in, in the plural: what its progress counts by the second."""
    tables: tuple[TableSchema, ...] = ()
    """What it writes; the first one is its ``parquet``. Their columns say which of them a packed sample keeps."""
    needs: tuple[str, ...] = ()
    """Stages whose report of the same shard it reads."""
    corpus: tuple[str, ...] = ()
    """Stages whose reports of all shards it reads: none of them may be under way when it begins."""
    barrier: bool = False
    """Whether it takes all shards at once."""
    network: bool = False
    """Whether it waits for the network, so that it runs beside the stages that compute."""
    wanted: Callable[[C], bool] = lambda _: True
    """Whether a configuration asks for the stage at all."""
    decisive: Callable[[C], object] = lambda config: config
    """The part of the configuration that stands in the lineage."""
    weights: Callable[[C], str | None] | None = None
    """Digest of the weights of its model; None for a stage without one."""

    def shard(
        self,
        shard: str,
        store: ShardStore,
        work: Callable[[Workspace], Output],
        *,
        config: object,
        inputs: Iterable[str],
        weights: str | None = None,
    ) -> ShardReport:
        """Return the finished report of a shard, or do the work and commit it.

        Args:
            shard: name of the shard.
            store: where it goes.
            work: makes the output; called only when the shard is not finished.
            config: the frozen dataclass that decides the output.
            inputs: digests of all that the work reads.
            weights: digest of the weights of the model.

        Raises:
            AccountingError: the output loses a sample.
            SchemaError: its table is not what the stage declares.
            DiskFullError: no room.
        """
        target = self.target(shard, store, config=config, inputs=inputs, weights=weights)
        if (done := target.finished()) is not None:
            return done
        started = time.monotonic()
        with ExitStack() as stack:
            output = work(Workspace(target=target, stack=stack))
            schema = None if output.table is None else output.schema or self.tables[0]
            return target.commit(
                num_in=output.num_in,
                num_out=output.num_out,
                seconds=output.seconds_before + time.monotonic() - started,
                table=output.table,
                schema=schema,
                blobs=output.blobs,
                dropped=output.dropped,
                extra=output.extra,
            )

    def target(
        self, shard: str, store: ShardStore, *, config: object, inputs: Iterable[str], weights: str | None = None
    ) -> ShardTarget:
        """Return the place of a shard under the fingerprint of all that decides it; see ``shard``."""
        name = fingerprint(
            stage=self.name, version=self.version, config=config, inputs=tuple(inputs), weights_digest=weights
        )
        return store.target(self.name, shard, name)

    def lineage(self, configs: object, reports: Sequence[ShardReport]) -> StageRun:
        """Return how the stage was run, for the lineage of a dataset version."""
        config = find_config(configs, self.config)
        return StageRun(
            stage=self.name,
            code_version=self.version,
            config=self.decisive(config),
            reports=tuple(reports),
            weights_digest=self.weights(config) if self.weights else None,
        )


AnyStage = Stage[Any]
