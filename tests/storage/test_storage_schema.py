import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import Column, SchemaError, TableSchema, validated

ID = Column(name="sample_id", type="string", description="Id.")
COLOURS = TableSchema(
    name="colours",
    description="One row a thing.",
    columns=(
        ID,
        Column(name="colour", type="string", description="Its colour.", allowed=("red", "blue"), nullable=True),
        Column(name="size", type="int32", description="Its size.", unit="pixels"),
        Column(name="vector", type="float16[2]", description="Its vector."),
        Column(name="words", type="list<string>", description="Its words."),
    ),
)


def _row(sample_id: str = "a", **changes: object) -> dict[str, object]:
    return {"sample_id": sample_id, "colour": "red", "size": 3, "vector": [0.5, 1.0], "words": ["x"]} | changes


def test_rows_become_a_sorted_table_with_its_meaning_inside():
    table = COLOURS.table([_row("b", colour=None), _row("a", words=[])])
    assert table["sample_id"].to_pylist() == ["a", "b"]
    assert table["colour"].to_pylist() == ["red", None]
    assert table["vector"].to_pylist() == [[0.5, 1.0], [0.5, 1.0]]
    field = table.schema.field("size")
    assert field.metadata == {b"description": b"Its size.", b"type": b"int32", b"unit": b"pixels"}
    assert (field.type, field.nullable) == (pa.int32(), False)
    assert table.schema.metadata[b"table"] == b"colours"
    assert TableSchema.of(table.schema) == COLOURS


def test_a_table_without_rows_keeps_its_columns():
    table = COLOURS.table([])
    assert (table.num_rows, tuple(table.column_names)) == (0, COLOURS.names)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (_row(colour="green"), "colour is 'green', expected one of"),
        (_row(size=None), "size is null in row 1"),
        (_row(size=2**31), "column size"),
        (_row(size="3"), "column size"),
        (_row(vector=[1.0]), "column vector"),
        (_row(vector=None), "vector is null"),
        (_row(vector=[1.0, None]), "null inside a list"),
        (_row(words=["x", None]), "null inside a list"),
        (_row(colour="red", weight=1), "no column 'weight'"),
        (_row("0"), "more than one row"),
    ],
)
def test_a_wrong_value_is_refused_with_its_column(row: dict[str, object], message: str):
    with pytest.raises(SchemaError, match=message):
        COLOURS.table([_row("0"), row])


def test_columns_that_are_missing_unknown_double_or_of_another_type_are_refused():
    good = COLOURS.table([_row()])
    with pytest.raises(SchemaError, match="lacks the column 'size'"):
        validated(good.drop_columns(["size"]), COLOURS)
    with pytest.raises(SchemaError, match="no column 'weight'"):
        validated(good.append_column("weight", pa.array([1])), COLOURS)
    with pytest.raises(SchemaError, match="a column twice"):
        validated(good.append_column("size", pa.array([1], pa.int32())), COLOURS)
    wide = good.set_column(2, "size", pa.array([3], pa.int64()))
    with pytest.raises(SchemaError, match="size is int64, expected int32"):
        validated(wide, COLOURS)
    longer = good.set_column(3, "vector", pa.array([[1, 2, 3]], pa.list_(pa.float16(), 3)))
    with pytest.raises(SchemaError, match="vector is fixed_size_list"):
        validated(longer, COLOURS)


def test_lists_from_numpy_pass_whatever_their_items_are_called():
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.array([1, 2, 3, 4], np.float16)), 2)
    table = pa.table(
        {
            "sample_id": ["b", "a"],
            "colour": pa.array(["red", None], pa.string()),
            "size": pa.array([1, 2], pa.int32()),
            "vector": vectors,
            "words": pa.array([["x"], []], pa.list_(pa.string())),
        }
    )
    checked = validated(table, COLOURS)
    assert checked["vector"].to_pylist() == [[3, 4], [1, 2]]
    assert checked.schema.equals(COLOURS.arrow(), check_metadata=True)


_rows = st.lists(
    st.builds(_row, st.text(max_size=3), size=st.integers(-9, 9), words=st.lists(st.text(max_size=2), max_size=2)),
    unique_by=lambda row: row["sample_id"],
    max_size=6,
)


@given(_rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_columns_and_the_chunks_do_not_count(rows: list[dict[str, object]], random: object):
    table = COLOURS.table(rows)
    shuffled = list(rows)
    random.shuffle(shuffled)  # pyright: ignore[reportAttributeAccessIssue] -- hypothesis types it as object
    pieces = [COLOURS.table([row]).select(COLOURS.names[::-1]) for row in shuffled]
    again = validated(pa.concat_tables(pieces), COLOURS) if pieces else COLOURS.table([])
    assert again.equals(table, check_metadata=True)
    assert table["sample_id"].to_pylist() == sorted((str(row["sample_id"]) for row in rows), key=str.encode)
    assert all(again[name].num_chunks <= 1 for name in again.column_names)


@pytest.mark.parametrize("kind", ["text", "float16", "float16[0]", "float16[x]", "list<int32>", ""])
def test_a_column_of_an_unknown_type_cannot_be_declared(kind: str):
    with pytest.raises(SchemaError, match="unknown type"):
        Column(name="x", type=kind, description="X.")


def test_declarations_that_contradict_themselves_are_refused():
    with pytest.raises(SchemaError, match="must be a sentence"):
        Column(name="x", type="string", description="no stop")
    with pytest.raises(SchemaError, match="only a string column"):
        Column(name="x", type="int32", description="X.", allowed=("1",))
    with pytest.raises(SchemaError, match="twice"):
        TableSchema(name="t", description="T.", columns=(ID, ID))
    with pytest.raises(SchemaError, match="without nulls"):
        TableSchema(name="t", description="T.", columns=(ID,), sort_by=("other",))
    loose = Column(name="x", type="string", description="X.")
    with pytest.raises(SchemaError, match="decide the order"):
        TableSchema(name="t", description="T.", columns=(ID, loose), unique=False)


def test_equal_keys_are_found_wherever_they_stand():
    pairs = TableSchema(
        name="pairs",
        description="P.",
        columns=(ID, Column(name="n", type="int32", description="N.")),
        sort_by=("sample_id", "n"),
    )
    rows = [{"sample_id": "a", "n": 1}, {"sample_id": "b", "n": 1}, {"sample_id": "a", "n": 2}]
    assert pairs.table(rows)["n"].to_pylist() == [1, 2, 1]
    with pytest.raises(SchemaError, match="'n': 2"):
        pairs.table([*rows, {"sample_id": "a", "n": 2}])
