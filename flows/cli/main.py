"""The command line ``iedit``: a table of commands; each module is loaded when its command is given.

Exit codes: 0 done, 1 an error that one line explains, 2 wrong usage, 130 ended by Ctrl-C, SIGTERM or a hang-up.
"""

import argparse
import importlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NoReturn

from flows.cli.options import Command
from flows.errors import one_line

COMMANDS: Final = {
    "demo": ("full", "build, fine-tune, evaluate and report on the miniature"),
    "build": ("build", "build a dataset of editing pairs from LAION-style metadata"),
    "retry-failed": ("build", "ask again for images that failed for a transient reason, and build on"),
    "datasets": ("datasets", "list, show, compare, check, describe and clean up dataset versions"),
    "gallery": ("datasets", "write a page of a version's pairs to look at"),
    "train": ("train", "fine-tune a model on a dataset version"),
    "edit": ("edit", "edit images with words"),
    "evaluate": ("evaluate", "compare a trained model with the baselines, and write the report"),
    "evalset": ("evalset", "make, import, look at and annotate evaluation sets"),
    "history": ("evaluate", "what a model reached over time, against its pinned baseline"),
    "reproduce": ("full", "the paper's tables from one command"),
    "serve": ("serve", "start server, work pool, deployments and worker on this machine"),
    "config": ("serve", "print a profile's configuration as YAML"),
}
"""Command -> the module of ``flows.cli`` that has it in its own ``COMMANDS``, and what it does."""

_QUIET: Final = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
_WITH_LOG: Final = ("serve",)
"""Commands that keep the orchestrator's log: the flow runs of their worker inherit it, and the page shows it."""


_AGAIN_S: Final = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold what no encoding can write
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    command = next((word for word in given if not word.startswith("-")), None)
    if command not in COMMANDS:
        if parser.parse_args(given).version:  # prints the help or the error itself, and leaves
            from importlib.metadata import version

            print(f"iedit {version('iedit')}")
            return 0
        parser.print_help(sys.stderr)
        return 2
    found = _command(command)
    found.configure(parser.commands[command])
    options = parser.parse_args(given)
    if not options.debug and command not in _WITH_LOG:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
    with _ended_alike():
        return _run(found, options)


class _Parser(argparse.ArgumentParser):
    """The parser of ``iedit`` with those of its commands."""

    commands: dict[str, argparse.ArgumentParser]


def _parser() -> _Parser:
    parser = _Parser(
        prog="iedit",
        description="Localised text-guided image editing with weak supervision: datasets, training, editing.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=argparse.ArgumentParser)
    parser.commands = {}
    for name, (_, words) in COMMANDS.items():
        command = subparsers.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
        command.add_argument("--debug", action="store_true", help="show tracebacks and the log of the orchestrator")
        parser.commands[name] = command
    return parser


def _command(name: str) -> Command:
    return importlib.import_module(f"flows.cli.{COMMANDS[name][0]}").COMMANDS[name]


def _run(command: Command, options: argparse.Namespace) -> int:
    try:
        return command.run(options)
    except KeyboardInterrupt:
        print("iedit: ended; what is finished stays, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 0
    except Exception as error:  # noqa: BLE001 - the last boundary: what nobody expected is one line, too
        if options.debug:
            traceback.print_exc()
        said = one_line(str(error)) or type(error).__name__
        if not isinstance(error, _known_errors()) and not _is_disk_full(error):
            said = f"this is a fault of iedit, not of yours ({type(error).__name__}: {said}); --debug shows where"
        print(f"iedit: {said}", file=sys.stderr)
        return 1


def _is_disk_full(error: BaseException) -> bool:
    """Return whether a library's own error says that no room is left, where no writer of ours stands between."""
    from storage.atomic import is_disk_full

    return is_disk_full(error)


@contextmanager
def _ended_alike() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the command as Ctrl-C does, unless they are ignored (``nohup``)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for name, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(name, _end)
    sys.unraisablehook = _end_again
    try:
        yield
    finally:
        sys.unraisablehook = sys.__unraisablehook__
        for name, handler in before.items():
            signal.signal(name, handler)


class _EndedError(KeyboardInterrupt):
    """A signal that ends the command; Python kills itself at its exit for the plain class, though it was caught."""


def _end(number: int, _: object) -> NoReturn:
    raise _EndedError(number)


def _end_again(ignored: "sys.UnraisableHookArgs") -> None:
    """Send a signal again whose exception was raised where Python ignores all of them, in a callback for instance."""
    if isinstance(ignored.exc_value, _EndedError):
        threading.Timer(_AGAIN_S, os.kill, (os.getpid(), ignored.exc_value.args[0])).start()
    else:
        sys.__unraisablehook__(ignored)


def _known_errors() -> tuple[type[BaseException], ...]:
    """Return the roots of the errors that we raise on purpose, and of those of disk and network; nothing heavy."""
    from flows.errors import FlowError
    from iedit_model.errors import IEditError
    from miniature.errors import MiniatureError
    from storage.errors import StorageError
    from tasks.errors import TaskError

    return (FlowError, IEditError, MiniatureError, StorageError, TaskError, OSError)


if __name__ == "__main__":
    sys.exit(main())
