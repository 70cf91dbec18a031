"""The front page for people, and the command that serves it."""

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from miniature.faults import KINDS, FaultShares
from miniature.gallery import PER_PAGE, gallery_page, thumbnail
from miniature.server import serve
from miniature.site import Site
from miniature.web import main

SITE = Site(num_urls=200)


class Page(HTMLParser):
    """What a reader sees of a page: tags with their attributes, and the texts of alt paragraphs and badges."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"alt": [], "badge": []}
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        name = (dict(attrs).get("class") or "").split(" ")[0]
        if name in self.texts:
            self._inside = name
            self.texts[name].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "span"):
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def fetch(url: str) -> bytes:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    try:
        connection.request("GET", f"{parts.path or '/'}?{parts.query}")
        response = connection.getresponse()
        assert response.status == 200
        return response.read()
    finally:
        connection.close()


def test_the_pages_together_show_every_url_once_with_its_text_and_badge() -> None:
    shown = []
    for number in range(1, 5):
        page = Page(gallery_page(SITE, page=number))
        images = page.all("img")
        assert len(images) == min(PER_PAGE, 200 - PER_PAGE * (number - 1))
        for image, text, badge in zip(images, page.texts["alt"], page.texts["badge"], strict=True):
            index = int(re.findall(r"\d+", image["src"] or "")[0])
            truth = SITE.truth(index)
            shown.append(index)
            assert image["loading"] == "lazy"
            assert image["alt"] == truth.alt_text.strip()
            assert text == (truth.alt_text.strip() or "no alt text")
            assert badge == truth.kind.replace("_", " ")
    assert shown == list(range(200))


def test_markup_in_an_alt_text_stays_text() -> None:
    assert any("<script>" in SITE.truth(index).alt_text for index in range(200))
    for number in range(1, 5):
        tags = {tag for tag, _ in Page(gallery_page(SITE, page=number)).tags}
        assert "script" not in tags
        assert "ul" in tags


def test_the_page_loads_nothing_from_elsewhere_and_links_to_no_hostile_address() -> None:
    site = Site(num_urls=60, faults=FaultShares.only(private_url=0.3, local_file=0.3, redirect_private=0.2))
    text = gallery_page(site)
    page = Page(text)
    links = [a["href"] or "" for a in page.all("a")] + [image["src"] or "" for image in page.all("img")]
    assert all(link.startswith("/") and not link.startswith("//") for link in links)
    assert not re.search(r"url\(|@import|<script|<iframe|<object", text)
    assert [link["href"] for link in page.all("link")] == ["data:,"]


def test_choosing_a_kind_shows_that_kind_only() -> None:
    for kind, count in SITE.counts().items():
        page = Page(gallery_page(SITE, kind=kind))
        assert len(page.all("img")) == min(count, PER_PAGE)
        assert set(page.texts["badge"]) <= {kind.replace("_", " ")}
        current = [a for a in page.all("a") if a.get("aria-current")]
        assert [a["href"] for a in current] == ([f"/?kind={kind}"] if count else [])


def test_a_page_number_beyond_the_end_gives_the_last_page() -> None:
    assert gallery_page(SITE, page=999) == gallery_page(SITE, page=4)
    assert gallery_page(SITE, page=0) == gallery_page(SITE, page=1)


def test_every_link_of_the_page_works() -> None:
    with serve(SITE) as running:
        page = Page(fetch(f"{running.base_url}/?kind=fine").decode())
        links = {a["href"] or "" for a in page.all("a")} | {image["src"] or "" for image in page.all("img")}
        assert len(links) > 60
        for link in links:
            assert fetch(running.base_url + link)


def test_a_thumbnail_keeps_the_shape() -> None:
    for index in range(60):
        picture = SITE.picture(index)
        small = thumbnail(picture)
        assert max(small.width, small.height) == 256
        # Rounding to whole pixels moves the ratio by at most half a pixel in the shorter side.
        assert abs(small.width * picture.height - small.height * picture.width) <= max(picture.width, picture.height)


def test_the_site_has_a_colour_for_every_outcome() -> None:
    text = gallery_page(SITE)
    for kind in KINDS.values():
        assert f"--{kind.outcome}:" in text
        assert f".{kind.outcome}{{" in text


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "miniature.web", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_interrupted_and_ends_cleanly(tmp_path: Path, number: int) -> None:
    process = start("--urls", "30", "--seed", "5", "--metadata", str(tmp_path / "meta"))
    try:
        assert process.stdout is not None
        wrote, serving = process.stdout.readline(), process.stdout.readline()
        base_url = re.findall(r"http://[\d.]+:\d+", serving)[0]
        urls = pq.read_table(str(tmp_path / "meta" / "00000.parquet")).column("URL").to_pylist()
        site = Site(seed=5, num_urls=30)
        assert f"wrote {len(urls)} rows to 1 parquet file" in wrote
        fine = next(index for index in range(30) if site.kind(index) == "fine")
        assert site.url(fine, base_url) in urls
        assert fetch(site.url(fine, base_url)) == site.image_bytes(fine)
        process.send_signal(number)
        out, err = process.communicate(timeout=100)
        assert (process.returncode, out, err) == (0, "ended\n", "")
    finally:
        process.kill()
        process.communicate()


def test_wrong_use_is_one_line_and_a_failure_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with serve(Site(num_urls=3, faults=FaultShares.only())) as running:
        port = running.base_url.rpartition(":")[2]
        assert main(["--port", port, "--urls", "3"]) == 1
        assert f"cannot serve at 127.0.0.1:{port}" in one_line(capsys)
    assert main(["--urls", "0"]) == 1
    assert "num_urls is 0" in one_line(capsys)
    (tmp_path / "taken").write_text("x")
    assert main(["--port", "0", "--urls", "3", "--metadata", str(tmp_path / "taken")]) == 1
    assert "cannot write metadata to" in one_line(capsys)
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
        signal.signal(number, handler)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("miniature.web: ")
    assert error.count("\n") == 1
    return error


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def browse(url: str, folder: Path, *options: str) -> str:
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    command = [CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet]
    done = subprocess.run(
        [*command, f"--user-data-dir={folder}", *options, url], capture_output=True, text=True, timeout=200, check=True
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_a_real_browser_builds_the_page_as_planned(tmp_path: Path) -> None:
    with serve(SITE) as running:
        page = Page(browse(running.base_url, tmp_path / "a", "--dump-dom"))
    assert len([li for li in page.all("li") if "card" in (li["class"] or "")]) == PER_PAGE
    assert page.texts["badge"] == [SITE.kind(index).replace("_", " ") for index in range(PER_PAGE)]
    assert page.texts["alt"] == [SITE.truth(index).alt_text.strip() or "no alt text" for index in range(PER_PAGE)]
    assert not page.all("script")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_real_browser_draws_the_pictures(tmp_path: Path, width: int) -> None:
    shot = tmp_path / "shot.png"
    with serve(Site(num_urls=12, faults=FaultShares.only())) as running:
        browse(running.base_url, tmp_path / "a", f"--window-size={width},1600", f"--screenshot={shot}")
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB"), np.int16)
    # The page itself is grey; only pictures are as colourful as this over a good part of the window.
    colourful = (pixels.max(2) - pixels.min(2) > 60).mean()
    assert pixels.shape[1] == width
    assert colourful > 0.03
