"""What goes wrong outside is a counted drop or one clear line: never a traceback, never a success without pairs."""

import itertools
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.main import main
from storage import Files, VersionStore
from tests.builders.small_disk import on_disk, small_disk
from tests.flows.tiny_build import TinyCorpus, as_arguments, final_bytes

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect"), pytest.mark.timeout(1200)]

STAGES = ("plan", "download", "caption", "swap", "embed", "index", "retrieve", "mask", "pack")
ON_DISK = ("plan", "download", "caption", "words", "swap", "embed", "index", "retrieve", "mask", "pack", "versions")
QUICK = {f"run.options.{stage}.retry_delay_s": 0 for stage in STAGES}
WORDLESS, FOREIGN = "background photo", "ein rotes Fahrrad steht vor einem alten Haus"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a build said at its end."""

    code: int
    out: str
    lines: list[str]
    """Standard error."""

    @property
    def funnel(self) -> dict[str, dict[str, Any]]:
        return {row["stage"]: row for row in json.loads(self.out)["funnel"]}


def iedit_build(
    capsys: pytest.CaptureFixture[str], root: Path, metadata: Path | str, settings: Mapping[str, Any], *more: str
) -> Outcome:
    capsys.readouterr()
    places = ["--root", str(root), "--metadata", str(metadata)]
    code = main(["build", "--json", *places, *as_arguments({**settings, **QUICK}), *more])
    captured = capsys.readouterr()
    return Outcome(code=code, out=captured.out, lines=captured.err.splitlines())


def assert_one_clear_line(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 1
    assert outcome.out == ""
    assert [line for line in outcome.lines[:-1] if not line.startswith('{"event"')] == []
    assert outcome.lines[-1].startswith("iedit: ")
    assert [word for word in words if word not in outcome.lines[-1]] == []


def table_of(corpus: TinyCorpus) -> pa.Table:
    return pq.read_table(Path(corpus.metadata) / "00000.parquet")


def without_column(path: Path, table: pa.Table) -> None:
    pq.write_table(table.drop_columns(["URL"]), path)


def without_rows(path: Path, table: pa.Table) -> None:
    pq.write_table(table.slice(0, 0), path)


def cut_short(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path)
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[40:200] = bytes(byte ^ 0xFF for byte in data[40:200])
    path.write_bytes(data)


def no_parquet(path: Path, table: pa.Table) -> None:
    path.write_text("URL,TEXT\nhttp://x/a.jpg,a cat\n")


def nothing_kept(path: Path, table: pa.Table) -> None:
    pq.write_table(table.set_column(0, "URL", pa.array(["no address"] * table.num_rows)), path)


def of_another_type(path: Path, table: pa.Table) -> None:
    pq.write_table(table.set_column(0, "URL", pa.array(range(table.num_rows))), path)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (without_column, "URL"),
        (without_rows, "no rows"),
        (nothing_kept, "bad_url"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            (cut_short, "m.parquet"), (flipped, "m.parquet"), (no_parquet, "m.parquet"), (of_another_type, "URL"),
        )),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_used_is_one_line(damage, word, tiny_corpus, tmp_path, capsys):
    damage(tmp_path / "m.parquet", table_of(tiny_corpus))
    outcome = iedit_build(capsys, tmp_path / "root", tmp_path / "m.parquet", tiny_corpus.settings())
    assert_one_clear_line(outcome, word)
    assert not (tmp_path / "root" / "versions").exists()


@pytest.mark.slow
def test_metadata_that_is_not_there_is_one_line(tiny_corpus, tmp_path, capsys):
    outcome = iedit_build(capsys, tmp_path / "root", tmp_path / "nowhere", tiny_corpus.settings())
    assert_one_clear_line(outcome, "nowhere")


@pytest.mark.slow
def test_a_site_that_is_down_fails_every_shard_and_the_build(tiny_corpus, tmp_path, capsys):
    table = table_of(tiny_corpus)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        urls = [url.as_py().replace(tiny_corpus.host, host) for url in table["URL"]]
        pq.write_table(table.set_column(0, "URL", pa.array(urls)), tmp_path / "m.parquet")
        others = {"data__download__fetch__allowed_hosts": [host], "data__download__retry__retries": 0}
        for name, spared, words in (("floor", 20, "min_success_rate"), ("spared", 1000, "none of 0 images")):
            settings = tiny_corpus.settings(**others, data__download__floor_from_rows=spared)
            outcome = iedit_build(capsys, tmp_path / name, tmp_path / "m.parquet", settings)
            assert_one_clear_line(outcome, words)
            assert not (tmp_path / name / "versions").exists()


@pytest.mark.slow
def test_a_model_that_is_not_there_stops_the_build_at_once(tiny_corpus, tmp_path, capsys):
    settings = tiny_corpus.settings(
        data__caption__model__model__name=str(tmp_path / "no_model"), data__plan__shard_size=10
    )
    outcome = iedit_build(capsys, tmp_path / "root", tiny_corpus.metadata, settings)
    assert_one_clear_line(outcome, "no_model")
    failed = [json.loads(line) for line in outcome.lines[:-1] if '"failed"' in line]
    assert 1 <= len(failed) <= 2, "no further shard is begun"


@pytest.mark.slow
def test_no_pair_left_is_an_error_and_no_version(tiny_corpus, tmp_path, capsys):
    settings = tiny_corpus.settings(data__mask__gates__min_area=0.99, data__caption__mode="alt_text")
    outcome = iedit_build(capsys, tmp_path / "root", tiny_corpus.metadata, settings)
    assert_one_clear_line(outcome)
    assert not (tmp_path / "root" / "versions").exists()


@pytest.mark.slow
def test_every_kind_of_bad_picture_and_bad_text_is_a_counted_drop(tiny_corpus, tmp_path, capsys):
    table = table_of(tiny_corpus)
    truths = [tiny_corpus.running.site.truth(index) for index in range(tiny_corpus.running.site.num_urls)]
    texts = itertools.cycle((*(None,) * 6, WORDLESS, FOREIGN, "", "\x00\x1b[31m", "x" * 5000, "紅色自行車"))
    caption_of = {tiny_corpus.running.url(truth.index): truth.caption for truth in truths}
    shown = [next(texts) if url.as_py() in caption_of else "" for url in table["URL"]]
    shown = [
        caption_of.get(url.as_py(), "") if text is None else text for text, url in zip(shown, table["URL"], strict=True)
    ]
    given = table.set_column(1, "TEXT", pa.array(shown, pa.string())).set_column(
        table.column_names.index("LANGUAGE"), "LANGUAGE", pa.array(["en"] * table.num_rows)
    )
    pq.write_table(given, tmp_path / "m.parquet")
    outcome = iedit_build(
        capsys, tmp_path / "root", tmp_path / "m.parquet", tiny_corpus.settings(data__caption__mode="alt_text")
    )
    assert outcome.code == 0, outcome.lines[-1]
    assert json.loads(outcome.out)["samples"] > 0
    funnel = outcome.funnel
    assert funnel["plan"]["dropped"]["duplicate_url"] >= 1
    kinds = Counter(truth.kind for truth in truths)
    reasons = funnel["download"]["dropped"]
    assert 1 <= reasons["not_an_image"] <= kinds["html"] + kinds["empty"]
    assert 1 <= reasons["too_many_pixels"] <= kinds["bomb"]
    wordless = {"no_candidate_word", "not_english", "malformed", "too_long"}
    assert wordless <= set(funnel["swap"]["dropped"])
    for row in funnel.values():
        assert row["in"] == row["out"] + sum(row["dropped"].values())


@pytest.fixture(scope="module")
def finished(prefect: None, tiny_corpus: TinyCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished build to damage copies of."""
    root = tmp_path_factory.mktemp("finished") / "root"
    places = ["--root", str(root), "--metadata", tiny_corpus.metadata]
    assert main(["build", *places, *as_arguments(tiny_corpus.settings())]) == 0
    return root


KINDS = [
    *("plan/*/00001.*.parquet", "plan/*/00001.done.json"),
    *("download/*/00000.*.tar", "download/*/00001.[!l]*.parquet", "download/*/00001.*.log.parquet"),
    *("download/*/00000.done.json", "download/*/00000.*.dropped.parquet", "caption/*/00001.*.parquet"),
    *("swap/*/00001.*.parquet", "mask/*/00001.*.dropped.parquet", "embed/*/00001.*.parquet"),
    *("index/*/all.????????????????.parquet", "index/*/*.faiss", "index/*/*.vectors.npy", "index/*/*.facts.npy"),
    *("index/*/*.means.npy", "index/*/*.layouts.npy", "index/*/all.done.json", "retrieve/*/00001.*.parquet"),
    *(
        "mask/*/00001.????????????????.parquet",
        "pack/*/plan.*.parquet",
        "pack/*/train-00000.*.tar",
        "pack/*/train-00000.*.parquet",
    ),
    *("pack/*/train-00000.done.json", "versions/*/version.json", "versions/*/manifest.parquet"),
    "versions/*/shard_files.parquet",
]
"""A file of every kind that a build leaves."""


def flip(path: Path, *, trace: bool) -> None:
    """Flip one bit in the middle of a file; without a trace is how a disk does it."""
    data, written = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    if not trace:
        os.utime(path, ns=(written, written))


@pytest.mark.slow
@pytest.mark.parametrize("pattern", KINDS)
def test_a_flipped_bit_is_found_and_its_file_made_again(pattern, finished, tiny_corpus, tmp_path, capsys):
    root = Path(shutil.copytree(finished, tmp_path / "root"))
    whole, (version,) = final_bytes(root), VersionStore(Files(str(root))).list()
    found = sorted(root.glob(pattern))
    assert found, f"a build leaves no {pattern} any more"
    flip(found[0], trace=False)
    capsys.readouterr()
    code = main(["datasets", "verify", version, "--root", str(root), "--repair"])
    said = capsys.readouterr()
    assert (code, found[0].name in said.out + said.err) == (1, True)
    assert iedit_build(capsys, root, tiny_corpus.metadata, tiny_corpus.settings()).code == 0
    assert final_bytes(root) == whole
    assert main(["datasets", "verify", version, "--root", str(root)]) == 0
    flip(found[0], trace=True)
    assert iedit_build(capsys, root, tiny_corpus.metadata, tiny_corpus.settings()).code == 0
    assert final_bytes(root) == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "settings"),
    [
        ("download/*/00000.*.tar", {"data.caption.model.max_new_tokens": 18}),
        ("caption/*/00001.*.parquet", {"data.swap.max_levels": 2}),
        ("embed/*/00001.*.parquet", {"data.retrieve.query.text_weight": 0.61}),
        ("index/*/all.*.faiss", {"data.retrieve.query.text_weight": 0.61}),
        ("index/*/all.*.vectors.npy", {"data.retrieve.query.text_weight": 0.61}),
        ("mask/*/00001.????????????????.parquet", {"data.pack.samples_per_tar": 9}),
        ("plan/*/00001.????????????????.parquet", {"data.download.image.size_px": 48}),
    ],
)
def test_what_rots_without_a_trace_is_made_again_when_it_is_read(
    pattern, settings, finished, tiny_corpus, tmp_path, capsys
):
    """The file has its size and its time, so that only the stage that reads it can see; one build is enough."""
    calm, root = (Path(shutil.copytree(finished, tmp_path / name)) for name in ("calm", "root"))
    settings = tiny_corpus.settings() | settings
    assert iedit_build(capsys, calm, tiny_corpus.metadata, settings).code == 0
    flip(next(iter(sorted(root.glob(pattern)))), trace=False)
    outcome = iedit_build(capsys, root, tiny_corpus.metadata, settings)
    assert outcome.code == 0, outcome.lines[-1]
    assert final_bytes(root) == final_bytes(calm)


@pytest.mark.slow
def test_a_disk_without_room_is_one_line_and_the_next_run_goes_on(prefect_api, tiny_corpus, tmp_path):
    """No file may be longer than 64 kB: the tars of pictures are, all before them is not."""

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))

    places = ["--root", str(tmp_path / "root"), "--metadata", tiny_corpus.metadata]
    command = [sys.executable, "-m", "flows.cli.main", "build", *places, *as_arguments(tiny_corpus.settings() | QUICK)]
    environment = {**os.environ, "PREFECT_API_URL": prefect_api}
    full = subprocess.run(
        command, env=environment, preexec_fn=no_room, capture_output=True, text=True, check=False, timeout=900
    )
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1].startswith("iedit: ")
    assert "download" in full.stderr.splitlines()[-1]
    assert "no room left to write" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    assert not (tmp_path / "root" / "versions").exists()
    assert list((tmp_path / "root" / "download").rglob("*.done.json")) == []
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "share"), [*((stage, 0.6) for stage in ON_DISK), ("index", 0.15), ("index", 0.95)])
def test_a_full_disk_in_any_stage_is_one_line_and_the_rest_follows(
    stage, share, finished, prefect_api, tiny_corpus, tmp_path
):
    """Room for all stages before, and a share of this one: in its smallest files and in its largest."""
    places = ["--root", str(tmp_path / "disk" / "root"), "--metadata", tiny_corpus.metadata]
    command = [sys.executable, "-m", "flows.cli.main", "build", *places, *as_arguments(tiny_corpus.settings() | QUICK)]
    run = partial(subprocess.run, command, capture_output=True, text=True, check=False, timeout=900)
    environment = {**os.environ, "PREFECT_API_URL": prefect_api}

    before = [finished / name for name in ON_DISK[: ON_DISK.index(stage)]]
    size = on_disk(*before) + int(share * on_disk(finished / stage))
    with small_disk(tmp_path / "disk", max(size, 8192)) as resize:
        full = run(env=environment)
        assert full.returncode == 1, full.stderr[-600:]
        assert "Traceback" not in full.stderr
        last = full.stderr.splitlines()[-1]
        assert last.startswith("iedit: ")
        assert "no room left to write" in last
        resize("1g")
        again = run(env=environment)
        assert again.returncode == 0, again.stderr
        assert final_bytes(tmp_path / "disk" / "root") == final_bytes(finished)
