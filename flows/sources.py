"""Where a flow's input comes from: the metadata of a build, and evaluation sets by name; what we can make, is made."""

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

from flows.config.tree import SITE_HOST, EvaluationConfig, SiteConfig, SourceConfig
from flows.config.values import REAL_INFO
from flows.errors import SourceError
from iedit_model.editing.text_to_image import DrawConfig
from iedit_model.imaging.encode import encode_image
from miniature.evalsets import real_pairs
from miniature.pairs import TruePair
from miniature.web import Site, write_metadata
from tasks.evaluate.sets.evalset import EvalSet
from tasks.evaluate.sets.folder import PAIRS, NewPair, open_evalset, write_evalset

_SITE_START_S: Final = 60.0
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
    end = time.monotonic() + _SITE_START_S
    while not _is_open(config):
        if process.poll() is not None:
            said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
            raise SourceError(f"the image site ended at its start: {said.splitlines()[-1] if said else 'no message'}")
        if time.monotonic() > end:
            raise SourceError(f"the image site did not answer at port {config.port} within {_SITE_START_S:.0f} s")
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


FOLDER: Final = "evalsets"
"""Under the root of the store."""


def open_set(name: str, root: str, config: EvaluationConfig) -> EvalSet:
    """Return a set by its name under the root, or by its folder; one that the project can make is made first.

    Raises:
        SourceError: there is neither.
        EvalSetError: what is there cannot be used.
    """
    if (found := find_set(name, root, config)) is not None:
        return found
    folder = f"{root.rstrip('/')}/{FOLDER}/{name}"
    return make_real_set(folder) if name == REAL_INFO.name else draw_generated_set(folder, config)


def find_set(name: str, root: str, config: EvaluationConfig) -> EvalSet | None:
    """Return a set that is there, None where it is one that the project makes.

    Raises:
        SourceError: there is none, and none can be made.
        EvalSetError: what is there cannot be used.
    """
    folder = f"{root.rstrip('/')}/{FOLDER}/{name}"
    if name == REAL_INFO.name:  # always compared with what it should be
        return None
    if (Path(folder) / PAIRS).is_file():  # written last: without it a killed run left a part
        return open_evalset(folder)
    if name == config.generated.info.name:
        return None
    if "/" in name or Path(name).is_dir():
        return open_evalset(name)
    raise SourceError(
        f"there is no evaluation set {name!r} in {root}; the project itself makes {REAL_INFO.name} and "
        f"{config.generated.info.name}, and others are imported with iedit evalset import"
    )


def draw_generated_set(
    folder: str, config: EvaluationConfig, *, draw: DrawConfig | None = None, seed: int = 0, with_masks: bool = True
) -> EvalSet:
    """Generate the set of the untrained model's images.

    Args:
        folder: folder of the set.
        config: the models, and the edits in words.
        draw: how the images are generated.
        seed: decides all noise.
        with_masks: whether the segmenter predicts the masks.

    Raises:
        SourceError: the base model or the segmenter is not configured.
        EvalSetExistsError: another set is there.
    """
    from iedit_model.models.latent_diffusion import LatentDiffusionSpec, load_latent_diffusion
    from iedit_model.models.segmenter import SegmenterSpec, load_segmenter
    from tasks.evaluate.sets.generated import GeneratedConfig, make_generated

    models, device = config.plan.models, config.plan.settings.device
    if models.base is None or (with_masks and models.segmenter is None):
        raise SourceError("drawing a set needs base among evaluate.plan.models, and segmenter for its masks")
    segmenter = models.segmenter if with_masks else None
    return make_generated(
        folder,
        config.generated.info,
        GeneratedConfig(prompts=config.generated.prompts, draw=draw or DrawConfig(), seed=seed),
        load_latent_diffusion(LatentDiffusionSpec(model=models.base, device=device)),
        segmenter=load_segmenter(SegmenterSpec(model=segmenter, device=device)) if segmenter else None,
    )


def make_real_set(root: str | Path) -> EvalSet:
    """Write the miniature's real set: 52 pairs of 30 scenes that training never saw, the true mask with each.

    Raises:
        EvalSetExistsError: another set is there.
    """
    pairs = [_real_pair(number, index, pair) for number, (index, pair) in enumerate(real_pairs())]
    return write_evalset(root, REAL_INFO, pairs)


def _real_pair(number: int, index: int, pair: TruePair) -> NewPair:
    before, after = pair.source.objects[pair.position], pair.target.objects[pair.position]
    return NewPair(
        pair_id=f"{number:04d}",
        image_id=f"scene-{index:03d}",
        image=encode_image(pair.source.render()),
        source_prompt=pair.source.caption,
        edit_prompt=pair.edit_prompt,
        word=before.noun,
        replacement=after.noun if pair.kind == "noun" else after.phrase,
        instruction=pair.instruction,
        kind=pair.kind,
        mask=pair.source.masks()[pair.position],
        mask_origin="truth",
    )
