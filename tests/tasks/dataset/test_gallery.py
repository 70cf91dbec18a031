"""One page of pairs that needs nothing else, whatever captions and addresses try."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.planted_pairs import planted
from iedit_model.errors import ConfigError
from iedit_model.imaging.pages import page_environment
from iedit_model.imaging.sheet import mask_overlay
from storage import FilterError, ShardStore, UnknownVersionError, VersionInfo, VersionStore
from tasks.dataset.gallery import GalleryConfig, PageCard, PageColumn, gallery_html, html_page, marked, write_gallery
from tasks.pack.stage import PackConfig

HOSTILE = '</script><script>alert(1)</script> "a red\' bus" </li><img src=x onerror=alert(2)> &lt;'
ROWS = {
    0: {
        "caption": {"caption": HOSTILE},
        "swap": {"edit_prompt": HOSTILE.replace("red", "blue"), "source_diff": HOSTILE}
        | {"swapped_from": "red", "swapped_to": "blue"},
        "plan": {"url": "javascript:alert(3)//"},
    },
    1: {"retrieve": {"directional_similarity": float("nan"), "layout_similarity": 0.25}, "plan": {"url": HOSTILE}},
}


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open and self.open[-1] == "script" else self.words).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[VersionStore, VersionInfo]:
    store = ShardStore.at(tmp_path_factory.mktemp("gallery"))
    return VersionStore(store.files), planted(8, rows=ROWS).build(store, PackConfig())


@pytest.fixture(scope="module")
def page(built) -> Page:
    versions, info = built
    return Page(gallery_html(versions, info.id))


def _pictures(attrs: dict[str, str | None]) -> dict[str, Image.Image]:
    """Return what a card's style shows: name of the variable -> picture."""
    found = re.findall(r"--(\w+):url\(data:image/webp;base64,([A-Za-z0-9+/=]+)\)", attrs["style"] or "")
    return {name: Image.open(io.BytesIO(base64.b64decode(data))) for name, data in found}


def _rows(built) -> list[dict]:
    versions, info = built
    return versions.manifest(info).to_pylist()


def test_each_pair_is_shown_with_its_pictures_masks_words_and_scores(built, page: Page):
    truths = {pair.source_id: pair.truth for pair in planted(8, rows=ROWS).pairs}
    buttons = [attrs for attrs in page.all("button") if attrs.get("class") == "pics"]
    assert len(buttons) == len(_rows(built)) == 8
    text = " ".join(page.words)
    for row, attrs in zip(_rows(built), buttons, strict=True):
        shown, truth = _pictures(attrs), truths[row["sample_id"]]
        assert np.array_equal(np.asarray(shown["s"].convert("RGB")), np.asarray(truth.source.render()))
        assert np.array_equal(np.asarray(shown["t"].convert("RGB")), np.asarray(truth.target.render()))
        for name, scene in (("sm", truth.source), ("tm", truth.target)):
            alpha = np.asarray(shown[name].convert("RGBA"))[1::3, 1::3, 3]  # the middles of the pixels, three a side
            mask = scene.masks()[truth.position]
            assert (alpha[~mask] == round(255 * 0.68)).all()
            assert (alpha[mask] == 0).mean() > 0.9
        assert row["sample_id"] in text
        assert f"{row['similarity']:.3f}" in text
        assert row["target_caption"] in text
    assert sum(name == "del" for name, _ in page.tags) == sum(name == "ins" for name, _ in page.tags) == 8


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(page: Page):
    allowed = {"html", "head", "body", "meta", "title", "link", "style", "header", "h1", "p", "div", "label", "select"}
    allowed |= {"option", "button", "input", "output", "details", "summary", "span", "fieldset", "legend", "main", "ul"}
    allowed |= {"li", "i", "del", "ins", "dl", "dt", "dd", "a", "footer", "script"}
    assert {name for name, _ in page.tags} == allowed
    assert not page.open
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name == "src"]
        assert (attrs.get("href") or "https://").startswith(("https://", "data:,"))
        urls = re.findall(r"url\(([^)]{0,22})", attrs.get("style") or "")
        assert all(url.startswith("data:image/webp;base64") for url in urls)
    (policy,) = [attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert len(page.all("script")) == 2
    assert page.scripts[-1] == page_environment("tasks.dataset").get_template("gallery.js").render()


def test_a_hostile_caption_is_shown_letter_by_letter(page: Page):
    text = "".join(page.words)
    assert HOSTILE in text  # its parts before and after the marked word are one run of text
    assert HOSTILE.replace("red", "blue") in text
    labels = [attrs["aria-label"] for attrs in page.all("button") if attrs.get("class") == "pics"]
    assert f"source, target and their masks: {HOSTILE}" in labels
    assert not [attrs for attrs in page.all("a") if "alert" in (attrs["href"] or "")]
    assert len(page.all("a")) == 16 - 2


def test_the_script_gets_every_score_and_null_for_what_is_none(built, page: Page):
    versions, info = built
    options = re.findall(r'<option value="(\d+)">([^<]+)</option>', gallery_html(versions, info.id))
    names = [name.replace(" ", "_") for _, name in options]
    assert [int(number) for number, _ in options] == list(range(len(options)))
    assert {"similarity", "directional_similarity", "mask_iou", "split", "pos"} <= set(names)
    assert "punsafe" not in names  # never measured
    data = json.loads(page.scripts[0])["rows"]
    for row, values in zip(_rows(built), data, strict=True):
        expected = [None if isinstance(row[name], float) and isnan(row[name]) else row[name] for name in names]
        assert values == expected
    place = names.index("layout_similarity")
    assert sorted(values[place] or 0 for values in data) == [0] * 7 + [0.25]


def test_no_word_ends_the_script_that_holds_it():
    row = dict.fromkeys(("caption", "edit_prompt", "target_caption", "swapped_from", "swapped_to"), "x")
    row |= dict.fromkeys(("source_diff", "target_diff", "sample_id", "url", "target_url"), "x") | {"kind": HOSTILE}
    columns = [PageColumn(name="kind", title=HOSTILE, choices=(HOSTILE,))]
    cards = [PageCard(row=row, images={}, is_small=True)]
    page = Page(html_page(HOSTILE, HOSTILE, cards, columns, footer=HOSTILE))
    assert len(page.scripts) == 2
    assert json.loads(page.scripts[0]) == {"rows": [[HOSTILE]]}
    assert not page.all("img")


def test_a_filter_and_a_limit_choose_the_pairs(built):
    versions, info = built
    some = sorted(row["sample_id"] for row in _rows(built) if row["similarity"] > 0.5)
    assert 1 < len(some) < 8
    page = gallery_html(versions, info.id, GalleryConfig(where="similarity > 0.5", limit=len(some) - 1))
    assert re.findall(r'"about">(\w{20}) ', page) == some[:-1]
    assert f"{len(some)} of them pass the filter similarity &gt; 0.5." in page
    with pytest.raises(FilterError, match="unknown column"):
        gallery_html(versions, info.id, GalleryConfig(where="colour == 'red'"))
    with pytest.raises(UnknownVersionError):
        gallery_html(versions, "zz")


def test_a_damaged_sample_is_shown_as_damaged(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    corpus = planted(3, seed=4)
    cut = (b"\x89PNG\r\n\x1a\n", corpus.pairs[0].target_id)
    info = replace(corpus, images={cut[1]: cut[0]}).build(store, PackConfig())
    versions = VersionStore(store.files)
    page = Page(gallery_html(versions, info.id))
    assert page.words.count("target: damaged") == 1
    row = versions.manifest(info).to_pylist()[0]
    data = bytearray(store.files.read_bytes(row["tar"]))
    data[row["tar_offset"]] ^= 1
    store.files.write_bytes(row["tar"], bytes(data))
    page = Page(gallery_html(versions, info.id))
    assert page.words.count("source mask: damaged") == 1


def test_large_pictures_are_made_small(tmp_path: Path):
    store = ShardStore.at(tmp_path)
    corpus = planted(2, seed=5)
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 800, 3), dtype=np.uint8)).save(stream, "PNG")
    pictures = {corpus.pairs[0].source_id: stream.getvalue()}
    info = replace(corpus, images=pictures).build(store, PackConfig())
    page = Page(gallery_html(VersionStore(store.files), info.id, GalleryConfig(thumb_px=100)))
    sizes = [_pictures(attrs)["s"].size for attrs in page.all("button") if attrs.get("class") == "pics"]
    assert sorted(sizes) == [(64, 64), (100, 50)]


def test_the_file_is_written_whole(built, tmp_path: Path):
    versions, info = built
    path = write_gallery(versions, info.id, tmp_path / "deep" / "gallery.html")
    assert path.read_text() == gallery_html(versions, info.id)
    assert [entry.name for entry in path.parent.iterdir()] == ["gallery.html"]


def test_an_overlay_is_dark_outside_clear_inside_and_has_an_outline():
    mask = np.zeros((200, 200), np.uint8)
    mask[50:100, 60:120] = 255
    overlay = np.asarray(mask_overlay(mask))
    assert overlay.shape == (200, 200, 4)
    inside = np.zeros((200, 200), bool)
    inside[51:99, 61:119] = True
    line = (mask == 255) & ~inside
    assert (overlay[inside][:, 3] == 0).all()
    assert (overlay[line] == (255, 45, 140, 255)).all()
    assert (overlay[mask == 0][:, 3] == round(255 * 0.68)).all()
    half = np.asarray(mask_overlay(np.full((200, 200), 100, np.uint8)))
    assert np.unique(half[..., 3]).tolist() == [round(155 * 0.68)]


@settings(deadline=None, max_examples=150)
@given(before=st.text(max_size=12), old=st.text(max_size=6), new=st.text(max_size=6), after=st.text(max_size=12))
def test_marking_a_word_changes_no_letter(before, old, new, after):
    shown = Page(f"<p>{marked(before + old + after, old, before + new + after, 'del')}</p>")
    expected = re.sub(r"\r\n?", "\n", before + old + after)
    assert re.sub(r"\r\n?", "\n", "".join(shown.words)) == expected
    assert {name for name, _ in shown.tags} <= {"p", "del"}


@pytest.mark.parametrize(
    ("text", "word", "other", "expected"),
    [
        ("a red car and a red bus", "red", "a red car and a blue bus", "a red car and a <del>red</del> bus"),
        ("an orange bus", "orange", "a red bus", "an <del>orange</del> bus"),
        ("a red bus", "red", "a rose bus", "a <del>red</del> bus"),
        ("<b>", "b", "<i>", "&lt;<del>b</del>&gt;"),
        ("a bus", "dog", "a cat", "a bus"),
    ],
)
def test_the_exchanged_word_is_marked_where_the_texts_differ(text, word, other, expected):
    assert marked(text, word, other, "del") == expected


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"thumb_px": 8}])
def test_a_gallery_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        GalleryConfig(**wrong)
