"""Tables as declarations, the check against them, and the tables that belong to no stage.

Each column has a type, a unit and one sentence of meaning; a parquet file carries its declaration in its metadata, so
that whoever reads it needs no other code. A stage declares its own table beside its code, and there which columns a
packed sample carries on into the manifest.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from storage.errors import SchemaError

if TYPE_CHECKING:
    import pyarrow as pa


_PLAIN_TYPES = frozenset({"bool", "int32", "int64", "float32", "float64", "string", "binary"})
_LIST_TYPES = frozenset({"list<string>", "list<float32>"})
_VECTOR = re.compile(r"float16\[([1-9][0-9]{0,4})\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of a table.

    Raises:
        SchemaError: the type is not one of those listed under ``type``.
    """

    name: str
    type: str
    """bool, int32, int64, float32, float64, string, binary, list<string>, list<float32> or float16[N]."""
    description: str
    """One sentence, as it stands in the documentation and in the file itself."""
    unit: str = ""
    """Unit or range; empty for words."""
    nullable: bool = False
    allowed: tuple[str, ...] = ()
    """The only values of a string column; empty allows all."""
    manifest: str = ""
    """What a packed sample calls it in the manifest of a dataset version; empty leaves it out there."""
    certain: bool = False
    """Whether it is never null for a packed sample, although it may be for one that failed."""
    stage: str = ""
    """In a manifest: the stage that decides the column."""

    def __post_init__(self) -> None:
        if self.type not in _PLAIN_TYPES | _LIST_TYPES and not _VECTOR.fullmatch(self.type):
            raise SchemaError(f"column {self.name}: unknown type {self.type!r}")
        if not self.description.endswith("."):
            raise SchemaError(f"column {self.name}: the description must be a sentence, got {self.description!r}")
        if self.allowed and self.type != "string":
            raise SchemaError(f"column {self.name}: only a string column can list its values, not {self.type}")

    def arrow_type(self) -> "pa.DataType":
        """Return the pyarrow type."""
        import pyarrow as pa

        if vector := _VECTOR.fullmatch(self.type):
            return pa.list_(pa.field("item", pa.float16(), nullable=False), int(vector[1]))
        if self.type in _LIST_TYPES:
            item = pa.string() if self.type == "list<string>" else pa.float32()
            return pa.list_(pa.field("item", item, nullable=False))
        return pa.bool_() if self.type == "bool" else getattr(pa, self.type)()

    def arrow_field(self) -> "pa.Field":
        """Return the pyarrow field, its meaning and unit as metadata."""
        import pyarrow as pa

        metadata = {"description": self.description, "type": self.type, "unit": self.unit, "stage": self.stage}
        metadata |= {"allowed": "|".join(self.allowed), "manifest": self.manifest}
        metadata |= {"certain": "yes" if self.certain else ""}
        given = {key: value for key, value in metadata.items() if value}
        return pa.field(self.name, self.arrow_type(), nullable=self.nullable, metadata=given)

    @classmethod
    def of(cls, field: "pa.Field") -> "Column":
        """Return the column that ``arrow_field`` declared.

        Raises:
            SchemaError: the field carries no declaration.
        """
        held = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        if "type" not in held or "description" not in held:
            raise SchemaError(f"the column {field.name} carries no declaration of its type and meaning")
        return cls(
            name=field.name,
            type=held["type"],
            description=held["description"],
            unit=held.get("unit", ""),
            nullable=field.nullable,
            allowed=tuple(held["allowed"].split("|")) if "allowed" in held else (),
            manifest=held.get("manifest", ""),
            certain="certain" in held,
            stage=held.get("stage", ""),
        )


def col(name: str, kind: str, description: str, unit: str = "", **options: Any) -> Column:
    """Return a column; ``options`` are its other fields."""
    return Column(name=name, type=kind, description=description, unit=unit, **options)


def in_manifest(
    *columns: Column, rename: Mapping[str, str] | None = None, certain: bool = False, stage: str = ""
) -> tuple[Column, ...]:
    """Return columns of a stage's table that a packed sample keeps in the manifest.

    Args:
        columns: the columns.
        rename: name -> what the manifest calls it, where two stages use one word for two things.
        certain: whether they are never null for a packed sample, although they may be for one that failed.
        stage: which stage decides them, if not the one whose table this is.
    """
    names = rename or {}
    return tuple(
        replace(column, manifest=names.get(column.name, column.name), certain=certain, stage=stage)
        for column in columns
    )


SAMPLE_ID: Final = col("sample_id", "string", "Id of the sample: blake2b of its URL.", "20 hex characters")


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSchema:
    """A named table: what a row is, its columns in order, and how its rows are sorted.

    Raises:
        SchemaError: two columns share a name, a sort column is not declared or can be null, or the sort columns leave
            the order of the rows open.
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    sort_by: tuple[str, ...] = ("sample_id",)
    """Columns that decide the order of the rows."""
    unique: bool = True
    """Whether no two rows may agree in all columns of ``sort_by``."""

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise SchemaError(f"table {self.name} declares a column twice: {self.names}")
        if loose := set(self.sort_by) - {column.name for column in self.columns if not column.nullable}:
            raise SchemaError(f"table {self.name} is sorted by {sorted(loose)}, which must be columns without nulls")
        if not self.sort_by or not (self.unique or set(self.sort_by) == set(self.names)):
            raise SchemaError(
                f"table {self.name} may repeat its keys, so that only all columns decide the order of rows"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    def arrow(self) -> "pa.Schema":
        """Return the pyarrow schema, with the descriptions in its metadata."""
        import pyarrow as pa

        metadata = {"table": self.name, "description": self.description, "sort_by": "|".join(self.sort_by)}
        metadata |= {} if self.unique else {"repeats": "yes"}
        return pa.schema([column.arrow_field() for column in self.columns], metadata=metadata)

    @classmethod
    def of(cls, schema: "pa.Schema") -> "TableSchema":
        """Return the declaration that a table or a file carries.

        Raises:
            SchemaError: it carries none.
        """
        held = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        if "table" not in held or "sort_by" not in held:
            raise SchemaError(
                f"a table of the columns {', '.join(schema.names)} carries no declaration: give its schema"
            )
        return cls(
            name=held["table"],
            description=held["description"],
            columns=tuple(Column.of(field) for field in schema),
            sort_by=tuple(held["sort_by"].split("|")),
            unique="repeats" not in held,
        )

    def table(self, rows: Iterable[Mapping[str, Any]]) -> "pa.Table":
        """Return rows as a checked and sorted table; a column without nulls must be in each row.

        Raises:
            SchemaError: an unknown column, or a value that its column cannot hold.
        """
        import pyarrow as pa

        rows = list(rows)
        if unknown := sorted({name for row in rows for name in row} - set(self.names)):
            raise SchemaError(f"table {self.name} has no column {unknown[0]!r}; it has {', '.join(self.names)}")
        arrays = []
        for column in self.columns:
            values = [row.get(column.name) for row in rows]
            try:
                arrays.append(pa.array(values, type=column.arrow_type()))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise SchemaError(f"table {self.name}, column {column.name} ({column.type}): {error}") from error
        return validated(pa.table(arrays, names=list(self.names)), self)


def validated(table: "pa.Table", schema: TableSchema) -> "pa.Table":
    """Return ``table`` with the declared columns in order, sorted, in one chunk per column: equal rows, equal bytes.

    Raises:
        SchemaError: a column is missing, unknown, of another type, null or of a value that is not allowed, or a key
            comes twice; the message names table, column and value.
    """
    import pyarrow as pa

    _check_names(table, schema)
    declared = schema.arrow()
    table = table.select(list(schema.names)).combine_chunks()
    for column in schema.columns:
        _check_column(table, column, schema.name)
    # Names and nulls are checked: now take on the declared metadata and nullability.
    table = pa.table([_retyped(table[name], declared.field(name).type) for name in schema.names], schema=declared)
    table = table.sort_by([(name, "ascending") for name in schema.sort_by]) if _unsorted(table, schema) else table
    if schema.unique:
        _check_unique(table, schema)
    return table.combine_chunks()


def _check_names(table: "pa.Table", schema: TableSchema) -> None:
    if len(set(table.column_names)) != len(table.column_names):
        raise SchemaError(f"table {schema.name} came with a column twice: {table.column_names}")
    if missing := [name for name in schema.names if name not in table.column_names]:
        raise SchemaError(f"table {schema.name} lacks the column {missing[0]!r}; it came with {table.column_names}")
    if unknown := [name for name in table.column_names if name not in schema.names]:
        raise SchemaError(f"table {schema.name} has no column {unknown[0]!r}; it has {', '.join(schema.names)}")


def _check_column(table: "pa.Table", column: Column, name: str) -> None:
    pc = compute()

    values = table[column.name]
    if not _same_type(values.type, column.arrow_type()):
        raise SchemaError(f"table {name}, column {column.name} is {values.type}, expected {column.arrow_type()}")
    if not column.nullable and values.null_count:
        row = pc.index(pc.is_null(values), True).as_py()
        raise SchemaError(f"table {name}, column {column.name} is null in row {row}, which is not allowed")
    inner = pc.list_flatten(values) if column.type in _LIST_TYPES or "[" in column.type else None
    if inner is not None and inner.null_count:
        raise SchemaError(f"table {name}, column {column.name} has a null inside a list, which is not allowed")
    if column.allowed:
        known = pc.is_in(values, value_set=_strings((*column.allowed, None) if column.nullable else column.allowed))
        if not pc.all(known).as_py() and len(values):
            wrong = values.filter(pc.invert(known))[0].as_py()
            raise SchemaError(f"table {name}, column {column.name} is {wrong!r}, expected one of {column.allowed}")


def _check_unique(table: "pa.Table", schema: TableSchema) -> None:
    pc = compute()

    if table.num_rows < 2:
        return
    same = None  # the table is sorted, so that equal keys are neighbours
    for name in schema.sort_by:
        values = table[name]
        equal = pc.equal(values.slice(0, len(values) - 1), values.slice(1))
        same = equal if same is None else pc.and_(same, equal)
    if pc.any(same).as_py():
        twice = table.select(list(schema.sort_by)).slice(pc.index(same, True).as_py(), 1).to_pylist()[0]
        raise SchemaError(f"table {schema.name} has more than one row with {twice}")


def _unsorted(table: "pa.Table", schema: TableSchema) -> bool:
    pc = compute()

    if schema.sort_by == ("sample_id",) and table.num_rows > 1:
        ids = table["sample_id"]
        return not pc.all(pc.less_equal(ids.slice(0, len(ids) - 1), ids.slice(1))).as_py()
    return table.num_rows > 1


def _same_type(given: "pa.DataType", declared: "pa.DataType") -> bool:
    # Lists made by other code name their items differently or allow nulls in them; the values are the same.
    import pyarrow as pa

    if pa.types.is_fixed_size_list(declared):
        same_size = pa.types.is_fixed_size_list(given) and given.list_size == declared.list_size
        return same_size and given.value_type == declared.value_type
    if pa.types.is_list(declared):
        return pa.types.is_list(given) and given.value_type == declared.value_type
    return given == declared


def _retyped(values: "pa.ChunkedArray", declared: "pa.DataType") -> "pa.ChunkedArray":
    return values if values.type == declared else values.cast(declared)


def _strings(values: Iterable[str | None]) -> "pa.Array":
    import pyarrow as pa

    return pa.array(list(values), type=pa.string())


def compute() -> Any:
    """Return ``pyarrow.compute``: it makes its functions at run time, so that type checkers do not know them."""
    import pyarrow.compute

    return pyarrow.compute


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
