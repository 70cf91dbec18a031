"""The miniature's web site in a process of its own, so that its CPU time is not counted as ours."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from miniature.web import Site, serve


@contextmanager
def site_process(site: Site, *, port: int) -> Iterator[str]:
    """Serve a site and give its address; it ends with the block, or with this process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(site, port, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join(timeout=10)
        process.terminate()


def _serve(site: Site, port: int, parent: Connection) -> None:
    with serve(site, port=port) as running:
        parent.send(running.base_url)
        try:
            parent.recv()  # ends when the other side closes
        except EOFError:
            return
