"""The process that decodes images: its limits hold, and what ends it costs one image."""

import io
import os
import signal
import struct
import time
import zlib
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from iedit_model.errors import ImageDecoderError, ImageFileError, ImageTooCostlyError
from iedit_model.imaging import decoder_process
from iedit_model.imaging.decode import ImageLimits, decode_image
from iedit_model.imaging.decoder_process import Header, run_limited
from tasks.download.errors import FetchError
from tasks.download.image_body import ImageConfig, clean_image


def echo(header: Header, data: bytes) -> tuple[Header, bytes]:
    return header | {"pid": os.getpid()}, data[::-1]


def spin(header: Header, data: bytes) -> tuple[Header, bytes]:
    while True:
        pass


def grow(header: Header, data: bytes) -> tuple[Header, bytes]:
    np.ones(header["bytes"], np.uint8)
    return {}, b""


def fail(header: Header, data: bytes) -> tuple[Header, bytes]:
    raise KeyError("of a bug")


def _pid() -> int:
    header, data = run_limited(echo, {"x": [1]}, b"ab")
    assert (header["x"], data) == ([1], b"ba")
    return header["pid"]


def test_a_process_is_used_again_and_its_limit_of_time_ends_it_but_nobody_else() -> None:
    first = _pid()
    assert first == _pid() != os.getpid()
    start = time.monotonic()
    with pytest.raises(ImageTooCostlyError, match="1 s of processor time"):
        run_limited(spin, {}, b"", cpu_s=1)
    assert time.monotonic() - start < 30
    assert _pid() != first


def test_the_time_of_earlier_images_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    _pid()
    for _ in range(3):
        run_limited(work, {"seconds": 0.8}, b"", cpu_s=1)


def work(header: Header, data: bytes) -> tuple[Header, bytes]:
    end = time.process_time() + header["seconds"]
    while time.process_time() < end:
        pass
    return {}, b""


def test_more_memory_than_an_image_may_take_is_refused_and_the_process_goes_on() -> None:
    first = _pid()
    run_limited(grow, {"bytes": 1 << 28}, b"")
    for _ in range(2):
        with pytest.raises(ImageTooCostlyError, match="memory"):
            run_limited(grow, {"bytes": 8 << 30}, b"")
    assert first == _pid()


def test_a_process_that_somebody_ended_is_replaced() -> None:
    first = _pid()
    os.kill(first, signal.SIGKILL)
    assert _pid() != first


def test_a_bug_is_no_image() -> None:
    with pytest.raises(ImageDecoderError, match="KeyError"):
        run_limited(fail, {}, b"")


def _pid_into(pipe: Any) -> None:
    pipe.send(_pid())


def test_a_fork_has_processes_of_its_own() -> None:
    first = _pid()
    here, there = get_context("fork").Pipe()
    child = get_context("fork").Process(target=_pid_into, args=(there,))
    child.start()
    assert here.poll(60)
    assert here.recv() != first
    child.join()
    assert first == _pid()


def test_the_process_ends_with_its_parent() -> None:
    here, there = get_context("spawn").Pipe()
    child = get_context("spawn").Process(target=_pid_into, args=(there,))
    child.start()
    assert here.poll(60)
    pid = here.recv()
    child.join()
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or b"\0" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        time.sleep(0.1)
    raise AssertionError(pid)


def _jpeg_of_scans(side: int, scans: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), (9, 99, 200)).save(out, "JPEG", progressive=True, quality=30)
    data = out.getvalue()
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def _gif_of_comments(count: int) -> bytes:
    out = io.BytesIO()
    Image.new("P", (64, 64)).save(out, "GIF")
    data = out.getvalue()
    start = data.index(b",")
    return data[:start] + (b"!\xfe\xff" + b"x" * 255 + b"\0") * count + data[start:]


def _png_of_chunks(count: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "PNG")
    text = zlib.compress(b"x" * 900_000)
    chunk = b"zTXta\0\0" + text
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return out.getvalue()[:33] + whole * count + out.getvalue()[33:]


@pytest.mark.parametrize(
    "data", [_jpeg_of_scans(1500, 190), _jpeg_of_scans(3000, 8000), _gif_of_comments(40_000), _png_of_chunks(9000)]
)
def test_bombs_of_every_kind_are_judged_in_time(data: bytes) -> None:
    start = time.monotonic()
    try:
        said = clean_image(data, ImageConfig(size_px=64)).original_format
    except FetchError as error:
        said = error.error_class
    assert said in {"jpeg", "gif", "png", "too_costly"}
    assert time.monotonic() - start < 60


def test_the_one_decoder_of_edits_and_evaluation_sets_has_the_same_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    Image.new("RGB", (6000, 6000), "teal").save(out, "PNG")
    monkeypatch.setattr(decoder_process, "MEMORY_BYTES", 1 << 20)
    monkeypatch.setattr(decoder_process, "_IDLE", [])  # one that has not kept any memory
    with pytest.raises(ImageTooCostlyError, match="memory"):
        decode_image(out.getvalue(), limits=ImageLimits(max_pixels=1 << 27))
    assert decode_image(out.getvalue(), trusted=True).size == (6000, 6000)
    with pytest.raises(ImageFileError, match="of no known format"):
        decode_image(b"no image", trusted=True)
