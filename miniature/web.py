"""The miniature's web site: the picture world as LAION's metadata and a server that has the faults of the web.

``python -m miniature.web`` starts it for a person to look at in a browser. In Python::

    site = Site(seed=3, num_urls=200)
    with serve(site) as running:
        write_metadata("metadata", site=site, base_url=running.base_url)

The parts: ``faults`` (the kinds), ``plan`` (what is where), ``pictures`` and ``bodies`` (the bytes), ``site`` (the
truth of each URL), ``metadata`` (parquet), ``visits``, ``answers``, ``handler``, ``server`` (HTTP), ``gallery`` (page).
"""

import argparse
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from miniature.errors import MiniatureError
from miniature.faults import KINDS, FaultShares
from miniature.metadata import metadata_table, truth_table, write_metadata
from miniature.plan import MetadataShares
from miniature.server import RunningSite, serve
from miniature.site import Site, UrlTruth

__all__ = [
    "KINDS",
    "FaultShares",
    "MetadataShares",
    "RunningSite",
    "Site",
    "UrlTruth",
    "main",
    "metadata_table",
    "serve",
    "truth_table",
    "write_metadata",
]


def main(arguments: list[str] | None = None) -> int:
    """Serve a site until Ctrl-C; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m miniature.web", description="Serve the picture world as a small web with its faults."
    )
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--urls", type=int, default=Site.num_urls, help="picture URLs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=Site.seed, help="which site and world (default: %(default)s)")
    parser.add_argument("--metadata", type=Path, metavar="DIR", help="also write the parquet shards into this folder")
    parser.add_argument(
        "--until-eof", action="store_true", help="end when standard input does, so when whoever started it is gone"
    )
    options = parser.parse_args(arguments)
    try:
        _serve_until_interrupted(options)
    except MiniatureError as error:
        print(f"miniature.web: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ended")
    return 0


def _serve_until_interrupted(options: Any) -> None:
    site = Site(seed=options.seed, num_urls=options.urls)
    # A shell that starts a command in the background has it ignore Ctrl-C's signal, and nothing could end it cleanly.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with serve(site, port=options.port) as running:
        if options.metadata is not None:
            paths = write_metadata(options.metadata, site=site, base_url=running.base_url)
            print(f"wrote {len(site.plan.rows):,} rows to {len(paths)} parquet file(s) in {options.metadata}")
        print(f"serving {site.num_urls:,} URLs at {running.base_url}/ (Ctrl-C ends)", flush=True)
        if options.until_eof:
            sys.stdin.buffer.read()
        else:
            threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
