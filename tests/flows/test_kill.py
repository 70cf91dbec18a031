"""Killed again and again, a build ends with the same bytes as one that nobody disturbed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from storage import Files, VersionStore, verify_version
from tests.flows.tiny_build import as_arguments, final_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.xdist_group("prefect")]

SEED = 11
KILLS_A_STAGE = 2
BEFORE = {
    "plan": ("begin", "plan"),
    "download": ("begin", "download"),
    "caption": ("shard", "download"),
    "words": ("begin", "words"),
    "swap": ("begin", "swap"),
    "embed": ("shard", "swap"),
    "index": ("begin", "index"),
    "retrieve": ("begin", "retrieve"),
    "mask": ("shard", "retrieve"),
    "pack": ("begin", "pack"),
}
"""Stage -> what is told just before its first work."""
_LONGEST_S = 600.0
"""A process that takes longer hangs, however busy the machine."""


@dataclass
class Process:
    """One process of ``iedit build`` in a session of its own, and what it told so far."""

    arguments: Sequence[str]
    api: str
    moment: tuple[str, str] = BEFORE["plan"]
    """Event and stage that ``reached`` waits for."""
    events: list[dict[str, object]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    """What it said on the standard error that is no event."""
    reached: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", "build", "--json", *self.arguments],
            env={**os.environ, "PREFECT_API_URL": self.api},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                self.events.append(json.loads(line))
                if (self.events[-1]["event"], self.events[-1]["stage"]) == self.moment:
                    self.reached.set()
            else:
                self.words.append(line)
        self.reached.set()

    def kill_after(self, seconds: float) -> bool:
        """Kill it so long after its moment; return whether it was still alive."""
        self.reached.wait(timeout=_LONGEST_S)
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.end()
        assert code in (0, -signal.SIGKILL), self.words
        return code == -signal.SIGKILL

    def end(self) -> int:
        """Wait for its end and return its exit code."""
        try:
            code = self.process.wait(timeout=_LONGEST_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code

    @property
    def was_at(self) -> str:
        """Return the first stage that had shards left to do."""
        ahead: Counter[str] = Counter()
        for event in self.events:
            ahead[str(event["stage"])] += int(str(event["shards"])) if event["event"] == "begin" else -1
        return next((stage for stage in BEFORE if ahead[stage] > 0), "between")


def test_a_build_that_is_killed_twenty_times_ends_with_the_same_bytes(prefect_api, tiny_corpus, tmp_path):
    settings = tiny_corpus.settings(data__plan__shard_size=12, data__pack__samples_per_tar=8)
    arguments = ["--metadata", tiny_corpus.metadata, *as_arguments(settings)]
    calm = Process([*arguments, "--root", str(tmp_path / "calm")], prefect_api)
    calm.reached.wait(timeout=_LONGEST_S)
    start = time.monotonic()
    assert calm.end() == 0, calm.words
    length_s = time.monotonic() - start
    expected = final_bytes(tmp_path / "calm")
    assert len(expected) > 100

    rng = random.Random(SEED)
    root = tmp_path / "killed"
    moments: Counter[str] = Counter()
    finished = 0
    for stage in [stage for stage in BEFORE for _ in range(KILLS_A_STAGE)]:
        while True:
            tiny_corpus.running.reset()
            process = Process([*arguments, "--root", str(root)], prefect_api, moment=BEFORE[stage])
            if process.kill_after(rng.random() * length_s / len(BEFORE)):
                moments[process.was_at] += 1
                break
            finished += 1  # it was faster
            assert final_bytes(root) == expected
            shutil.rmtree(root)
    tiny_corpus.running.reset()
    last = Process([*arguments, "--root", str(root)], prefect_api)
    assert last.end() == 0, last.words
    assert final_bytes(root) == expected
    print(f"{moments.total()} kills at {dict(moments)}, {finished} runs ended before, {length_s:.1f} s undisturbed")
    assert moments.total() >= 20
    assert len(moments) >= 6, f"the kills hit only {dict(moments)}"
    versions = VersionStore(Files(str(root)))
    (version,) = versions.list()
    assert verify_version(versions, version) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_asked_to_end_says_so_in_one_line_and_goes_on(number, prefect_api, tiny_corpus, tmp_path):
    arguments = ["--metadata", tiny_corpus.metadata, *as_arguments(tiny_corpus.settings())]
    tiny_corpus.running.reset()
    calm = Process([*arguments, "--root", str(tmp_path / "calm")], prefect_api)
    assert calm.end() == 0, calm.words

    tiny_corpus.running.reset()
    asked = Process([*arguments, "--root", str(tmp_path / "asked")], prefect_api, moment=BEFORE["swap"])
    asked.reached.wait(timeout=_LONGEST_S)
    asked.process.send_signal(number)
    assert asked.end() == 130
    assert asked.words == ["iedit: ended; what is finished stays, and the same command goes on from there\n"]
    tiny_corpus.running.reset()
    last = Process([*arguments, "--root", str(tmp_path / "asked")], prefect_api)
    assert last.end() == 0, last.words
    assert final_bytes(tmp_path / "asked") == final_bytes(tmp_path / "calm")
