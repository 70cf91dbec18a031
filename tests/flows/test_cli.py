"""The command line: exit codes, one line for each error, and nothing that a terminal would obey."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.main import COMMANDS, main
from tests.flows.tiny_build import as_arguments
from tests.storage.conftest import CAPTIONS, Recipe


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from storage import Files

    folder = tmp_path_factory.mktemp("cli_root")
    Recipe(captions=CAPTIONS).build(Files(str(folder)))
    return folder


def iedit(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("iedit ")


def test_without_a_command_the_help_comes_and_the_usage_counts_as_wrong(capsys):
    assert main([]) == 2
    shown = capsys.readouterr().err
    assert [name for name in COMMANDS if name not in shown] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["biuld"],
        ["--bogus"],
        ["build", "--bogus"],
        ["datasets"],
        ["datasets", "shwo"],
        ["datasets", "show"],
        ["gallery"],
        ["gallery", "latest", "--limit", "many"],
        ["datasets", "subset", "latest"],
    ],
)
def test_wrong_usage_ends_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: iedit" in capsys.readouterr().err


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "--profile", "huge"], "mini, sd14"),
        (["build", "--set", "data.mask.treshold=1"], "data.mask.threshold"),
        (["build", "--set", "data.mask.threshold"], "section.field=value"),
        (["build", "--set", "data.mask.threshold=high"], "'high'"),
        (["build", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["build", "--shards", "4:2"], "--shards"),
        (["build", "--dry-run", "--set", "run.runner.workers=0"], "run.runner.workers"),
        (["config", "--set", "x=1"], "'x'"),
        (["datasets", "show", "latest"], "iedit build"),
        (["datasets", "diff", "a", "b"], "'a'"),
        (["datasets", "verify", "latest"], "no version"),
        (["gallery", "latest"], "no version"),
        (["datasets", "gc", "--keep", "zz"], "'zz'"),
    ],
)
def test_what_is_wrong_is_one_line_and_the_exit_code_one(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("iedit: ")
    assert words in line
    assert not (tmp_path / "runs").exists(), "nothing was begun"


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch hacked']",
        "data: !!python/object/apply:os.system ['touch hacked']",
        "data: !!python/object/new:os.system ['touch hacked']",
        "#" * (1 << 21),
        'data: {mask: {threshold: "\x1b[31mred"}}',
        '"\\e[31mred": 1',
    ],
)
def test_a_hostile_configuration_runs_nothing_and_shows_nothing_of_itself(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "other.yaml", text)
    assert main(["build", "--config", path]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert len(line) < 1100
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("arguments", [["datasets", "list"], ["datasets", "list", "--json"]])
def test_a_root_without_versions_has_an_empty_list(arguments, tmp_path, capsys):
    assert main([*arguments, "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == [] if "--json" in arguments else "no version" in out


def test_a_root_that_is_a_file_is_one_line(tmp_path, capsys):
    path = write(tmp_path / "root", "")
    assert main(["gallery", "latest", "--root", path]) == 1
    assert main(["datasets", "gc", "--keep", "x", "--root", f"ftp://[{path}"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_page_that_cannot_be_written_is_one_line(root, tmp_path, capsys):
    write(tmp_path / "file", "")
    assert main(["gallery", "latest", "--root", str(root), "-o", str(tmp_path / "file" / "page.html")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "file" in line


def test_debug_shows_where_an_error_came_from(capsys):
    assert main(["build", "--debug", "--profile", "huge"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_command_whose_reader_went_away_ends_quietly(root):
    command = f"{sys.executable} -m flows.cli.main datasets show latest --root {root} | true"
    ran = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


class TestDatasets:
    """``iedit datasets`` on a small version of planted rows."""

    def run(self, root: Path, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
        assert main(["datasets", *arguments, "--root", str(root)]) == code
        return capsys.readouterr().out

    def test_show_tells_counts_and_lineage(self, root, capsys):
        out = self.run(root, capsys, "show", "latest")
        assert "4 pairs, test 1, train 3" in out
        assert "empty_caption 1" in out
        assert json.loads(self.run(root, capsys, "show", "latest", "--json"))["num_samples"] == 4

    def test_a_part_is_listed_with_its_origin_and_differs_by_what_it_left_out(self, root, capsys):
        whole = json.loads(self.run(root, capsys, "list", "--json"))[0]["version"]
        part = json.loads(self.run(root, capsys, "subset", whole, "--where", "split == 'train'", "--json"))
        assert (part["samples"], part["parent"]) == (3, whole)
        assert f"{whole} where split == 'train'" in self.run(root, capsys, "list")
        diff = json.loads(self.run(root, capsys, "diff", whole, part["version"], "--json"))
        assert [len(diff[name]) for name in ("added", "removed", "changed")] == [0, 1, 0]
        assert "removed: 1" in self.run(root, capsys, "diff", whole, part["version"])

    def test_a_filter_that_cannot_be_understood_is_an_error(self, root, capsys):
        self.run(root, capsys, "subset", "latest", "--where", "__import__('os')", code=1)

    def test_verify_fails_when_a_byte_changed(self, tmp_path, capsys):
        from storage import Files

        Recipe(captions=CAPTIONS).build(Files(str(tmp_path)))
        assert "whole" in self.run(tmp_path, capsys, "verify", "latest")
        tar = next(tmp_path.rglob("*.tar"))
        data = bytearray(tar.read_bytes())
        data[600] ^= 1
        tar.write_bytes(data)
        assert "problem" in self.run(tmp_path, capsys, "verify", "latest", code=1)
        assert json.loads(self.run(tmp_path, capsys, "verify", "latest", "--json", code=1))["problems"]

    def test_gc_lists_before_it_removes(self, tmp_path, capsys):
        from storage import Files

        Recipe(captions=CAPTIONS).build(Files(str(tmp_path)))
        stray = tmp_path / "caption" / "0123456789abcdef" / "00000.0123456789abcdef.parquet"
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"x" * 1000)
        listed = json.loads(self.run(tmp_path, capsys, "gc", "--older-than", "0", "--json"))
        assert listed["files"] == {stray.relative_to(tmp_path).as_posix(): 1000}
        assert stray.exists()
        assert "removed" in self.run(tmp_path, capsys, "gc", "--older-than", "0", "--remove")
        assert not stray.exists()
        assert "whole" in self.run(tmp_path, capsys, "verify", "latest")


def test_the_printed_configuration_is_one_that_is_taken(tmp_path, capsys):
    assert main(["config", "--set", "data.mask.threshold=0.25"]) == 0
    printed = capsys.readouterr().out
    assert main(["config", "--profile", "sd14", "--config", write(tmp_path / "c.yaml", printed)]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_an_orchestrator_that_cannot_be_reached_is_one_line(tmp_path):
    ran = iedit("build", "--root", str(tmp_path / "root"), PREFECT_API_URL="http://127.0.0.1:9/api")
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert "http://127.0.0.1:9/api" in line


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
def test_ctrl_c_ends_a_build_soon_with_its_own_exit_code(prefect_api, tiny_corpus, tmp_path):
    table = pq.read_table(Path(tiny_corpus.metadata) / "00000.parquet")
    urls = pa.array([f"{tiny_corpus.running.base_url}/nothing/{n}" for n in range(table.num_rows)])
    pq.write_table(table.set_column(0, "URL", urls), tmp_path / "m.parquet")
    slow = {
        "data.download.retry.base_s": 60,
        "data.source.site": None,
        "data.download.fetch.allowed_hosts": [tiny_corpus.host],
    }
    places = ["--root", str(tmp_path / "root"), "--metadata", str(tmp_path / "m.parquet")]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli.main", "build", "--json", *places, *as_arguments(slow)],
        env={**os.environ, "PREFECT_API_URL": prefect_api},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if '"begin", "stage": "download"' in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    start = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].startswith("iedit: ended;")
    assert "Traceback" not in err
    assert time.monotonic() - start < 30


def test_the_package_runs_a_command_as_its_main_module_does():
    script = "from flows.cli import main; raise SystemExit(main(['--version']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("iedit ")
