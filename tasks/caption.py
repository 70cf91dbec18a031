"""Stage 2, caption: image -> caption, one plain sentence by a captioner (BLIP), as in Section 3.1 of the paper.

A second mode keeps the text that the page gives for the image: the paper's ablation with LAION's captions.
"""

from collections.abc import Iterator
from dataclasses import field, replace
from typing import Any, Final, Literal

from iedit_model.configuration import configuration
from iedit_model.errors import ConfigError
from iedit_model.models.captioner import Captioner, CaptionerSpec, load_captioner
from storage import SAMPLE_ID, Dropped, ShardReport, ShardStore, TableSchema, col, in_manifest
from tasks.images import BatchConfig, ImagePass, stored_images
from tasks.stage import Job, Output, Stage, Workspace

VERSION: Final = 2

CAPTION: Final = TableSchema(
    name="caption",
    description="One row per image with its caption.",
    columns=(
        SAMPLE_ID,
        *in_manifest(
            col("caption", "string", "One plain sentence about the source image."),
            col("caption_source", "string", "Who wrote the caption.", allowed=("model", "alt_text")),
        ),
    ),
)
CaptionMode = Literal["model", "alt_text"]


@configuration
class CaptionConfig:
    """What decides the captions."""

    mode: CaptionMode = "model"
    """"model" writes a caption for each image; "alt_text" keeps the page's own text (the paper's LAION captions)."""
    model: CaptionerSpec | None = None
    """Which captioner; not looked at in the mode "alt_text"."""
    batch: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self) -> None:
        if self.mode == "model" and self.model is None:
            raise ValueError("mode is 'model', but model names none")


def caption_shard(
    source: ShardReport, config: CaptionConfig, store: ShardStore, captioner: Captioner | None
) -> ShardReport:
    """Caption every image of one downloaded shard, or return the finished report.

    Args:
        source: report of the download stage.
        config: the settings.
        store: where the images are and the captions go.
        captioner: ``load_captioner(config.model)``; None in the mode "alt_text".

    Returns:
        The report. Dropped are samples with ``empty_caption``, and in the mode "model" those whose image cannot be
        used: ``damaged_image``, ``undecodable_image``.

    Raises:
        ConfigError: the mode "model" without a captioner.
        MissingFileError: the images are gone.
        MemoryLimitError: not even one image fits into memory.
    """
    if config.mode == "alt_text":
        if captioner is not None:
            raise ConfigError("caption.mode is 'alt_text', which takes no captioner")
        # Settings that nothing is made with would only make equal captions look different.
        config = replace(config, model=None, batch=BatchConfig())
    elif captioner is None:
        raise ConfigError("caption.mode is 'model', which needs a captioner")

    def work(_: Workspace) -> Output:
        images = ImagePass(store, config.batch)
        texts = _written(source, store, images, captioner) if captioner else _given(source, store)
        rows: list[dict[str, Any]] = []
        dropped: list[Dropped] = []
        for sample_id, text in texts:
            if caption := " ".join(text.split()):
                rows.append({"sample_id": sample_id, "caption": caption, "caption_source": config.mode})
            else:
                dropped.append(Dropped(sample_id=sample_id, reason="empty_caption"))
        return Output(
            num_in=source.num_out,
            table=CAPTION.table(rows),
            dropped=[*dropped, *images.dropped],
            extra={"num_halvings": images.num_halvings},
        )

    weights = captioner.fingerprint if captioner else None
    return STAGE.shard(source.shard, store, work, config=config, inputs=(source.digest,), weights=weights)


def _written(
    source: ShardReport, store: ShardStore, images: ImagePass, captioner: Captioner
) -> Iterator[tuple[str, str]]:
    found = images.run(stored_images(store, source), lambda _, image: captioner.prepare(image), captioner.caption)
    for image, text in found:
        yield image.sample_id, text


def _given(source: ShardReport, store: ShardStore) -> Iterator[tuple[str, str]]:
    import pyarrow.compute as pc

    table = store.read_table(source, columns=("sample_id", "status", "alt_text"), where=pc.field("status") == "ok")
    for sample_id, text in zip(table["sample_id"].to_pylist(), table["alt_text"].to_pylist(), strict=True):
        yield sample_id, text or ""


def _captioner(config: CaptionConfig) -> Captioner | None:
    """Return the captioner, or None where the page's own text is the caption."""
    return load_captioner(config.model) if config.mode == "model" and config.model is not None else None


def _weights(config: CaptionConfig) -> str | None:
    captioner = _captioner(config)
    return captioner.fingerprint if captioner else None


def _work(job: Job) -> ShardReport:
    config = job.config(CaptionConfig)
    return caption_shard(job.reports["download"], config, job.store, _captioner(config))


STAGE: Final = Stage(
    name="caption",
    version=VERSION,
    summary="`caption`",
    config=CaptionConfig,
    work=_work,
    tables=(CAPTION,),
    needs=("download",),
    weights=_weights,
)
