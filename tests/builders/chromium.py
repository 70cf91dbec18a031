"""Debian's chromium for tests of pages: its console, the page after its scripts, and images of it."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"),
    *("--disable-dev-shm-usage", "--log-level=0", "--virtual-time-budget=4000"),
)


def chromium(*arguments: str, timeout: float = 90) -> tuple[str, list[str]]:
    """Run the browser once and return its output and the lines of its console."""
    assert BROWSER is not None
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        done = subprocess.run(
            [BROWSER, *_FLAGS, f"--user-data-dir={profile}", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=os.environ | {"HOME": profile},
        )
    console = re.findall(r"CONSOLE[^\]]*\] \"(.*)\", source", done.stderr)
    return done.stdout, console


def page_after_scripts(address: str, *, width: int = 1280) -> tuple[str, list[str]]:
    """Return the page's HTML after its scripts ran, and what it said on its console."""
    return chromium(f"--window-size={width},900", "--dump-dom", address)


def screenshot(address: str, path: Path, *, width: int, height: int) -> None:
    """Take a screenshot of a page."""
    chromium(f"--window-size={width},{height}", f"--screenshot={path}", address)
    assert path.is_file()
