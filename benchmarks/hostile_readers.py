"""The readers that ``bench_hostile`` feeds: each gives inputs that are taken, and the function that reads one."""

import io
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from inspect import unwrap
from pathlib import Path
from typing import Any, Final

Read = Callable[[bytes], object]
"""Reads one input; raises one of our errors when it refuses it."""


def our_errors() -> tuple[type[Exception], ...]:
    """Return the roots of the errors that we raise on purpose."""
    from flows.errors import FlowError
    from iedit_model.errors import IEditError
    from miniature.errors import MiniatureError
    from storage.errors import StorageError
    from tasks.errors import TaskError

    return (FlowError, IEditError, MiniatureError, StorageError, TaskError)


@contextmanager
def _http(_: Path) -> Iterator[tuple[list[bytes], Read]]:
    import gzip

    from tasks.download.client import FetchConfig, Fetcher
    from tasks.download.errors import FetchError

    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
    seeds = [
        head + b"Content-Length: 5\r\nX-Robots-Tag: all, max-snippet: 20\r\n\r\nhello",
        head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX: y\r\n\r\n",
        head
        + b"Content-Encoding: gzip\r\nSet-Cookie: a=b; Expires=Fri, 25 Jun 2027 15:00:00 GMT\r\n\r\n"
        + gzip.compress(b"hello" * 50, mtime=0),
        b"HTTP/1.1 302 Found\r\nLocation: /other?x=%20y\r\nX-Robots-Tag: bot: unavailable_after: 25 Jun 2077\r\n\r\n",
        b"HTTP/1.1 429 Slow\r\nRetry-After: Fri, 25 Jun 2027 15:00:00 GMT\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 100 Continue\r\n\r\n" + head + b"\r\nhello",
    ]
    answer = [b""]
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        port = listener.getsockname()[1]
        threading.Thread(target=_serve, args=(listener, answer), daemon=True).start()
        config = FetchConfig(
            allowed_hosts=(f"127.0.0.1:{port}",), socket_timeout_s=2, total_timeout_s=4, max_bytes=100_000
        )

        def read(data: bytes) -> None:
            answer[0] = data
            try:
                fetcher.fetch(f"http://127.0.0.1:{port}/x")
            except FetchError as error:
                if error.error_class == "timeout":  # whatever is sent, the connection is closed behind it
                    raise AssertionError("an answer that was sent whole took until the time limit") from error
                if data not in seeds:
                    raise

        with closing(Fetcher(config, num_threads=1)) as fetcher:
            yield seeds, read


def _serve(listener: socket.socket, answer: list[bytes]) -> None:
    with suppress(OSError):
        while True:
            connection = listener.accept()[0]
            with connection, suppress(OSError):
                connection.recv(4096)
                connection.sendall(answer[0])
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)


@contextmanager
def _urls(_: Path) -> Iterator[tuple[list[bytes], Read]]:
    from tasks.corpus import url_key
    from tasks.download.addresses import is_url, parse_url, redirected
    from tasks.download.client import is_forbidden

    base = parse_url("http://example.com/a/b")
    urls = ["http://user@\u00fc.example:80/a%20b?x=1#y", "https://[::ffff:1.2.3.4]:8443/", "//xn--a-b.co/%zz", "../c?d"]
    tags = ["otherbot: noai, unavailable_after: Fri, 25 Jun 2027 15:00:00 PST, max-snippet: 20", "none; noindex"]

    def read(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        is_url(text)
        url_key(data.decode("utf-8", "replace"))
        is_forbidden([data.decode("latin-1")], agent="iedit")
        with suppress(*our_errors()):
            redirected(base, data.decode("latin-1"))

    yield [text.encode() for text in (*urls, *tags)], read


@contextmanager
def _images(_: Path) -> Iterator[tuple[list[bytes], Read]]:
    from tasks.download.image_body import ImageConfig, clean_image

    config = ImageConfig(size_px=64, min_side_px=8)
    yield _pictures(), lambda data: clean_image(data, config)


@contextmanager
def _edit_images(_: Path) -> Iterator[tuple[list[bytes], Read]]:
    from iedit_model.imaging.decode import decode_image
    from iedit_model.imaging.mask_files import read_mask

    def read(data: bytes) -> None:
        image = decode_image(data)
        with suppress(*our_errors()):  # most pictures are no masks
            read_mask(data, size=image.size)

    yield _pictures("TIFF"), read


def _pictures(*more: str) -> list[bytes]:
    import numpy as np
    from PIL import Image, PngImagePlugin

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)).resize((80, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 500, zip=True)
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"exif": exif, "progressive": True},
        "PNG": {"exif": exif, "pnginfo": text, "icc_profile": b"x" * 99},
        "WEBP": {"exif": exif, "icc_profile": b"x" * 99},
        "GIF": {"save_all": True, "append_images": [picture.rotate(90)], "comment": b"hello"},
        "AVIF": {"exif": exif},
    }
    found = []
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", *more):
        out = io.BytesIO()
        picture.save(out, name, **options.get(name, {}))
        found.append(out.getvalue())
    for mode in ("P", "LA", "I;16", "1", "CMYK"):
        out = io.BytesIO()
        picture.convert("L" if mode == "I;16" else mode).convert(mode).save(out, "JPEG" if mode == "CMYK" else "PNG")
        found.append(out.getvalue())
    return found


def _parquets(rows: dict[str, Any]) -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for options in (
        {},
        {"use_dictionary": False, "compression": "zstd"},
        {"data_page_version": "2.0", "row_group_size": 7},
    ):
        out = io.BytesIO()
        pq.write_table(pa.table(rows), out, **options)
        found.append(out.getvalue())
    return found


@contextmanager
def _metadata(folder: Path) -> Iterator[tuple[list[bytes], Read]]:
    from tasks.plan.metadata import Kind, Metadata

    columns: dict[str, Kind] = {"URL": "text", "TEXT": "text", "WIDTH": "number", "hash": "hash", "punsafe": "number"}
    rows = {"URL": [f"http://e.com/{n}" for n in range(20)], "TEXT": ["a bus", None] * 10, "WIDTH": [640, None] * 10}
    seeds = _parquets({**rows, "hash": ["a" * 32] * 20, "NSFW": ["UNLIKELY"] * 20, "list": [[1, 2], None] * 10})
    path = folder / "a.parquet"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        metadata = Metadata(str(path))
        metadata.digest("footer")
        for _ in metadata.batches(metadata.files[0], columns, required=("URL",)):
            pass

    yield seeds, read


@contextmanager
def _takedown_lists(folder: Path) -> Iterator[tuple[list[bytes], Read]]:
    from tasks.dataset.takedown import read_takedown_list

    text = "\ufeff# a list\nhttp://e.com/1.jpg\n\n" + "a" * 64 + "\r\nHTTPS://e.com/\u00fc?x=1\n"
    seeds = [text.encode(), *_parquets({"URL": ["http://e.com/1"] * 20, "sha256": ["a" * 64, None] * 10})]
    path = folder / "list"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_takedown_list(path)

    yield seeds, read


@contextmanager
def _settings(folder: Path) -> Iterator[tuple[list[bytes], Read]]:
    from flows.config.overrides import as_yaml, changed, parse_assignments, read_settings
    from flows.config.profiles import load_profile

    mini = load_profile("mini")
    whole = as_yaml(mini).encode()
    seeds = [
        whole,
        whole[:700].rpartition(b"\n")[0],
        b"train:\n  train:\n    seed: 3\ndata: {plan: {shard_size: 300}}\n",
    ]
    path = folder / "config.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        changed(mini, read_settings(path))
        with suppress(*our_errors()):
            parse_assignments([data[:300].decode("latin-1")])

    yield seeds, read


@contextmanager
def _filters(_: Path) -> Iterator[tuple[list[bytes], Read]]:
    from storage import parse_filter
    from tasks.plan.stage import PLAN

    seeds = [b"width > 10 and (url != 'x' or punsafe <= 0.5)", b"not (similarity in [0.1, 0.3])", b"language == 'en'"]
    yield seeds, lambda data: parse_filter(data.decode("utf-8", "replace"), PLAN)


@contextmanager
def _tars(folder: Path) -> Iterator[tuple[list[bytes], Read]]:
    from storage import iter_tar, write_tar

    members = [("a.json", b"{}"), ("a.source.png", bytes(700)), ("b/c.txt", b"x" * 513)]
    write_tar(folder / "a.tar", members)
    yield [(folder / "a.tar").read_bytes()[:5120]], lambda data: list(iter_tar(io.BytesIO(data), name="a.tar"))


@contextmanager
def _evaluation_sets(folder: Path) -> Iterator[tuple[list[bytes], Read]]:
    import numpy as np

    from tasks.evaluate.sets.evalset import EvalSetInfo
    from tasks.evaluate.sets.folder import NewPair, check_evalset, open_evalset, write_evalset
    from tasks.evaluate.sets.published import magic_brush_pairs, pie_bench_pairs

    info = EvalSetInfo(**_info_values(EvalSetInfo))
    words = {"source_prompt": "a red bus", "edit_prompt": "a blue bus", "instruction": "make it blue"}
    mask = np.zeros((80, 60), bool)
    mask[9:30] = True
    image = _pictures()[1]
    pairs = [
        NewPair(pair_id=f"{n}", image_id="one", image=image, mask=mask, mask_origin="hand", **words) for n in range(3)
    ]
    write_evalset(folder / "set", info, pairs)
    pie = {
        "image_path": "0/a.jpg",
        "original_prompt": "a bus",
        "editing_prompt": "a [red] bus",
        "mask": [0, 3, 99, 512],
    }
    pie |= {"editing_instruction": "make it red", "editing_type_id": "0", "blended_word": "bus bus"}
    turns = [{"input": "1-input.png", "mask": "1-mask1.png", "output": "1-output1.png", "instruction": "make it red"}]
    texts = {"1": {"1-input.png": "a bus", "1-output1.png": "a red bus"}}
    for path, data in {
        "pie/annotation_images/0/a.jpg": _square("JPEG"),
        "pie/mapping_file.json": json.dumps({"000": pie}).encode(),
        "brush/images/1/1-input.png": image,
        "brush/images/1/1-mask1.png": image,
        "brush/edit_turns.json": json.dumps(turns).encode(),
        "brush/global_descriptions.json": json.dumps(texts).encode(),
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    files = [
        "set/evalset.json",
        "set/pairs.parquet",
        *(f"set/images/{p.name}" for p in (folder / "set/images").iterdir()),
    ]
    files += ["pie/mapping_file.json", "brush/edit_turns.json", "brush/global_descriptions.json"]

    def load(name: str) -> None:
        if name.startswith("set/"):
            check_evalset(open_evalset(folder / "set"))
        elif name.startswith("pie/"):
            list(pie_bench_pairs(folder / "pie"))
        else:
            list(magic_brush_pairs(folder / "brush"))

    yield _files_of(folder, files, load)


def _square(name: str) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (512, 512), "teal").save(out, name)
    return out.getvalue()


def _info_values(kind: Any) -> dict[str, Any]:
    from flows.config.values import REAL_INFO

    return {name: getattr(REAL_INFO, name) for name in kind.__dataclass_fields__}


@contextmanager
def _model_folders(folder: Path) -> Iterator[tuple[list[bytes], Read]]:
    import torch

    from iedit_model.models.captioner import CaptionerSpec, _load_blip
    from iedit_model.models.clip import read_open_clip
    from iedit_model.models.devices import DeviceConfig
    from iedit_model.models.latent_diffusion import read_latent_diffusion
    from iedit_model.models.segmenter import SegmenterSpec, _load_clipseg
    from iedit_model.models.source import ModelSource
    from iedit_model.models.vgg import load_vgg

    device = DeviceConfig(device="cpu", dtype="fp32")
    shutil.copytree(Path(__file__).parents[1] / "miniature" / "weights", folder / "m")
    load: dict[str, Callable[[ModelSource], object]] = {
        "captioner": lambda source: unwrap(_load_blip)(CaptionerSpec(model=source, device=device, max_new_tokens=9)),
        "clip": read_open_clip,
        "ldm": lambda source: read_latent_diffusion(source, device=torch.device("cpu")),
        "perceptual": unwrap(load_vgg),
        "segmenter": lambda source: unwrap(_load_clipseg)(SegmenterSpec(model=source, device=device)),
    }
    kinds = {".json", ".txt", ".safetensors"}
    paths = [path for name in load for path in (folder / "m" / name).rglob("*") if path.suffix in kinds]
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    yield _files_of(
        folder, names, lambda name: load[name.split("/")[1]](ModelSource(str(folder / "m" / name.split("/")[1])))
    )


def _files_of(folder: Path, names: list[str], load: Callable[[str], object]) -> tuple[list[bytes], Read]:
    """Return inputs that are files of a folder: each begins with its name, and is put back once it was read."""
    contents = {name: (folder / name).read_bytes() for name in names}
    # Of weights only the head is damaged: the rest are numbers.
    heads = {name: data[:65_536] for name, data in contents.items()}
    seeds = [name.encode() + b"\n" + heads[name] for name in names]

    def read(data: bytes) -> None:
        name = data.partition(b"\n")[0].decode("latin-1")
        if name not in contents:  # the damage hit the name: any will do
            name = names[len(data) % len(names)]
        (folder / name).write_bytes(data.partition(b"\n")[2] + contents[name][65_536:])
        try:
            load(name)
        finally:
            (folder / name).write_bytes(contents[name])

    return seeds, read


READERS: Final = {
    "http": _http,
    "urls": _urls,
    "images": _images,
    "edit_images": _edit_images,
    "metadata": _metadata,
    "takedown_lists": _takedown_lists,
    "settings": _settings,
    "filters": _filters,
    "tars": _tars,
    "evaluation_sets": _evaluation_sets,
    "model_folders": _model_folders,
}
"""Every reader of something from outside."""
