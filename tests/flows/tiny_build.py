"""A build small enough for a test: its site, its settings, and what lies under its root afterwards."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from miniature.web import RunningSite, UrlTruth
from storage import sample_id

SHARD_SIZE: Final = 40


@dataclass(frozen=True, kw_only=True)
class TinyCorpus:
    """A site that runs, and the metadata that names its pictures."""

    running: RunningSite
    metadata: str

    @property
    def host(self) -> str:
        """Return the site as ``download.fetch.allowed_hosts`` names it."""
        return self.running.base_url.removeprefix("http://")

    def settings(self, **others: Any) -> dict[str, Any]:
        """Return the settings of a tiny build; a name in ``others`` has ``__`` where the setting has a dot."""
        return {
            "data.source.site": None,
            "data.download.fetch.allowed_hosts": [self.host],
            "data.download.retry.base_s": 0.01,
            "data.plan.shard_size": SHARD_SIZE,
            "data.swap.min_corpus_count": 3,
            # So few pictures hold hardly a good target: the gates of a real corpus would leave no pair.
            "data.retrieve.gates.target_text_min": None,
            "data.retrieve.gates.directional_min": None,
            "data.mask.gates.min_area": None,
            "data.mask.gates.min_outside_similarity": None,
            "data.mask.threshold": 0.3,
            **{name.replace("__", "."): value for name, value in others.items()},
        }

    def truths(self) -> dict[str, UrlTruth]:
        """Return sample id -> the truth of its URL."""
        site = self.running.site
        return {sample_id(self.running.url(index)): site.truth(index) for index in range(site.num_urls)}


def as_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as arguments of the command line."""
    return [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]


def final_bytes(root: Path) -> dict[str, str]:
    """Return path -> sha256 of every file under a root but for leftovers and logs, which say how a run went.

    A marker is taken without the time that the work took and the files that are logs.
    """
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or path.name.endswith(".partial") or ".log." in path.name:
            continue
        data = path.read_bytes()
        if name.endswith(".done.json"):
            data = _without_circumstances(data)
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _without_circumstances(marker: bytes) -> bytes:
    content = json.loads(marker)
    del content["seconds"], content["checksum"]
    content["files"] = {suffix: entry for suffix, entry in content["files"].items() if not suffix.startswith("log.")}
    if content["stage"] == "download":
        content["extra"] = {}  # how often what was tried
    return json.dumps(content, sort_keys=True).encode()
