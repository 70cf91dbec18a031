import copy
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import (
    DROPPED,
    AccountingError,
    CorruptFileError,
    DamagedFileError,
    Dropped,
    Files,
    FilterError,
    MissingFileError,
    SchemaError,
    ShardNameError,
    ShardReport,
    ShardStore,
    ShardTarget,
    write_tar,
)
from tasks.caption import CAPTION
from tasks.embed.stage import embed_schema

FP = "0123456789abcdef"
ROWS = [{"sample_id": f"{i:020x}", "caption": f"a thing {i}", "caption_source": "model"} for i in range(6)]
LOST = [
    Dropped(sample_id="f" * 20, reason="empty_caption", detail="3 beams"),
    Dropped(sample_id="e" * 20, reason="nsfw"),
]


def _target(files: Files, shard: str = "00042") -> ShardTarget:
    return ShardStore(files).target("caption", shard, FP)


def _commit(target: ShardTarget, *, word: str = "thing", seconds: float = 1.0) -> ShardReport:
    rows = [row | {"caption": row["caption"].replace("thing", word)} for row in ROWS]
    with target.scratch("tar") as path:
        tar = write_tar(path, [(f"{row['sample_id']}.txt", row["caption"].encode()) for row in rows])
        return target.commit(
            table=CAPTION.table(rows),
            num_in=8,
            dropped=LOST,
            blobs={"tar": tar, "notes.txt": word.encode()},
            seconds=seconds,
            extra={"dim": 4},
        )


def _contents(files: Files, *, markers: bool = True) -> dict[str, bytes]:
    return {path: files.read_bytes(path) for path in files.list() if markers or not path.endswith("done.json")}


def test_a_committed_shard_is_finished_and_holds_what_was_given(files: Files):
    store, target = ShardStore(files), _target(files)
    assert target.finished() is None
    report = _commit(target)
    assert target.finished() == report
    assert (report.num_in, report.num_out, report.dropped) == (8, 6, {"empty_caption": 1, "nsfw": 1})
    assert store.read_table(report).to_pylist() == ROWS
    assert store.read_table(report, columns=["caption"], where=pc.field("caption") == "a thing 3").to_pylist() == [
        {"caption": "a thing 3"}
    ]
    assert store.read_dropped(report).to_pylist() == [
        {"sample_id": "e" * 20, "reason": "nsfw", "detail": ""},
        {"sample_id": "f" * 20, "reason": "empty_caption", "detail": "3 beams"},
    ]
    with store.open_blob(report, "notes.txt") as stream:
        assert stream.read() == b"thing"
    with store.local_blob(report, "tar") as path, tarfile.open(path) as tar:
        member = tar.getmembers()[2]
        expected = b"a thing 2"
        place = (member.offset_data, member.size)
        assert store.read_member(report, *place, sha256=hashlib.sha256(expected).hexdigest()) == expected
        with pytest.raises(DamagedFileError) as caught:
            store.read_member(report, *place, sha256="0" * 64)
        assert caught.value.paths == (report.path("tar"),)
    assert store.problems(report) == []


def test_the_files_lie_where_a_listing_shows_the_flow_and_hash_to_their_names(files: Files):
    report = _commit(_target(files))
    names = [path.removeprefix(f"caption/{FP}/00042.") for path in files.list()]
    assert sorted(name.partition(".")[2] for name in names if name != "done.json") == [
        "dropped.parquet",
        "notes.txt",
        "parquet",
        "tar",
    ]
    for suffix, entry in report.files.items():
        data = files.read_bytes(report.path(suffix))
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.size, entry.sha256)
        assert report.path(suffix).split(".")[1] == entry.sha256[:16]
    assert pq.read_table(io.BytesIO(files.read_bytes(report.path("parquet")))).num_rows == 6


def test_rows_and_losses_in_another_order_give_the_same_files(tmp_path: Path):
    one, other = Files(str(tmp_path / "1")), Files(str(tmp_path / "2"))
    table = CAPTION.table(ROWS)
    backwards = table.take(pa.array(range(5, -1, -1), pa.int64()))
    losses = DROPPED.table({"sample_id": x.sample_id, "reason": x.reason, "detail": x.detail} for x in LOST)
    report = _target(one).commit(table=table, num_in=8, dropped=LOST, seconds=1.0)
    again = _target(other).commit(table=backwards, num_in=8, dropped=losses, seconds=9.0)
    assert report.digest == again.digest
    assert _contents(one, markers=False) == _contents(other, markers=False)


def test_a_report_is_the_same_when_it_is_committed_and_when_it_is_found(files: Files):
    report = _commit(_target(files), seconds=1.23456)
    assert report.seconds == 1.235
    assert _target(files).finished() == report


def test_a_second_commit_of_the_same_content_touches_nothing(tmp_path: Path):
    files = Files(str(tmp_path))
    first = _commit(_target(files), seconds=1.0)
    before = {path: (tmp_path / path).stat() for path in files.list()}
    again = _commit(_target(files), seconds=2.0)
    after = {path: (tmp_path / path).stat() for path in files.list()}
    assert again == first
    assert {path: (stat.st_mtime_ns, stat.st_ino) for path, stat in after.items()} == {
        path: (stat.st_mtime_ns, stat.st_ino) for path, stat in before.items()
    }


def test_a_shard_done_anew_with_other_content_keeps_the_old_files_for_their_readers(files: Files):
    store, target = ShardStore(files), _target(files)
    old = _commit(target, word="cat")
    new = _commit(target, word="dog")
    assert target.finished() == new
    assert old.digest != new.digest
    assert store.read_table(new)["caption"][0].as_py() == "a dog 0"
    assert store.read_table(old)["caption"][0].as_py() == "a cat 0"
    assert store.problems(old) == store.problems(new) == []


def test_a_missing_or_shorter_file_makes_the_shard_unfinished_and_the_next_commit_whole(files: Files):
    target = _target(files)
    report = _commit(target)
    whole = _contents(files)
    for suffix in report.files:
        path = report.path(suffix)
        files.remove(path)
        assert target.finished() is None
        assert ShardStore(files).problems(report) == [f"{files.address(path)} is not there"]
        files.write_bytes(path, whole[path][:-1])
        assert target.finished() is None
        _commit(target)
        assert _contents(files) == whole


def test_damage_that_keeps_the_size_is_found_by_reading(files: Files):
    report = _commit(_target(files))
    store, path = ShardStore(files), report.path("notes.txt")
    files.write_bytes(path, b"thinG")
    assert _target(files).finished() is None, "it was written after its marker"
    assert [line.partition(" has sha256 ")[0] for line in store.problems(report)] == [files.address(path)]
    if files.is_local:
        os.utime(files.address(path), (0, 0))  # as a disk does it, without a trace
        assert _target(files).finished() == report
    for blob in (store.open_blob, store.local_blob):
        with pytest.raises(DamagedFileError, match="makes it again") as caught, blob(report, "notes.txt"):
            pass
        assert caught.value.paths == (path,)
        assert copy.copy(caught.value).paths == (path,), "so it can go from worker to worker"
    files.write_bytes(path, b"thing")
    assert _target(files).finished() == report


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_no_bit_of_a_marker_can_flip_unnoticed(place: float, bit: int):
    files = Files(f"memory://{uuid.uuid4().hex}")
    whole = bytearray(_commit(_target(files)).to_json())
    whole[int(place * len(whole))] ^= 1 << bit
    with pytest.raises(CorruptFileError):
        ShardReport.from_json(bytes(whole))


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b'{"stage": "caption"}'])
def test_a_damaged_marker_means_unfinished_and_is_repaired_by_the_next_commit(files: Files, data: bytes):
    target = _target(files)
    _commit(target)
    whole = _contents(files)
    files.write_bytes(f"caption/{FP}/00042.done.json", data)
    assert target.finished() is None
    _commit(target)
    assert _contents(files) == whole


def test_the_marker_of_another_shard_does_not_count(files: Files):
    _commit(_target(files))
    files.write_bytes(f"caption/{FP}/00043.done.json", files.read_bytes(f"caption/{FP}/00042.done.json"))
    assert _target(files, "00043").finished() is None


class _UnpluggedError(Exception):
    pass


def _crash(patch: pytest.MonkeyPatch, nth: int) -> None:
    """Let the n-th step from now on, and all after it, of those that change the disk fail."""
    steps = {"replace": Path.replace, "unlink": Path.unlink, "write_bytes": Path.write_bytes}
    fsync, left = os.fsync, [nth]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise _UnpluggedError

    def synced(descriptor: int) -> None:
        count()
        fsync(descriptor)

    for name, step in steps.items():
        patch.setattr(Path, name, lambda *args, step=step, **kwargs: (count(), step(*args, **kwargs))[1])
    patch.setattr(os, "fsync", synced)


@pytest.mark.parametrize("before", [None, "cat"])
def test_a_crash_at_any_step_leaves_the_shard_as_it_was_or_done_and_the_rerun_gives_the_same_bytes(
    tmp_path: Path, before: str | None
):
    quiet = Files(str(tmp_path / "quiet"))
    old = _commit(_target(quiet), word=before) if before else None
    new = _commit(_target(quiet))
    expected, num_crashes, crashed = _contents(quiet), 0, True
    while crashed:
        files = Files(str(tmp_path / f"crash{num_crashes}"))
        if before:
            _commit(_target(files), word=before)
        with pytest.MonkeyPatch.context() as patch:
            _crash(patch, num_crashes)
            try:
                _commit(_target(files))
                crashed = False
            except _UnpluggedError:
                num_crashes += 1
        done = _target(files).finished()
        assert done in (old, new)
        assert done is None or ShardStore(files).problems(done) == []
        _commit(_target(files))
        assert _contents(files) == expected
    assert num_crashes > 15, "every step must have failed once"


def commit_for_ever(root: str, seed: int) -> None:
    rng = random.Random(seed)
    while True:
        _commit(_target(Files(root), f"{rng.randrange(3):05d}"))


_WRITER = (
    "import sys; sys.path.insert(0, sys.argv[1]); from tests.storage.test_storage_shards import commit_for_ever; "
    "commit_for_ever(sys.argv[2], int(sys.argv[3]))"
)


def test_kill_9_at_random_moments_and_two_writers_at_once_end_with_the_bytes_of_a_quiet_run(tmp_path: Path):
    shards = [f"{i:05d}" for i in range(3)]
    quiet, files = Files(str(tmp_path / "quiet")), Files(str(tmp_path / "killed"))
    for shard in shards:
        _commit(_target(quiet, shard))
    rng, project = random.Random(0), str(Path(__file__).parents[2])
    for turn in range(8):
        files.remove_tree(f"caption/{FP}")
        # Fresh processes: a fork of a test process with threads of its own may hang.
        seeds = [str(2 * turn + number) for number in range(2)]
        writers = [subprocess.Popen([sys.executable, "-c", _WRITER, project, files.root, seed]) for seed in seeds]
        while not files.stats():  # both are at work
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.03))
        for writer in writers:
            writer.kill()
            writer.wait()
        for shard in shards:
            done = _target(files, shard).finished()
            assert done is None or ShardStore(files).problems(done) == []
            _commit(_target(files, shard))
        assert _contents(files) == _contents(quiet)
        hidden = [path for path in files.stats() if path not in files.list()]
        assert hidden == [], "the rerun sweeps what the killed processes left"


def race(root: str, word: str, start: float) -> None:
    """Commit ten times, each time at the same moment as the other process."""
    target = _target(Files(root))
    for turn in range(10):
        time.sleep(max(0.0, start + 0.05 * turn - time.time()))
        _commit(target, word=word)


_RACER = (
    "import sys; sys.path.insert(0, sys.argv[1]); from tests.storage.test_storage_shards import race; "
    "race(sys.argv[2], sys.argv[3], float(sys.argv[4]))"
)


@pytest.mark.parametrize("words", [("cat", "cat"), ("cat", "dog")])
def test_two_processes_that_commit_at_once_never_mix_their_files(tmp_path: Path, words: tuple[str, str]):
    # Fresh processes: a fork of a test process with threads of its own may hang.
    files, start = Files(str(tmp_path)), str(time.time() + 5)
    project = str(Path(__file__).parents[2])
    racers = [subprocess.Popen([sys.executable, "-c", _RACER, project, files.root, word, start]) for word in words]
    assert [racer.wait(timeout=120) for racer in racers] == [0, 0]
    done = _target(files).finished()
    assert done is not None
    assert ShardStore(files).problems(done) == []
    captions = ShardStore(files).read_table(done)["caption"].to_pylist()
    assert {caption.split()[1] for caption in captions} <= {*words}
    assert len({caption.split()[1] for caption in captions}) == 1


def test_nothing_is_written_when_the_counts_or_the_table_are_wrong(files: Files):
    target, table = _target(files), CAPTION.table(ROWS)
    wrong: list[tuple[type[Exception], Mapping[str, object]]] = [
        (AccountingError, {"num_in": 9, "table": table, "dropped": LOST}),
        (AccountingError, {"num_in": 6, "table": table, "num_out": 7}),
        (SchemaError, {"num_in": 6, "table": table.drop_columns(["caption"]), "schema": CAPTION}),
        (SchemaError, {"num_in": 6, "table": table, "dropped": table}),
        (SchemaError, {"num_in": 6, "table": table, "extra": {"x": float("nan")}}),
        (ShardNameError, {"num_in": 7, "table": table, "dropped": [Dropped(sample_id="x", reason="No Reason")]}),
        (ShardNameError, {"num_in": 6, "table": table, "blobs": {"parquet": b"x"}}),
        (ShardNameError, {"num_in": 6, "table": table, "blobs": {"../x": b"x"}}),
    ]
    for kind, arguments in wrong:
        with pytest.raises(kind):
            target.commit(seconds=1.0, **arguments)  # pyright: ignore[reportArgumentType]
    assert files.list() == []


def test_a_table_may_keep_rows_that_do_not_go_on(files: Files):
    report = _target(files).commit(
        table=CAPTION.table(ROWS),
        num_in=6,
        num_out=5,
        dropped=[Dropped(sample_id="0" * 20, reason="no_word")],
        seconds=0,
    )
    assert (report.num_out, ShardStore(files).read_table(report).num_rows) == (5, 6)


def test_a_shard_of_which_nothing_is_left_is_finished_too(files: Files):
    report = _target(files).commit(table=CAPTION.table([]), num_in=0, seconds=0)
    assert _target(files).finished() == report
    assert ShardStore(files).read_table(report).num_rows == 0
    assert ShardStore(files).read_dropped(report).column_names == ["sample_id", "reason", "detail"]


def test_a_stage_with_a_schema_of_its_own_gives_it(files: Files):
    target = ShardStore(files).target("embed", "00001", FP)
    schema = embed_schema(2, layout_dim=2)
    images = {name: [1, 0] for name in ("image_embeds", "caption_embeds", "layout_embeds")}
    table = schema.table([{"sample_id": "a", "text_embeds": [0, 1]} | images])
    with pytest.raises(SchemaError, match="carries no declaration"):
        target.commit(table=table.replace_schema_metadata(None), num_in=1, seconds=0)
    report = target.commit(table=table, schema=schema, num_in=1, seconds=0)
    assert ShardStore(files).read_table(report)["text_embeds"].to_pylist() == [[0, 1]]


def test_a_stage_without_a_table_counts_what_it_was_given(files: Files, tmp_path: Path):
    source = tmp_path / "index.faiss"
    source.write_bytes(b"vectors")
    target = ShardStore(files).target("index", "all", FP)
    report = target.commit(blobs={"faiss": source}, num_in=4, dropped=LOST, seconds=0)
    assert (report.num_out, report.files["faiss"].size) == (2, 7)
    assert source.read_bytes() == b"vectors"


def test_the_place_of_a_tar_is_known_before_the_commit(files: Files):
    target = _target(files)
    report = _commit(target)
    assert target.path("tar", report.files["tar"].sha256) == report.path("tar")


def test_reading_what_is_gone_damaged_or_not_there_says_which_file(files: Files):
    store, report = ShardStore(files), _commit(_target(files))
    with pytest.raises(ShardNameError, match="no file 'faiss'"), store.open_blob(report, "faiss"):
        pass
    with pytest.raises(SchemaError, match=r"00042\.[0-9a-f]+\.parquet has no column 'colour'"):
        store.read_table(report, columns=["colour"])
    with pytest.raises(FilterError, match="does not fit"):
        store.read_table(report, where=pc.field("caption") > 3)
    files.write_bytes(report.path("parquet"), b"x" * report.files["parquet"].size)
    with pytest.raises(CorruptFileError, match=r"00042\.[0-9a-f]+\.parquet"):
        store.read_table(report)
    files.remove(report.path("parquet"))
    with pytest.raises(MissingFileError, match=r"00042\.[0-9a-f]+\.parquet"):
        store.read_table(report)


def test_reports_and_targets_can_be_made_at_a_plain_folder(tmp_path: Path):
    store = ShardStore.at(tmp_path / "x")
    report = _commit(store.target("caption", "00001", FP))
    marker = json.loads((tmp_path / "x" / "caption" / FP / "00001.done.json").read_bytes())
    assert marker["digest"] == report.digest
    with pytest.raises(ShardNameError, match="lower-case letters"):
        store.target("Colour", "00001", FP)
