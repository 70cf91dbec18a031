"""The card says what is in a version; its code runs, and a stranger's words stay words."""

import html
import re
import runpy
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.planted_pairs import planted
from iedit_model.errors import ConfigError
from storage import ShardStore, VersionInfo, VersionStore, collect_garbage
from tasks.dataset.dataset_card import CardConfig, dataset_card, in_words, write_card
from tasks.pack.splits import SplitConfig
from tasks.pack.stage import PackConfig
from tasks.stages import MANIFEST, stage_names

HOSTILE = (
    "a <img src=x onerror=alert(1)> red | bus\n# heading `code` [a](javascript:alert(1)) https://evil.example &lt;"
)
ROWS = {0: {"caption": {"caption": HOSTILE}, "swap": {"edit_prompt": HOSTILE.replace("red", "blue")}}}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[VersionStore, VersionInfo]:
    store = ShardStore.at(tmp_path_factory.mktemp("card"))
    config = PackConfig(samples_per_tar=4, splits=SplitConfig(val_share=0.2, test_share=0.2))
    return VersionStore(store.files), planted(12, rows=ROWS).build(store, config)


def _tables(card: str) -> dict[str, list[list[str]]]:
    """Return heading -> rows of its tables, each as its cells."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in card.splitlines():
        if line.startswith("## "):
            heading = line[3:]
        if line.startswith("|") and not line.startswith("|---"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found.setdefault(heading, []).append([cell.strip() for cell in cells])
    return found


def test_the_funnel_is_that_of_the_version(built):
    versions, info = built
    rows = _tables(dataset_card(versions, info.id))["Funnel"]
    assert rows[0] == ["stage", "in", "out", "kept", "dropped, by reason"]
    expected = [[record.stage, str(record.num_in), str(record.num_out)] for record in info.stages]
    assert [row[:3] for row in rows[1:]] == expected
    assert rows[1] == ["plan", "26", "24", "92.3%", "too small 2"]


def test_splits_kinds_and_scores_add_up(built):
    versions, info = built
    tables = _tables(dataset_card(versions, info.id))
    rows = versions.manifest(info).to_pylist()
    assert {row[0]: int(row[1]) for row in tables["Splits"][1:]} == info.splits
    assert {row[0]: int(row[4]) for row in tables["Splits"][1:]} == {
        split: len({row["tar"] for row in rows if row["split"] == split}) for split in info.splits
    }
    kinds = [row for row in tables["Pairs"] if len(row) == 3][1:]
    assert sum(int(row[2]) for row in kinds) == info.num_samples
    scores = {row[0]: row for row in tables["Pairs"] if len(row) == 6}
    median = sorted(row["similarity"] for row in rows)[5:7]
    assert float(scores["`similarity`"][3]) == pytest.approx(sum(median) / 2, abs=6e-4)
    assert "`directional_similarity`" not in scores  # never measured


def test_every_column_is_described_as_the_schema_says(built):
    versions, info = built
    rows = {row[0].strip("`"): row for row in _tables(dataset_card(versions, info.id))["Columns of the manifest"][1:]}
    assert list(rows) == list(MANIFEST.names)
    for column in MANIFEST.columns:
        assert rows[column.name][4].startswith(column.description)
        assert rows[column.name][3] == column.unit


def test_provenance_names_models_configurations_and_input(built):
    versions, info = built
    card = dataset_card(versions, info.id)
    rows = {row[0]: row for row in _tables(card)["Provenance"][1:]}
    assert rows["caption"][3] == "`blip`"
    assert 'samples\\_per\\_tar": 4' in rows["pack"][5]
    assert [row[4] for row in rows.values()] == [f"`{record.digest:.16}`" for record in info.stages]
    assert info.input_digest in card
    assert CardConfig().licence in card
    assert "Fixed terms." in dataset_card(versions, info.id, CardConfig(licence="Fixed terms."))


@pytest.mark.parametrize("is_part", [False, True])
def test_the_code_on_the_card_runs(built, is_part: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    versions, info = built
    rows = [row for row in versions.manifest(info).to_pylist() if row["split"] == "train"]
    if is_part:
        rows = rows[:2]
        info = versions.subset(info.id, sample_ids=[row["sample_id"] for row in rows])
    card = dataset_card(versions, info.id)
    assert (f"made from version `{info.parent}`" in card) == is_part
    code = tmp_path / "loading.py"
    code.write_text(card.split("```python\n")[1].split("```")[0])
    monkeypatch.setenv("WDS_SECURE", "1")
    monkeypatch.chdir(versions.files.root)
    capsys.readouterr()
    runpy.run_path(str(code))
    printed = capsys.readouterr().out
    assert sorted(printed.split("(64, 64) ")[1:]) == sorted(
        f"{row['caption']} -> {row['edit_prompt']}\n" for row in rows
    )


def test_a_strangers_words_make_neither_markup_nor_links_nor_cells(built):
    versions, info = built
    card = dataset_card(versions, info.id, CardConfig(num_examples=12))
    examples = _tables(card)["Examples"]
    assert {len(row) for row in examples} == {7}
    assert len(examples) == 1 + info.num_samples
    assert "<img" not in card
    assert "](javascript" not in card
    assert "https://evil" not in card
    assert "\n# heading" not in card
    shown = next(row[2] for row in examples if "onerror" in row[2])
    assert html.unescape(re.sub(r"\\(.)", r"\1", shown)).replace("\u200b", "") == HOSTILE.replace("\n", " ")


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=80))
@example(text="&#42; &amp; \\* www.x.example a@b.example \u202e ftp://x")
def test_words_keep_their_letters_and_lose_their_power(text: str):
    shown = in_words(text, longest=1000)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)[|`*_\[\]<>~$^!#(){}]", shown.replace("&#8203;", ""))
    assert not re.search(r"://|www\.|@[\w]", shown)
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    assert html.unescape(re.sub(r"\\(.)", r"\1", shown)).replace("\u200b", "") == plain.replace("\u200b", "")


def test_long_words_are_cut():
    assert in_words("x" * 500) == "x" * 159 + "\u2026"
    assert in_words(None) == ""


def test_the_card_lies_beside_the_manifest_and_is_the_same_each_time(built):
    versions, info = built
    path = write_card(versions, info.id[:6])
    assert path == f"versions/{info.id}/README.md"
    first = versions.files.read_bytes(path)
    assert first.decode() == dataset_card(versions, info.id)
    assert str(Path(versions.files.root)) not in first.decode()
    assert write_card(versions, info.id) == path
    assert versions.files.read_bytes(path) == first
    assert path not in collect_garbage(versions, stages=stage_names(), keep=[info.id], older_than_s=-60).files


def test_a_number_of_examples_that_cannot_be_is_refused(built):
    versions, info = built
    with pytest.raises(ConfigError, match="num_examples"):
        CardConfig(num_examples=-1)
    assert "## Examples" not in dataset_card(versions, info.id, CardConfig(num_examples=0))
