"""The command line `iedit`: each module has its commands in `COMMANDS`; `flows.cli.main` finds them."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: ``flows.cli.main.main``, for whoever calls the command line in Python."""
    from flows.cli.main import main as run

    return run(arguments)
