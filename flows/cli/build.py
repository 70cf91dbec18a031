"""``iedit build``: metadata to a dataset version; ``iedit retry-failed`` asks again for what failed on the way."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.cli.options import Command, add_config, add_root, config_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser, recipe=True)
    add_root(parser)
    parser.add_argument("--metadata", help="LAION-style parquet: a file, folder or pattern at any fsspec address")
    parser.add_argument("--shards", metavar="A:B", help="only these shards of the plan, the end excluded")
    parser.add_argument(
        "--dry-run", action="store_true", help="build a sample (1 %% or 400 URLs) aside; print yield, time and disk"
    )
    parser.add_argument("--json", action="store_true", help="events on standard error and the result as JSON")


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the changes of the profile's configuration."""
    from flows.config.profiles import BUILD

    return config_of(options, BUILD, metadata=options.metadata)


def run(options: argparse.Namespace) -> int:
    """Build and print the version."""
    from flows.checks import check_build
    from flows.config.profiles import resolve

    config = changes(options)
    resolved = resolve(options.profile, config, recipe=options.recipe, metadata=options.metadata)
    check_build(resolved, options.root, shards=options.shards)
    if options.dry_run:
        return _dry_run(options, config)
    from flows.server import orchestrator

    with progress_output(as_json=options.json), orchestrator():
        from flows.build_dataset import build_dataset

        version = build_dataset(
            options.root,
            profile=options.profile,
            recipe=options.recipe,
            metadata=options.metadata,
            config=config,
            shards=options.shards,
            retry_downloads=getattr(options, "retry_downloads", False),
        )
    _print_result(options, version)
    return 0


def retry_failed(options: argparse.Namespace) -> int:
    """Ask again for images that failed for a transient reason, then build on; images that are there stay."""
    options.retry_downloads = True
    return run(options)


def _dry_run(options: argparse.Namespace, config: dict[str, Any]) -> int:
    from flows.dry_run import estimate, estimate_lines
    from flows.server import orchestrator

    with progress_output(as_json=options.json), orchestrator():
        found = estimate(options.profile, config, recipe=options.recipe, metadata=options.metadata)
    if options.json:
        print(json.dumps(found.as_values()))
    else:
        print("\n".join(estimate_lines(found)))
    return 0


@contextlib.contextmanager
def progress_output(*, as_json: bool) -> Iterator[None]:
    """Show the progress of the flows that run inside: bars on a terminal, lines in a log, JSON for machines."""
    from flows.reporting.progress import JsonLines, PlainLines, rich_bars, shown

    if as_json:
        with shown(JsonLines()):
            yield
    elif sys.stderr.isatty():
        print("starting ...", end="\r", file=sys.stderr, flush=True)
        with rich_bars() as bars, shown(bars):
            yield
    else:
        with shown(PlainLines()):
            yield


def _print_result(options: argparse.Namespace, version: str) -> None:
    from flows.reporting.version_text import funnel_lines
    from storage import Files, VersionStore

    info = VersionStore(Files(options.root)).load(version)
    if options.json:
        funnel = [
            {"stage": record.stage, "in": record.num_in, "out": record.num_out, "dropped": dict(record.dropped)}
            for record in info.stages
        ]
        result = {"version": info.id, "samples": info.num_samples, "splits": dict(info.splits), "funnel": funnel}
        print(json.dumps(result))
        return
    print("\n".join(funnel_lines(info)))
    print(f"version {info.id}: {info.num_samples:,} pairs in {_shown_root(options.root)}")
    print(f"look at it: iedit gallery {info.id} --root {options.root}")


def _shown_root(root: str) -> str:
    return root if "://" in root else str(Path(root).resolve())


COMMANDS = {"build": Command(configure, run, changes), "retry-failed": Command(configure, retry_failed, changes)}
