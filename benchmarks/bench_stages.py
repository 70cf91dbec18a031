"""Each stage against the library call that does the same, images per second: ``python -m benchmarks.bench_stages``.

Ours and the baseline alternate in this process on one thread per model call, each round in the other order; what is
compared is the median of the rounds' ratios, by the clock and by the CPU time of all threads. What is counted:

- download: URLs of the miniature's site (no faults, a process of its own) to images in a tar and a table. Baseline:
  img2dataset's Downloader with its Resizer and its WebDataset writer, same size, format, threads and sha256.
- caption: a tar of images to captions; decode, processor, ``generate`` and tokenizer on both sides.
- embed: the tar and all distinct texts to unit vectors; decode, preprocessing, ``encode_image``, ``encode_text``, and
  the layout descriptor, by the same function on both sides.
- retrieve: 1,024 queries to the nearest of planted CLIP-sized vectors, as many as the paper has pairs; baseline:
  ``faiss.IndexFlatIP.search`` alone. What ours adds (exact scores, exclusions, gates) does not grow with the index.
- mask: images and prompts to masks of the image's size; baseline: CLIPSeg's forward for each image and prompt.
- pack: images, masks and JSON to one tar; baseline: webdataset's TarWriter, the images read from the same tars.

Our stages also check hashes, write atomically and account for every sample; where that is more than the baseline's
work, a second table says what it costs.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.comparisons import COMPARISONS, Setting
from benchmarks.corpus import build_corpus
from benchmarks.report import CONSOLE, print_provenance, print_rows
from benchmarks.side_by_side import SideBySide, side_by_side
from flows.config.profiles import resolve
from miniature.web import FaultShares, MetadataShares, Site


def main() -> None:
    """Time the asked stages and print the tables."""
    options = _options()
    print_provenance("stages against the libraries' own calls")
    import torch

    torch.set_num_threads(1)
    # No URL fails, so that the Downloaders do the same and the models get whole batches: a short one is filled up.
    faults, metadata = FaultShares.only(), MetadataShares(small=0)
    site = Site(seed=options.seed, num_urls=options.images, faults=faults, metadata=metadata)
    rows: list[Sequence[str]] = []
    parts: list[Sequence[str]] = []
    with tempfile.TemporaryDirectory(prefix="iedit-bench-") as name:
        folder, config = options.keep or Path(name), resolve("mini").data
        setting = Setting(
            corpus=build_corpus(site, config, folder, port=options.port, shard_size=options.images),
            config=config,
            folder=folder,
            port=options.port,
            num_planted=options.planted,
        )
        for stage in options.stages or COMPARISONS:
            with COMPARISONS[stage](setting) as comparison:
                times = side_by_side(
                    ours=comparison.ours, baseline=comparison.baseline, reset=comparison.forget, rounds=options.rounds
                )
                rows.append(_row(stage, comparison.num_items, times))
                comparison.forget()
                parts += [(stage, what, f"{seconds * 1e3:.1f}") for what, seconds in comparison.parts()]
                comparison.ours()
    print_rows(
        ("stage", "items", "ours /s", "baseline /s", "time, ours / baseline", "CPU, ours / baseline", "ms per item"),
        rows,
    )
    if parts:
        print_rows(("stage", "part of our stage", "ms"), parts)
    CONSOLE.print(
        f"ratios: median of {options.rounds} rounds, brackets: lowest and highest; ms per item: CPU time "
        "that ours takes more. The miniature's models are tiny: a real one takes a hundred times as long, we do not"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(COMPARISONS)} (default: all)")
    parser.add_argument("--images", type=int, default=2_000, help="images, one shard")
    parser.add_argument("--planted", type=int, default=200_000, help="vectors in the index that is searched")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each side")
    parser.add_argument("--seed", type=int, default=3, help="which site")
    parser.add_argument("--port", type=int, default=8793, help="where it is served")
    parser.add_argument("--keep", type=Path, help="folder for the corpus, taken up again by a later run")
    options = parser.parse_args()
    if unknown := [name for name in options.stages if name not in COMPARISONS]:
        parser.error(f"no stage is called {unknown[0]}: choose from {', '.join(COMPARISONS)}")
    return options


def _row(stage: str, num_items: int, times: SideBySide) -> Sequence[str]:
    rates = (f"{num_items / times.median_s(side):,.0f}" for side in ("ours", "baseline"))
    more = (statistics.median(times.ours.cpu) - statistics.median(times.baseline.cpu)) / num_items
    ratios = (_ratio(times.ratios("wall")), _ratio(times.ratios("cpu")))
    return stage, f"{num_items:,}", *rates, *ratios, f"{more * 1e3:+.2f}"


def _ratio(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
