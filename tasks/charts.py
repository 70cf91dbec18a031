"""One way to draw charts: matplotlib figures as inline SVG that follows the page's colours, or as PNG."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

INK: Final = "#1c2025"
SOFT: Final = "#5d656e"
LINE: Final = "#dddcd6"
PAPER: Final = "#fcfcfa"
COLOURS: Final = ("#0b62b0", "#b3452c", "#2f7d4f", "#7a4bb0", "#8a6d00", "#576069")
"""Of the series, in order; they go round."""
_VARIABLES: Final = {INK: "--ink", SOFT: "--soft", LINE: "--line"} | {c: f"--c{i}" for i, c in enumerate(COLOURS)}
"""Colour -> the variable of the page that takes its place, so that charts are readable in its dark mode, too."""
_DPI: Final = 100
_STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same widths on every machine
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "iedit",  # the same chart gives the same bytes
}


@contextmanager
def chart(width_px: int, height_px: int) -> "Iterator[tuple[Figure, Axes]]":
    """Open a figure with one pair of axes, laid out to fit; render it inside the block."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width_px / _DPI, height_px / _DPI), dpi=_DPI, layout="constrained")
        yield figure, figure.subplots()


def chart_svg(figure: "Figure", title: str) -> str:
    """Return a figure as inline SVG: transparent, its text as text, with a title for screen readers."""
    for artist in figure.findobj():
        artist.set_clip_on(False)  # a clip path would be a URL in the page
    stream = io.StringIO()
    figure.savefig(
        stream, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    text = stream.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r'<defs>\s*<style.*?</defs>|<!--.*?-->| id="(?!m[0-9a-f]{10}")[^"]*"', "", body, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r"\s*\n\s*", "\n", body)
    width, height = figure.get_size_inches() * 72
    name = escape(title)
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{name}"><title>{name}</title>'
        f"{body.strip()}"
    )


def chart_image(figure: "Figure") -> "Image":
    """Return a figure as an RGB image on light paper, where no SVG can be shown."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_facecolor(PAPER)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
