"""The libraries' own calls on the work of our stages, as their documentation shows them: no store, no checks, no us."""

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.download.stage import DownloadConfig
from tasks.embed.layout import layout_descriptors, layout_pixels

Floats = npt.NDArray[np.float32]
Sample = Mapping[str, Any]


def img2dataset_shard(urls: Sequence[str], folder: Path, config: DownloadConfig) -> int:
    """Download ``urls`` into a tar and a parquet file with img2dataset's Downloader; return how many images came."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    folder.mkdir(parents=True, exist_ok=True)
    shard = folder / "urls.arrow"
    table = pa.table({"url": pa.array(urls, pa.string())})
    with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    image = config.image
    resizer = Resizer(
        image_size=image.size_px,
        resize_mode=image.resize_mode,
        resize_only_if_bigger=False,
        upscale_interpolation=image.upscale,
        downscale_interpolation=image.downscale,
        encode_format=image.format,
        encode_quality=image.png_level,
        min_image_size=image.min_side_px,
        max_image_area=image.max_pixels,
        max_aspect_ratio=image.max_aspect or float("inf"),
    )
    downloader = Downloader(
        sample_writer_class=WebDatasetSampleWriter,
        resizer=resizer,
        thread_count=config.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(folder),
        column_list=["url"],
        timeout=config.fetch.socket_timeout_s,
        number_sample_per_shard=len(urls),
        oom_shard_count=5,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format=image.format,
        retries=config.retry.retries,
        user_agent_token=config.fetch.user_agent,
        disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
    )
    downloader.download_shard((0, str(shard)))
    status = pq.read_table(folder / "00000.parquet", columns=["status"])["status"].to_pylist()
    return status.count("success")


def tar_images(tar: Path, size: int) -> Iterator[list[Image.Image]]:
    """Yield the images of a tar in batches of ``size``, RGB, decoded one after another."""
    batch: list[Image.Image] = []
    with tarfile.open(tar) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                batch.append(Image.open(io.BytesIO(stream.read())).convert("RGB"))
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


class Blip:
    """BLIP through transformers."""

    def __init__(self, folder: str) -> None:
        """Remember the folder of the model."""
        self._folder = folder

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        import torch
        from transformers import BlipForConditionalGeneration, BlipProcessor

        model: Any = BlipForConditionalGeneration.from_pretrained(self._folder, dtype=torch.float32)
        return BlipProcessor.from_pretrained(self._folder), model.eval()

    def captions(self, tar: Path, *, batch: int, max_new_tokens: int) -> list[str]:
        """Return a greedy caption of every image in a tar."""
        import torch

        processor, model = self._parts
        texts: list[str] = []
        for images in tar_images(tar, batch):
            inputs = processor(images=images, return_tensors="pt")
            with torch.inference_mode():
                tokens = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens)
            texts += processor.batch_decode(tokens, skip_special_tokens=True)
        return texts


class OpenClip:
    """CLIP through open_clip."""

    def __init__(self, folder: str) -> None:
        """Remember the folder of the model."""
        self._name = f"local-dir:{folder}"

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        import open_clip

        model, _, preprocess = open_clip.create_model_and_transforms(self._name)
        return model.eval(), preprocess, open_clip.get_tokenizer(self._name)

    def embeds(self, tar: Path, texts: Sequence[str], *, batch: int) -> tuple[Floats, Floats, Floats]:
        """Return unit embeddings of every image in a tar and of every text, and the layout of every image."""
        import torch

        model, preprocess, tokenizer = self._parts
        embeds, words, layouts = [], [], []
        with torch.inference_mode():
            for images in tar_images(tar, batch):
                inputs = torch.stack([preprocess(image) for image in images])
                embeds.append(model.encode_image(inputs, normalize=True))
                # No library knows it: the same function on both sides.
                layouts.append(layout_descriptors([layout_pixels(np.asarray(image)) for image in images]))
            for start in range(0, len(texts), batch):
                tokens = tokenizer(list(texts[start : start + batch]))
                words.append(model.encode_text(tokens, normalize=True))
        return torch.cat(embeds).numpy(), torch.cat(words).numpy(), np.concatenate(layouts)


class ClipSeg:
    """CLIPSeg through transformers."""

    def __init__(self, folder: str) -> None:
        """Remember the folder of the model."""
        self._folder = folder

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        import torch
        from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

        model: Any = CLIPSegForImageSegmentation.from_pretrained(self._folder, dtype=torch.float32)
        return CLIPSegProcessor.from_pretrained(self._folder), model.eval()

    def masks(self, encoded: Iterable[bytes], prompts: Sequence[str], *, batch: int) -> int:
        """Segment each image by its prompt, at the image's own size; return how many masks are not empty."""
        import torch

        processor, model = self._parts
        data, found = list(encoded), 0
        for start in range(0, len(data), batch):
            images = [Image.open(io.BytesIO(one)).convert("RGB") for one in data[start : start + batch]]
            words = list(prompts[start : start + batch])
            inputs = processor(images=images, text=words, return_tensors="pt", padding=True, truncation=True)
            with torch.inference_mode():
                maps = model(**inputs).logits.sigmoid()[:, None]
                sized = torch.nn.functional.interpolate(maps, size=images[0].size[::-1], mode="bilinear")
                found += int((sized > 0.5).flatten(1).any(dim=1).sum())
        return found


def write_webdataset(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples into one tar with webdataset's TarWriter; return its length, bytes."""
    import webdataset

    with webdataset.TarWriter(str(path), mtime=0.0) as writer:
        for sample in samples:
            writer.write(sample)
    return path.stat().st_size
