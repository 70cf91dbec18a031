import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import MetadataError
from tasks.plan.metadata import MAX_CELL_BYTES, READERS, Kind, Metadata

COLUMNS: dict[str, Kind] = {"URL": "text", "WIDTH": "number", "hash": "hash"}


def _write(path: Path, table: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def _read(address: str | Path, columns: dict[str, Kind] | None = None) -> list[dict[str, list[Any]]]:
    metadata = Metadata(str(address))
    columns = columns or COLUMNS
    return [batch for file in metadata.files for batch in metadata.batches(file, columns, required=("URL",))]


def _joined(batches: list[dict[str, list[Any]]], name: str) -> list[Any]:
    return [value for batch in batches for value in batch[name]]


def test_files_are_read_in_the_order_of_their_names_from_folder_pattern_and_file(tmp_path: Path) -> None:
    for name in ("b", "a", "sub/c", "_hidden", ".partial"):
        _write(tmp_path / f"{name}.parquet", pa.table({"URL": [f"{name}{number}" for number in range(3)]}))
    (tmp_path / "notes.txt").write_text("x")
    assert _joined(_read(tmp_path), "URL") == ["a0", "a1", "a2", "b0", "b1", "b2", "sub/c0", "sub/c1", "sub/c2"]
    assert _joined(_read(f"{tmp_path}/*.parquet"), "URL") == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert _joined(_read(tmp_path / "b.parquet"), "URL") == ["b0", "b1", "b2"]
    assert [file.name for file in Metadata(str(tmp_path)).files] == ["a.parquet", "b.parquet", "sub/c.parquet"]
    assert [file.name for file in Metadata(f"{tmp_path}/*.parquet").files] == ["a.parquet", "b.parquet"]
    assert [file.name for file in Metadata(str(tmp_path / "b.parquet")).files] == ["b.parquet"]


def test_an_object_store_reads_as_a_folder_does(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.parquet", pa.table({"URL": ["x", None]}))
    root = f"memory://{uuid.uuid4().hex}"
    with fsspec.open(f"{root}/a.parquet", "wb") as target:
        target.write(path.read_bytes())  # pyright: ignore[reportAttributeAccessIssue] - fsspec's own type is too wide
    assert _joined(_read(root), "URL") == ["x", None]
    assert Metadata(root).digest("content") == Metadata(str(tmp_path)).digest("content")


@pytest.mark.parametrize("dictionary", [True, False])
def test_values_come_as_they_are_whatever_their_exact_type(tmp_path: Path, *, dictionary: bool) -> None:
    urls = [None, "ü", "x", "x", "", "y" * 300] * 40
    tables = [
        pa.table({"URL": pa.array(urls, kind), "WIDTH": pa.array([1, None] * 120, width), "hash": [5] * 240})
        for kind, width in ((pa.string(), pa.int64()), (pa.large_string(), pa.float32()))
    ]
    tables.append(tables[0].set_column(0, "URL", tables[0]["URL"].dictionary_encode()))
    for number, table in enumerate(tables):
        path = _write(tmp_path / f"{number}.parquet", table, use_dictionary=dictionary, row_group_size=70)
        batches = _read(path)
        assert _joined(batches, "URL") == urls
        assert _joined(batches, "WIDTH") == [1.0, None] * 120
        assert _joined(batches, "hash") == [None] * 240


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]
)
def test_texts_are_read_however_their_writer_stores_them(tmp_path: Path, kind: pa.DataType) -> None:
    urls = pa.array([None, b"x", b"x", "ü".encode(), b""], pa.binary()).cast(kind)
    assert _joined(_read(_write(tmp_path / "a.parquet", pa.table({"URL": urls}))), "URL") == [None, "x", "x", "ü", ""]


def test_the_columns_of_published_sets_are_found_under_their_own_names(tmp_path: Path) -> None:
    laion_400m = pa.table(
        {"SAMPLE_ID": [1.0, 2.0, 3.0], "URL": ["a", "b", "c"], "TEXT": ["x", "y", "z"], "HEIGHT": [5, 6, 7]}
        | {"WIDTH": [8, 9, 10], "LICENSE": ["?"] * 3, "NSFW": ["UNLIKELY", "NSFW", None], "similarity": [0.3, 0.4, 0.5]}
    )
    lower = pa.table(
        {"url": ["a", "b", "c"], "caption": ["x", "y", "z"], "original_width": [8, 9, 10], "md5": ["f"] * 3}
    )
    columns: dict[str, Kind] = {"URL": "text", "TEXT": "text", "WIDTH": "number", "punsafe": "number", "hash": "hash"}
    for table in (laion_400m, lower):
        found = _read(_write(tmp_path / "a.parquet", table), columns)
        assert [_joined(found, name) for name in ("URL", "TEXT", "WIDTH")] == [
            ["a", "b", "c"],
            ["x", "y", "z"],
            [8, 9, 10],
        ]
        is_lower = table is lower
        assert _joined(found, "punsafe") == ([None] * 3 if is_lower else [0.0, 1.0, None])
        assert _joined(found, "hash") == (["f"] * 3 if is_lower else [None] * 3)


def test_a_small_file_of_billions_of_rows_or_of_a_huge_group_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "rows.parquet", pa.table({"URL": pa.array(["x"]).take(pa.array([0] * 2_000_000))}))
    assert path.stat().st_size < 10_000
    with pytest.raises(MetadataError, match=r"rows\.parquet has 2000000 rows, at most"):
        _read(path)


def test_texts_are_hashes_numbers_are_not_and_nan_is_unknown(tmp_path: Path) -> None:
    table = pa.table({"URL": ["a", "b"], "WIDTH": [float("nan"), 2.5], "hash": ["abc", None]})
    batches = _read(_write(tmp_path / "a.parquet", table))
    assert _joined(batches, "WIDTH") == [None, 2.5]
    assert _joined(batches, "hash") == ["abc", None]


def test_a_word_that_is_repeated_a_hundred_thousand_times_is_made_once_and_cut(tmp_path: Path) -> None:
    word = "http://e.com/" + "x" * 3_000_000
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array([word]))
    path = _write(tmp_path / "a.parquet", pa.table({"URL": repeated}))
    assert path.stat().st_size < 1_000_000  # of 300 GB
    num_rows, lengths, ids = 0, set[int](), set[int]()
    metadata = Metadata(str(path))
    for batch in metadata.batches(metadata.files[0], COLUMNS, required=("URL",)):
        num_rows += len(batch["URL"])
        lengths |= {len(text) for text in batch["URL"]}
        ids = {id(text) for text in batch["URL"]}
    assert (num_rows, lengths, len(ids)) == (100_000, {MAX_CELL_BYTES}, 1)


def test_bytes_that_are_no_utf8_do_not_stop_the_file(tmp_path: Path) -> None:
    raw = pa.array([b"http://e.com/\xff", b"http://e.com/a"]).cast(pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    path = _write(tmp_path / "a.parquet", pa.table({"URL": broken}))
    assert _joined(_read(path), "URL") == ["http://e.com/\ufffd", "http://e.com/a"]


def test_what_is_damaged_or_missing_is_one_error_with_the_name_of_the_file(tmp_path: Path) -> None:
    good = _write(tmp_path / "good.parquet", pa.table({"URL": [f"http://e.com/{n}" for n in range(5000)]}))
    data = good.read_bytes()
    for name, bad in {
        "text": b"URL,TEXT\n",
        "empty": b"",
        "cut": data[: len(data) // 2],
        "page": data[:200] + bytes(2000) + data[2200:],
        "footer": data[:-60] + bytes(52) + data[-8:],
    }.items():
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(bad)
        with pytest.raises(MetadataError, match=rf"{name}\.parquet"):
            _read(path)
    with pytest.raises(MetadataError, match="no metadata file"):
        Metadata(str(tmp_path / "nowhere"))
    with pytest.raises(MetadataError, match="no metadata file"):
        Metadata(str(tmp_path / "*.csv"))
    with pytest.raises(MetadataError, match="cannot open"):
        Metadata("nosuchscheme://x/y")


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"URL": [1, 2]}),
        pa.table({"URL": [["a"], ["b"]]}),
        pa.table({"URL": ["a"], "WIDTH": ["640"]}),
        pa.table([pa.array(["a"]), pa.array(["b"])], names=["URL", "URL"]),
    ],
)
def test_a_column_of_another_type_is_one_error(tmp_path: Path, table: pa.Table) -> None:
    path = _write(tmp_path / "a.parquet", table)
    with pytest.raises(MetadataError, match=r"a\.parquet has .*(URL|WIDTH)"):
        _read(path)


def test_both_identities_see_another_content_another_name_and_another_order(tmp_path: Path) -> None:
    one, two = pa.table({"URL": ["a", "b"]}), pa.table({"URL": ["a", "c"]})
    for identity in ("content", "footer"):
        digests = set()
        for number, (name, table) in enumerate((("a", one), ("a", two), ("b", one))):
            folder = tmp_path / f"{identity}{number}"
            _write(folder / f"{name}.parquet", table)
            digests.add(Metadata(str(folder)).digest(identity))
            assert Metadata(str(folder)).digest(identity) in digests
        assert len(digests) == 3
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.parquet").write_bytes(b"PAR1\xff\xff\xff\x7fPAR1")
    with pytest.raises(MetadataError, match="footer"):
        Metadata(str(tmp_path / "bad")).digest("footer")


class _Lines:
    """A toy format: one URL per line."""

    suffixes: tuple[str, ...] = (".urls",)

    def footer_digest(self, stream: BinaryIO, *, name: str, size: int) -> str:
        stream.seek(max(0, size - 64))
        return stream.read(64).hex()

    def batches(
        self, stream: BinaryIO, *, name: str, columns: Mapping[str, Kind], required: Sequence[str]
    ) -> Iterator[dict[str, list[Any]]]:
        urls: list[Any] = stream.read(1 << 20).decode().splitlines()
        yield {column: urls if column == "URL" else [None] * len(urls) for column in columns}


def test_a_reader_of_another_format_is_one_class_in_the_list(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", pa.table({"URL": ["x"]}))
    (tmp_path / "b.URLS").write_text("y\nz\n")
    metadata = Metadata(str(tmp_path), readers=(*READERS, _Lines()))
    rows = [batch for file in metadata.files for batch in metadata.batches(file, COLUMNS, required=("URL",))]
    assert _joined(rows, "URL") == ["x", "y", "z"]
    assert _joined(rows, "WIDTH") == [None] * 3
    assert metadata.digest("footer") != Metadata(str(tmp_path)).digest("footer")


def test_upper_case_and_short_suffixes_are_parquet_too(tmp_path: Path) -> None:
    for name in ("a.PARQUET", "b.pq"):
        _write(tmp_path / name, pa.table({"URL": [name]}))
    assert _joined(_read(tmp_path), "URL") == ["a.PARQUET", "b.pq"]
