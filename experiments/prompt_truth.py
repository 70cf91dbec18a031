"""How often the words of the training pairs are true of their images, which the miniature's site knows."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from flows.config.values import mini
from flows.reporting.version_text import find_version
from miniature.site import Site
from miniature.world import Scene
from storage import Files, VersionStore

_SOURCES: Final = {
    "caption and edit prompt": ("caption", "edit_prompt"),
    "alt texts of both images": ("alt_text", "target_alt_text"),
}
"""What trainings on edit data and on caption data read -> columns for source and target."""


def prompt_truth(root: Path, *, version: str = "latest") -> list[Sequence[str]]:
    """Return for both kinds of words how many of the pairs that are trained on they are true of, source and target.

    True is a text that names, in any language's case and order, the noun and the colour of each thing of the image.
    """
    config = mini()
    site_config = config.data.source.site
    if site_config is None:
        raise SystemExit("the profile mini has no site whose truth could be asked")
    site = Site(seed=site_config.seed, num_urls=site_config.num_urls)
    versions = VersionStore(Files(str(root)))
    info = find_version(versions, version)
    columns = ("url", "target_url", *(name for names in _SOURCES.values() for name in names))
    where = f"({config.train.rows.where or 'sample_id == sample_id'}) and split == 'train'"
    rows = versions.manifest(info, columns=columns, where=where).to_pylist()
    return [
        (
            words,
            f"{len(rows):,}",
            *(
                _share(rows, text, url, site)
                for text, url in zip(names, ("url", "target_url"), strict=True)
            ),
        )
        for words, names in _SOURCES.items()
    ]  # fmt: skip


def _share(rows: Sequence[Mapping[str, Any]], text: str, url: str, site: Site) -> str:
    right = [_names_all(row[text] or "", site.scene(int(Path(urlsplit(row[url]).path).stem))) for row in rows]
    return f"{sum(right) / max(1, len(right)):.1%}"


def _names_all(text: str, scene: Scene) -> bool:
    words = set(re.findall(r"\w+", text.lower()))
    return all({thing.noun, thing.colour} <= words for thing in scene.objects)
