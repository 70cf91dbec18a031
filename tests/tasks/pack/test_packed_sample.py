"""The json member of a packed sample: plain numbers, keys in order, nothing that is not JSON."""

import json
import math

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tasks.pack.packed_sample import json_columns, json_records
from tasks.stages import MANIFEST

COLUMN = "similarity"
COLUMNS = json_columns(MANIFEST)


def _table(values: list[float | None]) -> pa.Table:
    schema = MANIFEST.arrow()
    columns = {name: pa.nulls(len(values), schema.field(name).type) for name in COLUMNS}
    return pa.table(columns | {COLUMN: pa.array(values, pa.float32())})


@given(st.lists(st.none() | st.floats(width=32)))
def test_numbers_are_written_with_the_fewest_digits_that_give_them_back(values: list[float | None]):
    records = [json.loads(data) for end, data in json_records(_table(values), COLUMNS) if end == "json"]
    expected = [
        None if value is None or not math.isfinite(value) else float(str(np.float32(value))) for value in values
    ]
    assert [record[COLUMN] for record in records] == expected


def test_a_record_has_sorted_keys_and_ends_with_a_line():
    [(end, data)] = json_records(_table([0.1]), COLUMNS)
    assert end == "json"
    assert data == (json.dumps(json.loads(data), sort_keys=True) + "\n").encode()
    assert list(json.loads(data)) == sorted(COLUMNS)
    assert b'"similarity": 0.1,' in data
