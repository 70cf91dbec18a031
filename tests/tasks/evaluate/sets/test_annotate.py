"""The page that paints masks: what it shows and takes, whom it refuses, and a real browser that paints."""

import http.client
import io
import json
import re
import shutil
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from iedit_model.imaging.encode import encode_image
from tasks.evaluate.errors import EvalSetError
from tasks.evaluate.sets.annotate import annotation_server
from tasks.evaluate.sets.evalset import EvalSetInfo
from tasks.evaluate.sets.folder import NewPair, open_evalset, replace_masks, write_evalset
from tasks.evaluate.sets.pixels import mask_bytes
from tests.builders.browser_session import browser_session

HOSTILE = "</script><img src=x onerror=document.title='hacked'> \"quoted\" & <b>bold</b>"


@pytest.fixture
def evalset(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    mask = np.zeros((48, 64), bool)
    mask[:, :10] = True
    pairs = [
        NewPair(
            pair_id=name,
            image_id="one",
            image=encode_image(Image.fromarray(pixels)),
            source_prompt=f"source {name} {HOSTILE}",
            edit_prompt=f"edit {name} {HOSTILE}",
            word="bus",
            mask=mask if name == "a" else None,
            mask_origin="predicted" if name == "a" else "none",
        )
        for name in ("a", "b")
    ]
    return write_evalset(tmp_path, EvalSetInfo(name="tiny", origin="real", description="Tiny."), pairs)


@pytest.fixture
def server(evalset):
    with annotation_server(evalset) as address:
        yield urlsplit(address)


def ask(server, method, path, *, body=None, headers=None):
    connection = http.client.HTTPConnection(server.hostname, server.port, timeout=20)
    connection.request(method, path, body=body, headers=headers or {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def token_of(server):
    found = re.search(rb'name="iedit-token" content="([^"]+)"', ask(server, "GET", "/")[1])
    assert found is not None
    return found[1].decode()


def painted(width=64, height=48):
    mask = np.zeros((height, width), bool)
    mask[10:20, 30:50] = True
    return mask


def test_the_page_shows_pictures_and_masks_as_the_set_holds_them(server, evalset):
    listing = json.loads(ask(server, "GET", "/pairs.json")[1])
    assert [pair["origin"] for pair in listing["pairs"]] == ["predicted", "none"]
    assert listing["pairs"][0]["source"] == f"source a {HOSTILE}"
    picture = np.asarray(Image.open(io.BytesIO(ask(server, "GET", "/image/a")[1])))
    np.testing.assert_array_equal(picture, np.asarray(evalset.image(evalset.pairs[0])))
    mask = np.asarray(Image.open(io.BytesIO(ask(server, "GET", "/mask/a")[1])))
    np.testing.assert_array_equal(mask == 255, evalset.mask(evalset.pairs[0]))
    assert not np.asarray(Image.open(io.BytesIO(ask(server, "GET", "/mask/b")[1]))).any()


def test_a_painted_mask_is_written_into_the_set_and_an_empty_one_takes_it_away(server, evalset):
    headers = {"X-Iedit-Token": token_of(server)}
    answer, content = ask(server, "POST", "/mask/b", body=mask_bytes(painted()), headers=headers)
    assert (answer.status, json.loads(content)) == (200, {"origin": "hand", "inside": 200, "pixels": 3072})
    again = open_evalset(evalset.files.root)
    np.testing.assert_array_equal(again.mask(again.pair("b")), painted())
    assert again.pair("b").mask_origin == "hand"
    assert again.pair("a") == evalset.pair("a")
    ask(server, "POST", "/mask/b", body=mask_bytes(np.zeros((48, 64), bool)), headers=headers)
    assert open_evalset(evalset.files.root).pair("b").mask is None


def test_what_another_process_wrote_meanwhile_is_kept(server, evalset):
    replace_masks(evalset, {"a": ~painted()})
    ask(server, "POST", "/mask/b", body=mask_bytes(painted()), headers={"X-Iedit-Token": token_of(server)})
    again = open_evalset(evalset.files.root)
    np.testing.assert_array_equal(again.mask(again.pair("a")), ~painted())
    np.testing.assert_array_equal(again.mask(again.pair("b")), painted())


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", ""])
def test_a_name_from_elsewhere_that_points_here_sees_nothing(server, host):
    answer, content = ask(server, "GET", "/pairs.json", headers={"Host": host})
    assert answer.status == 403
    assert b"source" not in content


def test_without_the_pages_token_nothing_is_written(server, evalset):
    body = mask_bytes(painted())
    token = token_of(server)
    for headers in (
        {},
        {"X-Iedit-Token": "guess"},
        {"X-Iedit-Token": token, "Origin": "http://evil.example"},
        {"X-Iedit-Token": token, "Origin": "null"},
    ):
        assert ask(server, "POST", "/mask/b", body=body, headers=headers)[0].status == 403
    assert open_evalset(evalset.files.root).digest == evalset.digest


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/mask/b", b"no picture", 422),
        ("/mask/b", mask_bytes(np.ones((5, 5), bool)), 422),
        ("/mask/zz", mask_bytes(painted()), 404),
        ("/mask/..%2f..%2fevalset.json", mask_bytes(painted()), 404),
        ("/image/a", b"", 400),
        ("/", b"", 400),
    ],
)
def test_what_is_no_mask_of_a_pair_is_refused(server, evalset, path, body, status):
    answer, content = ask(server, "POST", path, body=body, headers={"X-Iedit-Token": token_of(server)})
    assert answer.status == status
    assert json.loads(content)["error"]
    assert open_evalset(evalset.files.root).digest == evalset.digest


def test_a_body_that_claims_to_be_huge_is_not_read(server):
    headers = {"X-Iedit-Token": token_of(server), "Content-Length": str(10**12)}
    assert ask(server, "POST", "/mask/b", headers=headers)[0].status == 400


@pytest.mark.parametrize("path", ["/etc/passwd", "/image/../../x", "/image/zz", "/mask/", "/evalset.json", "//x"])
def test_addresses_that_are_none_are_not_found(server, path):
    assert ask(server, "GET", path)[0].status == 404


def test_only_this_machine_is_listened_to_and_the_page_may_run_its_own_script_alone(server):
    assert server.hostname == "127.0.0.1"
    answer, content = ask(server, "GET", "/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert b"%TOKEN%" not in content
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_port_that_is_taken_is_named(server, evalset):
    with pytest.raises(EvalSetError, match=str(server.port)), annotation_server(evalset, port=server.port):
        pass


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.timeout(280)
def test_a_real_browser_paints_erases_and_saves(server, evalset, tmp_path):
    with browser_session(server.geturl()) as page:
        page.wait_for("document.getElementById('status')?.textContent === 'no mask yet'")
        assert "bold</b>" in page.evaluate("document.getElementById('words').textContent")
        assert page.evaluate("document.title") == "Paint masks"
        box = page.evaluate(
            "(() => { const b = document.getElementById('mask').getBoundingClientRect();"
            " return [b.left, b.top, b.width, b.height]; })()"
        )
        scale = box[2] / 64
        assert scale == pytest.approx(box[3] / 48, rel=0.01)

        def at(x, y):
            return box[0] + x * scale, box[1] + y * scale

        page.drag(at(12, 24), at(52, 24))
        page.screenshot(tmp_path / "annotate.png")
        page.evaluate("document.getElementById('erase').click()")
        page.drag(at(32, 4), at(32, 44))
        page.evaluate("document.getElementById('save').click()")
        page.wait_for("document.getElementById('status').className === 'good'")
        assert page.console == []
    again = open_evalset(evalset.files.root)
    mask = again.mask(again.pair("b"))
    assert mask is not None
    # The brush is 20 % of half the longer side: 6.4 pixels wide, round at both ends.
    assert mask[24, 14:28].all()
    assert mask[24, 37:50].all()
    assert not mask[:, 31:33].any()
    assert not mask[:18].any()
    assert not mask[30:].any()
    columns = np.flatnonzero(mask.any(axis=0))
    assert columns[0] == pytest.approx(9, abs=1)
    assert columns[-1] == pytest.approx(54, abs=1)
    assert Image.open(tmp_path / "annotate.png").size == (1280, 900)
