"""How fast the image world draws: ``python -m benchmarks.bench_world`` (one core, one process).

The yardstick beside it is Pillow alone doing the least that such an image needs: a new canvas, one resize of a ready
sprite, one paste.
"""

import argparse
import time
from collections.abc import Callable

from PIL import Image

from benchmarks.report import print_provenance, print_rows
from miniature.sprites import coloured_sprite
from miniature.vocabulary import COLOURS, NOUNS
from miniature.world import SIZE_PX, World


def _rate(draw: Callable[[int], object], count: int) -> float:
    began = time.perf_counter()
    for index in range(count):
        draw(index)
    return count / (time.perf_counter() - began)


def _pillow(index: int) -> Image.Image:
    sprite = coloured_sprite(NOUNS[index % len(NOUNS)], tuple(COLOURS)[index % len(COLOURS)]).convert("RGBA")
    canvas = Image.new("RGB", (SIZE_PX, SIZE_PX), "white")
    small = sprite.resize((40, 40), Image.Resampling.BOX, reducing_gap=2.0)
    canvas.paste(small, (12, 12), small)
    return canvas


def main() -> None:
    """Time scenes, scenes with masks, and the yardstick."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=4000)
    options = parser.parse_args()
    print_provenance("image world")
    for noun in NOUNS:
        for colour in COLOURS:
            coloured_sprite(noun, colour)
    world = World(0)
    baseline = _rate(_pillow, options.scenes)
    rows = []
    for name, draw in (
        ("scene, drawn", lambda index: world.scene(index).render()),
        ("scene, drawn, with masks", lambda index: (world.scene(index).render(), world.scene(index).masks())),
        ("scene, truth only", world.scene),
    ):
        rate = _rate(draw, options.scenes)
        rows.append((name, f"{rate:.0f}", f"{rate / baseline:.2f}"))
    print_rows(("what", "per second", "of plain Pillow"), [*rows, ("plain Pillow", f"{baseline:.0f}", "1.00")])


if __name__ == "__main__":
    main()
