"""What the tests of a whole build share: one Prefect server for all workers, and a small web site to crawl."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from miniature.errors import SiteAddressError
from miniature.web import FaultShares, RunningSite, Site, serve, write_metadata
from tests.flows.shared_server import shared_prefect_server
from tests.flows.tiny_build import TinyCorpus

# As the command line does, and like it before Prefect is imported.
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")

FIRST_PORT = 18_720
FAULTS = FaultShares.only(
    copy=0.03, near_copy=0.03, moved=0.04, error_once=0.02, not_found=0.06, html=0.02, empty=0.01, bomb=0.01, noai=0.02
)
"""The faults of the web that cost no waiting."""


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of the one server of this test run."""
    base = tmp_path_factory.getbasetemp()
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    with shared_prefect_server((base.parent if is_worker else base) / "prefect") as url:
        yield url


@pytest.fixture(scope="session")
def prefect(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have the flows of this process talk to the shared server."""
    from prefect.settings import (  # noqa: TID251 - the tests of flows/ need what flows/ do
        PREFECT_API_URL,
        PREFECT_HOME,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    home = tmp_path_factory.mktemp("prefect_home")
    with temporary_settings({PREFECT_API_URL: prefect_api, PREFECT_HOME: home, PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyCorpus]:
    """Serve the tiny site and write its metadata."""
    folder = tmp_path_factory.mktemp("tiny_corpus")
    with _served(Site(num_urls=120, faults=FAULTS)) as running:
        write_metadata(folder, site=running.site, base_url=running.base_url)
        yield TinyCorpus(running=running, metadata=str(folder))


@contextmanager
def _served(site: Site) -> Iterator[RunningSite]:
    # Each worker has a port of its own, usually the same in every run: the addresses decide the sample ids.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    with ExitStack() as stack:
        for port in range(FIRST_PORT + int(worker), FIRST_PORT + 1000, 50):
            with suppress(SiteAddressError):
                running = stack.enter_context(serve(site, port=port))
                break
        else:
            raise SiteAddressError(f"no port from {FIRST_PORT} on is free for the tests")
        yield running
