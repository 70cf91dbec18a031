"""After ``datasets takedown --purge`` nothing under a root shows the picture: every byte of every file is searched."""

import base64
import io
import json
import re
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors import safe_open

from flows.cli.main import main
from iedit_model.imaging.encode import encode_image
from storage import Files, VersionStore, verify_version
from tasks.download.ledger import LEDGER
from tasks.evaluate.sets.evalset import EvalSetInfo
from tasks.evaluate.sets.folder import NewPair, write_evalset
from tests.flows.tiny_build import TinyCorpus, as_arguments

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("prefect"),
    pytest.mark.usefixtures("prefect"),
    pytest.mark.timeout(900),
]

TRAIN = {"train.rows.where": None, "train.train.batch_size": 2, "train.train.warmup_steps": 1}
TRAIN |= {"train.loop.validate_every": 1, "train.loop.validation_steps": 2}
EVALUATE = {
    "evaluate.plan.settings.sampling.num_inference_steps": 2,
    "evaluate.plan.summary.bootstrap.num_resamples": 50,
}


def iedit(command: str, *arguments: object, **settings: Any) -> int:
    given = as_arguments({name.replace("__", "."): value for name, value in settings.items()})
    return main([*command.split(), *map(str, arguments), *given])


@pytest.fixture(scope="module")
def used(prefect: None, tiny_corpus: TinyCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a dataset, a trained model, an evaluation, a gallery, a card and a database of flow runs."""
    folder = tmp_path_factory.mktemp("used")
    root = folder / "root"
    assert iedit("build", "--root", root, "--metadata", tiny_corpus.metadata, **tiny_corpus.settings()) == 0
    for out in (root / "models" / "a", folder / "outside" / "b"):
        assert iedit("train", "--root", root, "--steps", 2, "-o", out, **TRAIN) == 0
    pictures = {"portrait": picture_of(root, lonely(root))}
    pictures |= {name: Image.new("RGB", (64, 64), name) for name in ("green", "blue")}
    pairs = [
        NewPair(
            pair_id=name,
            image_id=name,
            image=encode_image(picture),
            source_prompt="a photo of a bus",
            edit_prompt="a photo of a car",
            word="bus",
        )
        for name, picture in pictures.items()
    ]
    info = EvalSetInfo(name="own", origin="real", description="A picture of the corpus among others.")
    write_evalset(root / "evalsets" / "own", info, pairs)
    evaluation = ("--root", root, "--checkpoint", root / "models" / "a", "--evalset", "own", "--methods", "iedit")
    assert main(["evaluate", *map(str, evaluation), *as_arguments(EVALUATE)]) == 0
    for page in (root / "pages" / "gallery.html", folder / "outside" / "gallery.html"):
        assert iedit("gallery latest", "--root", root, "-o", page) == 0
    assert iedit("datasets card latest", "--root", root) == 0
    (version,) = VersionStore(Files(str(root))).list()
    assert iedit(f"datasets subset {version}", "--root", root, "--where", "split == 'train'") == 0
    with sqlite3.connect(root / "prefect.db") as base:
        log = f"{'x' * 4000}{lonely(root)['url']}{'x' * 9000}"
        base.execute("CREATE TABLE artifact (id INTEGER, key TEXT, data TEXT)")
        base.execute("INSERT INTO artifact VALUES (1, 'log', ?), (2, 'other', 'kept')", (log,))
    return folder


def small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BOX), np.float32)


def tables(root: Path) -> Iterator[pa.Table]:
    for path in sorted(root.rglob("*.parquet")):
        yield pq.read_table(path)


def rows_of(root: Path, column: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of all tables that have a column."""
    for table in tables(root):
        if column in table.column_names:
            yield from table.to_pylist()


def traces_of(root: Path, row: dict[str, Any]) -> dict[str, bytes]:
    """Return what a picture left: its names, its bytes, its vectors, its latents, its masks."""
    name = row["sample_id"]
    found = {f"name {key}": row[key].encode() for key in ("sample_id", "url", "sha256", "stored_sha256")}
    found |= {what: data[len(data) // 3 :][:200] for what, data in members_of(root, name)}
    for column in ("image_embeds", "text_embeds"):
        for held in rows_of(root, column):
            if held["sample_id"] == name and held[column] is not None:
                vector = np.array(held[column], np.float16)
                unit = vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))
                found |= {f"{column} as stored": vector.tobytes(), f"{column} of faiss": unit.astype("f4").tobytes()}
    masks = [held["source_mask_png"] for held in rows_of(root, "source_mask_png") if held["sample_id"] == name]
    found |= {f"mask {number}": mask for number, mask in enumerate(masks)}
    return found | {what: data[:400] for what, data in latents_of(root, name)}


def members_of(root: Path, name: str) -> Iterator[tuple[str, bytes]]:
    for path in root.rglob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                sample, _, part = member.name.partition(".")
                if sample == name and not part.startswith("target"):
                    yield f"member {member.name} of {path.name}", tar.extractfile(member).read()  # pyright: ignore[reportOptionalMemberAccess]


def latents_of(root: Path, name: str) -> Iterator[tuple[str, bytes]]:
    for path in root.rglob("train/*/*.safetensors"):
        with safe_open(path, "np") as file:
            names = json.loads(file.metadata()["sample_ids"])
            for key in file.keys() if name in names else ():
                tensor = file.get_tensor(key)[names.index(name)]
                if tensor.std() > 0 and tensor.nbytes > 32:
                    yield f"latent {key} of {path.parent.name}", tensor.tobytes()


def pieces(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, and those that its compression hides."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        for column in pq.read_table(path).combine_chunks().columns:
            for chunk in column.chunks:
                yield from (buffer.to_pybytes() for buffer in chunk.buffers() if buffer is not None)
                if pa.types.is_binary(chunk.type):
                    yield from (value for value in chunk.to_pylist() if value)
    elif path.suffix == ".tar":
        with tarfile.open(path) as tar:
            yield from (tar.extractfile(member).read() for member in tar)  # pyright: ignore[reportOptionalMemberAccess]
    elif path.suffix in {".html", ".md", ".db"}:
        yield from (base64.b64decode(text) for text in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data))


def remains(root: Path, traces: dict[str, bytes], picture: Image.Image) -> list[str]:
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        for piece in pieces(path) if path.name != LEDGER else ():  # which holds hashes, and nothing else
            found += [f"{path.relative_to(root)}: {what}" for what, trace in traces.items() if trace in piece]
            if piece[:4] in (b"\x89PNG", b"RIFF", b"\xff\xd8\xff\xe0"):
                shown = Image.open(io.BytesIO(piece))
                if shown.mode == "RGB" and np.abs(small(shown) - small(picture)).mean() < 2:
                    found.append(f"{path.relative_to(root)}: its pixels")
    return sorted(set(found))


def picture_of(root: Path, row: dict[str, Any]) -> Image.Image:
    (path,) = root.glob(f"download/*/{row['image_shard']}.*.tar")
    return Image.open(io.BytesIO(path.read_bytes()[row["image_offset"] :][: row["image_size"]])).convert("RGB")


def lonely(root: Path) -> dict[str, Any]:
    """Return the packed row whose picture looks least like any other of the corpus, so that none is taken for it."""
    rows = {row["sample_id"]: row for row in rows_of(root, "image_offset") if row.get("image_offset") is not None}
    packed = {row["sample_id"] for row in rows_of(root, "source_member_sha256") if row["split"] == "train"}
    shown = {name: small(picture_of(root, row)) for name, row in rows.items() if "stored_sha256" in row}
    gaps = {
        name: min(np.abs(shown[name] - other).mean() for key, other in shown.items() if key != name) for name in packed
    }
    return rows[max(gaps, key=lambda name: (gaps[name], name))]


def test_no_byte_of_a_picture_is_left_under_the_root_and_no_build_brings_it_back(used, tiny_corpus, tmp_path, capsys):
    shutil.copytree(used / "root", root := tmp_path / "root", symlinks=True)
    row = lonely(root)
    picture, traces = picture_of(root, row), traces_of(root, row)
    kinds = {what.partition(" ")[0] for what in traces}
    assert kinds == {"name", "member", "image_embeds", "text_embeds", "mask", "latent"}
    before = remains(root, traces, picture)
    assert {"download", "pack", "embed", "index", "mask", "train", "versions", "pages", "prefect.db"} <= {
        line.partition(":")[0].partition("/")[0] for line in before
    }
    assert (root / "models" / "a" / "samples").is_dir()
    spelled = row["url"].replace("http", "HTTP", 1).replace("/images", "/x/../%69mages") + "#top"
    (tmp_path / "list.txt").write_text(f" {spelled} \n")
    capsys.readouterr()
    assert iedit("datasets takedown latest", tmp_path / "list.txt", "--purge", "--json", "--root", root) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["pictures"], said["unmatched"]) == (1, [])
    assert any(str(used / "outside" / "b") in line for line in said["outside"])
    assert any(str(used / "outside" / "gallery.html") in line for line in said["outside"])
    assert remains(root, traces, picture) == []
    ledger = json.loads((root / LEDGER).read_text())
    assert all(re.fullmatch("[0-9a-f]{64}", entry) for name in ("urls", "images") for entry in ledger[name])
    assert not (root / "models" / "a" / "samples").exists()
    assert (root / "models" / "a" / "checkpoints" / "latest").exists()
    with sqlite3.connect(root / "prefect.db") as base:
        assert base.execute("SELECT data FROM artifact").fetchall() == [("kept",)]
    versions = VersionStore(Files(str(root)))
    assert len(versions.list()) == 2
    assert all(verify_version(versions, name) == [] for name in versions.list())
    assert versions.load(said["version"]).num_samples in {
        info.num_samples for info in map(versions.load, versions.list())
    }
    built = ("--root", root, "--metadata", tiny_corpus.metadata)
    tiny_corpus.running.reset()
    assert iedit("build", *built, **tiny_corpus.settings()) == 0
    assert remains(root, traces, picture) == []
    assert iedit("train", "--root", root, "--steps", 1, "-o", tmp_path / "again", **TRAIN) == 0
    assert iedit("datasets takedown latest", tmp_path / "list.txt", "--purge", "--json", "--root", root) == 0
