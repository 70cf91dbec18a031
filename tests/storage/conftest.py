"""Stores to test against (a folder, fsspec's memory for every object store) and small real datasets in them."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from storage import (
    SAMPLE_PARTS,
    Dropped,
    Files,
    ShardReport,
    ShardStore,
    StageRun,
    VersionInfo,
    VersionStore,
    digest_of,
    fingerprint,
    write_tar,
)
from tasks.caption import CAPTION
from tasks.plan.stage import PLAN
from tasks.stages import MANIFEST


@pytest.fixture(params=["folder", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Files]:
    if request.param == "folder":
        yield Files(str(tmp_path / "store"))
        return
    store = Files(f"memory://{uuid.uuid4().hex}")
    yield store
    for path in store.list():
        store.remove(path)


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Stands for a stage's configuration."""

    max_new_tokens: int = 30


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a small dataset is made of: a plan, captions of which empty ones are dropped, and packed samples."""

    captions: dict[str, str]
    """Name of a sample -> its caption; an empty one is dropped by the caption stage."""
    config: CaptionConfig = CaptionConfig()
    code_version: int = 1
    weights_digest: str = "blip"
    input_digest: str = "input"
    a_tar: int = 2
    """Samples a tar."""
    log: bytes = b"3 tries"
    """How the captions came about."""
    crossing: bool = False
    """Whether all samples are one group, although they are in several splits."""

    def build(self, files: Files) -> VersionInfo:
        """Write all shards and the version."""
        plan, caption = self._plan(ShardStore(files)), self._caption(ShardStore(files))
        packed = [self._pack(ShardStore(files), names) for names in self._tars()]
        manifest = pa.concat_tables([ShardStore(files).read_table(report) for report in packed])
        stage = {"code_version": self.code_version, "config": self.config}
        runs = (
            StageRun(stage="plan", code_version=1, config=CaptionConfig(), reports=(plan,)),
            StageRun(stage="caption", weights_digest=self.weights_digest, reports=(caption,), **stage),
            StageRun(stage="pack", code_version=1, config=CaptionConfig(), reports=tuple(packed)),
        )
        return VersionStore(files).write(manifest, runs=runs, input_digest=self.input_digest)

    def _fingerprint(self, stage: str, *inputs: str) -> str:
        content = (self.input_digest, *(part for item in self.captions.items() for part in item), *inputs)
        return fingerprint(
            stage=stage,
            version=self.code_version,
            config=self.config,
            inputs=(digest_of(*content),),
            weights_digest=self.weights_digest,
        )

    def _plan(self, store: ShardStore) -> ShardReport:
        rows = [
            {"sample_id": name, "url": f"https://x/{name}", "source_file": "a.parquet", "source_row": i}
            for i, name in enumerate(self.captions)
        ]
        lost = [Dropped(sample_id="a", reason="double"), Dropped(sample_id="small", reason="too_small")]
        target = store.target("plan", "00000", self._fingerprint("plan"))
        return target.commit(table=PLAN.table(rows), num_in=len(rows) + 2, dropped=lost, seconds=1)

    def _caption(self, store: ShardStore) -> ShardReport:
        rows = [
            {"sample_id": name, "caption": text, "caption_source": "model"}
            for name, text in self.captions.items()
            if text
        ]
        lost = [Dropped(sample_id=name, reason="empty_caption") for name, text in self.captions.items() if not text]
        target = store.target("caption", "00000", self._fingerprint("caption"))
        return target.commit(
            table=CAPTION.table(rows),
            num_in=len(self.captions),
            dropped=lost,
            blobs={"log.txt": self.log},
            seconds=1,
        )

    def _tars(self) -> list[list[str]]:
        names = [name for name, text in sorted(self.captions.items()) if text]
        return [names[i : i + self.a_tar] for i in range(0, len(names), self.a_tar)]

    def _pack(self, store: ShardStore, names: list[str]) -> ShardReport:
        target = store.target("pack", names[0], self._fingerprint("pack", *names))
        with target.scratch("tar") as path:
            tar = write_tar(path, (member for name in names for member in self._members(name)))
            place = {member.name: member for member in tar.members}
            rows = []
            for name in names:
                members = {part: place[file] for part, (file, _) in zip(SAMPLE_PARTS, self._members(name), strict=True)}
                start, end = members["source"].start, members["json"].end
                hashes = {f"{part}_member_sha256": member.sha256 for part, member in members.items()}
                where = {"tar": target.path("tar", tar.sha256), "tar_offset": start, "tar_size": end - start}
                rows.append(self._row(name) | hashes | where)
            return target.commit(
                table=MANIFEST.table(rows), schema=MANIFEST, num_in=len(names), blobs={"tar": tar}, seconds=1
            )

    def _members(self, name: str) -> list[tuple[str, bytes]]:
        pictures = [(f"{name}.{part}.png", f"{part} of {name}".encode()) for part in SAMPLE_PARTS[:-1]]
        return [*pictures, (f"{name}.json", json.dumps({"caption": self.captions[name]}).encode())]

    def _row(self, name: str) -> dict[str, object]:
        plain: dict[str, object] = {"string": "x", "list<string>": ["x"], "list<float32>": [0.5]}
        row = {column.name: plain.get(column.type, 1) for column in MANIFEST.columns if not column.nullable}
        row |= {column.name: column.allowed[0] for column in MANIFEST.columns if column.allowed}
        return row | {
            "sample_id": name,
            "url": f"https://x/{name}",
            "caption": self.captions[name],
            "group_id": "all" if self.crossing else name,
            "split": "test" if name == "d" else "train",
            "similarity": 0.25 if name < "c" else float("nan"),
        }


CAPTIONS = {"a": "a cat", "b": "a dog", "c": "", "d": "a red bus", "e": "a tree"}


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(captions=CAPTIONS)
