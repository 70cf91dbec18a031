import contextlib
import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import CorruptFileError, FilterError, SchemaError, parquet_bytes, read_parquet
from tasks.caption import CAPTION
from tasks.embed.stage import embed_schema

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_captions = st.dictionaries(_texts, _texts, max_size=8)


def _table(captions: dict[str, str]) -> pa.Table:
    rows = [{"sample_id": name, "caption": text, "caption_source": "model"} for name, text in captions.items()]
    return CAPTION.table(rows)


def _read(data: bytes, **options: object) -> pa.Table:
    return read_parquet(io.BytesIO(data), name="x.parquet", **options)  # pyright: ignore[reportArgumentType]


@given(_captions)
def test_a_table_comes_back_as_it_was_for_us_and_for_plain_pyarrow(captions: dict[str, str]):
    data = parquet_bytes(_table(captions), CAPTION)
    assert dict(zip(*_read(data).select(["sample_id", "caption"]).to_pydict().values(), strict=True)) == captions
    assert pq.read_table(io.BytesIO(data)).equals(_table(captions))
    assert pq.read_schema(io.BytesIO(data)).field("caption").metadata[b"description"].startswith(b"One plain")


@given(_captions, st.integers(1, 7))
def test_equal_rows_give_equal_bytes_in_any_order_and_any_chunks(captions: dict[str, str], cut: int):
    table = _table(captions)
    turned = table.take(pa.array(range(table.num_rows - 1, -1, -1), pa.int64()))
    chunked = pa.concat_tables([turned.slice(0, cut), turned.slice(cut)])
    assert parquet_bytes(chunked, CAPTION) == parquet_bytes(table, CAPTION)


def test_vectors_keep_every_bit():
    schema = embed_schema(4, layout_dim=4)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 4, 4)).astype(np.float16)
    rows = [{"sample_id": f"{i:03d}", **dict(zip(schema.names[1:], row, strict=True))} for i, row in enumerate(vectors)]
    table = _read(parquet_bytes(schema.table(rows), schema))
    back = np.stack(
        [table[name].combine_chunks().flatten().to_numpy().reshape(50, 4) for name in table.column_names[1:]]
    )
    assert np.array_equal(back.view(np.uint16), vectors.transpose(1, 0, 2).view(np.uint16))


def test_some_columns_in_the_wished_order_and_some_rows_by_a_column_that_is_not_wished():
    data = parquet_bytes(_table({"a": "one", "b": "two", "c": "three"}), CAPTION)
    table = _read(data, columns=["caption_source", "caption"], where=pc.field("sample_id") > "a")
    assert table.to_pydict() == {"caption_source": ["model", "model"], "caption": ["two", "three"]}


def test_a_column_that_is_not_there_and_a_filter_that_does_not_fit_are_named():
    data = parquet_bytes(_table({"a": "one"}), CAPTION)
    with pytest.raises(SchemaError, match="no column 'colour'"):
        _read(data, columns=["colour"])
    for where in (pc.field("colour") == "red", pc.field("caption") == 3):
        with pytest.raises(FilterError, match="does not fit"):
            _read(data, where=where)


def test_every_cut_and_any_flipped_data_byte_is_noticed():
    table = _table({f"{i:04d}": f"a caption of its own {i * 7919}" for i in range(500)})
    data = parquet_bytes(table, CAPTION)
    for size in (0, 3, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(CorruptFileError, match=r"x\.parquet"):
            _read(data[:size])
    footer = int.from_bytes(data[-8:-4], "little")
    tried = harmless = 0
    for position in range(100, len(data) - footer - 8, 997):
        damaged = bytearray(data)
        damaged[position] ^= 1
        with contextlib.suppress(CorruptFileError):
            assert _read(bytes(damaged)).equals(table)  # a bit of a page's header that carries no meaning
            harmless += 1
        tried += 1
    assert harmless < tried / 2


def test_a_fault_of_the_disk_is_not_called_damage():
    class Unplugged(io.BytesIO):
        def read(self, *args: object) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error") as caught:
        read_parquet(Unplugged(parquet_bytes(_table({"a": "b"}), CAPTION)), name="x")
    assert not isinstance(caught.value, CorruptFileError)


def test_another_process_with_another_salt_writes_the_same_bytes():
    code = """
import hashlib
from storage import parquet_bytes
from tasks.caption import CAPTION
from tasks.embed.stage import embed_schema
names = {f"{i * 7919 % 1000:04d}" for i in range(300)}
rows = [{"sample_id": name, "caption": f"caption {name}", "caption_source": "model"} for name in names]
print(hashlib.sha256(parquet_bytes(CAPTION.table(rows), CAPTION)).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
