"""The picture site of a build: started, shared, refused where something else is, and gone with whoever started it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.config.tree import SiteConfig, SourceConfig
from flows.errors import SourceError
from flows.sources import open_source
from miniature.web import Site, metadata_table, serve

URLS = 6


@pytest.fixture
def port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def site_of(port: int, seed: int = 3) -> SiteConfig:
    return SiteConfig(port=port, num_urls=URLS, seed=seed)


def test_a_site_serves_its_metadata_and_pictures_for_as_long_as_the_block(port):
    with open_source(SourceConfig(site=site_of(port))) as folder:
        (file,) = Path(folder).iterdir()
        expected = metadata_table(Site(num_urls=URLS), base_url=f"http://127.0.0.1:{port}")
        assert pq.read_table(file) == expected
        with urllib.request.urlopen(expected["URL"][0].as_py(), timeout=30) as answer:  # noqa: S310 - our own site
            assert answer.status == 200
    assert not is_open(port)
    assert not Path(folder).exists()


def test_an_address_is_given_as_it_is_and_nothing_is_started(port):
    with open_source(SourceConfig(metadata="s3://bucket/laion")) as address:
        assert address == "s3://bucket/laion"
    with open_source(SourceConfig(metadata="elsewhere", site=site_of(port))) as address:
        assert address == "elsewhere"
        assert is_open(port)


def test_neither_address_nor_site_is_an_error():
    with pytest.raises(SourceError, match="--metadata"), open_source(SourceConfig()):
        pass


def test_a_site_that_runs_already_is_used_and_left_running():
    with serve(Site(num_urls=URLS)) as running:
        port = int(running.base_url.rpartition(":")[2])
        with open_source(SourceConfig(site=site_of(port))) as folder:
            assert len(list(Path(folder).iterdir())) == 1
        assert is_open(port)


def test_another_world_at_the_port_is_refused():
    with serve(Site(num_urls=URLS)) as running:
        port = int(running.base_url.rpartition(":")[2])
        with (
            pytest.raises(SourceError, match=f"port {port} is taken"),
            open_source(SourceConfig(site=site_of(port, 4))),
        ):
            pass


@contextmanager
def listening(server: HTTPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Other(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *arguments: object) -> None:  # type: ignore[override]
        """Say nothing."""


def test_a_port_that_something_else_has_is_told_with_the_way_out():
    with listening(HTTPServer(("127.0.0.1", 0), Other)) as port:
        with pytest.raises(SourceError) as caught, open_source(SourceConfig(site=site_of(port))):
            pass
        assert str(port) in str(caught.value)
        assert "source.site.port" in str(caught.value)
        assert "allowed_hosts" in str(caught.value)


@pytest.mark.parametrize("said", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"\x00\xff" * 9])
def test_what_does_not_speak_http_is_something_else(said):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(said)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(SourceError, match="taken"), open_source(SourceConfig(site=site_of(port))):
            pass
        listener.shutdown(socket.SHUT_RDWR)


def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serve(Site(num_urls=URLS)) as running:
        port = int(running.base_url.rpartition(":")[2])
        with open_source(SourceConfig(site=site_of(port))) as folder:
            assert len(list(Path(folder).iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_site_ends_when_its_starter_is_killed(port, number):
    program = (
        "from flows.config.tree import SiteConfig, SourceConfig; from flows.sources import open_source; import time\n"
        f"with open_source(SourceConfig(site=SiteConfig(port={port}, num_urls={URLS}))):\n"
        "    print('up', flush=True); time.sleep(300)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"up\n"
    assert is_open(port)
    os.kill(starter.pid, number)
    starter.wait(timeout=30)
    end = time.monotonic() + 30
    while is_open(port) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_open(port)
