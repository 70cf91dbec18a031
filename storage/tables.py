"""The tables that belong to no stage: dropped samples, the files of a version, and the manifest as a union of stages.

A stage declares its own table beside its code, and there which columns a packed sample carries on into the manifest.
"""

from collections.abc import Iterable
from dataclasses import replace

from storage.schema import SAMPLE_ID, TableSchema, col

SAMPLE_PARTS = ("source", "target", "source_mask", "target_mask", "json")
"""Members of one packed sample: ``<sample_id>.<part>.<extension>``, and ``<sample_id>.json``."""

PACKED_COLUMNS = (
    *("sample_id", "split", "group_id", "tar", "tar_offset", "tar_size"),
    *(f"{part}_member_sha256" for part in SAMPLE_PARTS),
)
"""Columns that every manifest has: where a sample lies, and on which side of the dataset."""

UNIT_RANGE = "[0, 1]"
COSINE = "cosine in [-1, 1]"

DROPPED = TableSchema(
    name="dropped",
    description="One row per sample that a stage dropped, with its reason.",
    columns=(
        SAMPLE_ID,
        col("reason", "string", "Why, as one word that is counted.", "snake_case"),
        col("detail", "string", "Why, in words; may be empty."),
    ),
    sort_by=("sample_id", "reason", "detail"),
    unique=False,
)

SHARD_FILES = TableSchema(
    name="shard_files",
    description="One row per file of a stage's shard that a dataset version was made from.",
    columns=(
        col("stage", "string", "Name of the stage."),
        col("shard", "string", "Name of the shard."),
        col("fingerprint", "string", "Folder of the stage that holds the shard.", "16 hex characters"),
        col("name", "string", "Which file of the shard: parquet, tar, dropped.parquet or another suffix."),
        col("size", "int64", "Length of the file.", "bytes"),
        col("sha256", "string", "Hash of the file.", "64 hex characters"),
    ),
    sort_by=("stage", "shard", "fingerprint", "name"),
)


def manifest_schema(tables: Iterable[TableSchema]) -> TableSchema:
    """Return the manifest of samples that went through stages: one row per packed sample.

    Args:
        tables: of the stages in their order; each gives the columns that it declares for the manifest.

    Raises:
        SchemaError: two stages give a column of the same name.
    """
    columns = (
        replace(
            column,
            name=column.manifest,
            nullable=column.nullable and not column.certain,
            stage=column.stage or table.name,
            manifest="",
            certain=False,
        )
        for table in tables
        for column in table.columns
        if column.manifest
    )
    return TableSchema(
        name="manifest",
        description="One row per packed sample: all that the stages know about it and where it lies.",
        columns=(SAMPLE_ID, *columns),
    )


def described(schema: TableSchema) -> str:
    """Return a table as Markdown: one line per column with its type, unit, meaning and values."""
    lines = [f"## {schema.name}", "", schema.description, "", "| column | type | unit | meaning |", "|---|---|---|---|"]
    for column in schema.columns:
        kind = f"{column.type}, may be null" if column.nullable else column.type
        values = f" One of {', '.join(f'`{value}`' for value in column.allowed)}." if column.allowed else ""
        lines.append(f"| `{column.name}` | {kind} | {column.unit} | {column.description}{values} |")
    return "\n".join((*lines, ""))
