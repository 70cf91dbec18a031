"""What every benchmark prints first and last: where it ran, on which code, and a table of ratios."""

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

CONSOLE = Console(width=110)


def print_provenance(theme: str) -> None:
    """Print the theme, the commit and the hardware."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    CONSOLE.print(f"[bold]{theme}[/]  commit {commit.stdout.strip() or 'unknown'}  Python {platform.python_version()}")
    CONSOLE.print(f"{_cpu()}, {_num_cores()} cores")


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one table."""
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    CONSOLE.print(table)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _num_cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
