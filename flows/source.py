"""Where a build's metadata comes from: an address, or the picture world's own site, started for as long as needed."""

import http.client
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from flows.config.tree import SITE_HOST, SiteConfig, SourceConfig
from flows.errors import SourceError
from miniature.web import Site, write_metadata

_START_S: Final = 60.0
_POLL_S: Final = 0.1
_ONE_FILE: Final = "/metadata/00000.parquet"
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks without the proxies of the environment, which know nothing of this machine's own ports."""


@contextmanager
def open_source(source: SourceConfig) -> Iterator[str]:
    """Give the address of the metadata while what it points at can be fetched.

    Raises:
        SourceError: neither an address nor a site is configured, or the site cannot be started.
    """
    if source.site is None:
        if source.metadata is None:
            raise SourceError("no metadata is given: name a parquet file or folder (data.source.metadata, --metadata)")
        yield source.metadata
        return
    with tempfile.TemporaryDirectory(prefix="iedit-metadata-") as folder, _serving(source.site) as base_url:
        if source.metadata is not None:
            yield source.metadata
        else:
            site = Site(seed=source.site.seed, num_urls=source.site.num_urls)
            write_metadata(Path(folder), site=site, base_url=base_url)
            yield folder


@contextmanager
def _serving(config: SiteConfig) -> Iterator[str]:
    """Start the site in a process of its own, or use the one that already serves the same world at the same port."""
    base_url = f"http://{SITE_HOST}:{config.port}"
    if _is_open(config):
        if _is_same_site(config, base_url):
            yield base_url
            return
        raise SourceError(
            f"port {config.port} is taken by something else: end it, or choose another with "
            f"data.source.site.port=N and data.download.fetch.allowed_hosts=['{SITE_HOST}:N']"
        )
    command = [sys.executable, "-m", "miniature.web", "--port", str(config.port)]
    command += ["--urls", str(config.num_urls), "--seed", str(config.seed), "--until-eof"]
    # A session of its own spares it a Ctrl-C meant for us; the end of its input ends it even when we are killed.
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and numbers
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _wait_until_open(process, config)
        yield base_url
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_open(process: "subprocess.Popen[bytes]", config: SiteConfig) -> None:
    end = time.monotonic() + _START_S
    while not _is_open(config):
        if process.poll() is not None:
            said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
            raise SourceError(f"the picture site ended at its start: {said.splitlines()[-1] if said else 'no message'}")
        if time.monotonic() > end:
            raise SourceError(f"the picture site did not answer at port {config.port} within {_START_S:.0f} s")
        time.sleep(_POLL_S)


def _is_open(config: SiteConfig) -> bool:
    try:
        with socket.create_connection((SITE_HOST, config.port), timeout=2):
            return True
    except OSError:
        return False


def _is_same_site(config: SiteConfig, base_url: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="iedit-metadata-") as folder:
        site = Site(seed=config.seed, num_urls=config.num_urls)
        ours = write_metadata(Path(folder), site=site, base_url=base_url)[0].read_bytes()
    try:
        with _DIRECT.open(base_url + _ONE_FILE, timeout=10) as answer:
            return answer.read(len(ours) + 1) == ours
    except (OSError, http.client.HTTPException):  # nobody answers, or it does not speak HTTP
        return False
