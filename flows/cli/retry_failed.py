"""``iedit retry-failed``: fetch what may still come, and build the version that has it."""

import argparse

from flows.cli import build


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``iedit build``."""
    build.configure(parser)


def run(options: argparse.Namespace) -> int:
    """Ask again, then build on; pictures that are there stay as they are."""
    options.retry_downloads = True
    return build.run(options)
