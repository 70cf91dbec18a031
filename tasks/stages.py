"""The stages of a dataset from top to bottom: to add one, write its module and one line here."""

from typing import Final

from storage import DROPPED, TableSchema, manifest_schema
from storage.tables import SHARD_FILES
from tasks import caption
from tasks.download import stage as download
from tasks.embed import stage as embed
from tasks.index import stage as index
from tasks.mask import stage as mask
from tasks.pack import plan as pack
from tasks.plan import stage as plan
from tasks.retrieve import stage as retrieve
from tasks.stage import AnyStage
from tasks.swap import stage as swap
from tasks.swap import words

DATASET: Final[tuple[AnyStage, ...]] = (
    plan.STAGE,  # cuts the metadata into shards
    download.STAGE,
    caption.STAGE,
    words.STAGE,  # barrier, only where the swap asks for counts
    swap.STAGE,
    embed.STAGE,
    index.STAGE,  # barrier: every image may be the target of every other
    retrieve.STAGE,
    mask.STAGE,
    pack.STAGE,  # barrier: cuts all pairs into tars
)

MANIFEST: Final = manifest_schema(stage.tables[0] for stage in DATASET)
"""What a dataset version knows of each sample; the manifest of an older version carries its own declaration."""


def stage_names() -> tuple[str, ...]:
    """Return the names of the stages, in order."""
    return tuple(stage.name for stage in DATASET)


def all_tables(stages: tuple[AnyStage, ...] = DATASET) -> tuple[TableSchema, ...]:
    """Return every table that lies in a store: those of the stages, and those of the store itself."""
    tables = [table for stage in stages for table in stage.tables]
    return (*tables, manifest_schema(stage.tables[0] for stage in stages), DROPPED, SHARD_FILES)
