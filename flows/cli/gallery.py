"""``iedit gallery``: one self-contained page of pairs."""

import argparse
from pathlib import Path

from flows.cli.options import add_root


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_root(parser)
    parser.add_argument("version", help="id of the version, the start of one, or latest")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="page to write (default: VERSION.html)")
    parser.add_argument("--limit", type=int, default=200, help="most pairs on the page (default: %(default)s)")
    parser.add_argument("--where", metavar="FILTER", help="only pairs like \"split == 'val' and similarity > 0.8\"")


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    from flows.reporting.version_text import find_version
    from storage import Files, VersionStore
    from tasks.dataset.gallery import GalleryConfig, write_gallery

    versions = VersionStore(Files(options.root))
    info = find_version(versions, options.version)
    config = GalleryConfig(limit=options.limit, where=options.where)
    path = options.out or Path(f"{info.id}.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    print(write_gallery(versions, info.id, path, config))
    return 0
