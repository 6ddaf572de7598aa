"""What the pictures share: their colours, their size and the way they are saved."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Color = tuple[float, float, float]

BACKGROUND = "#0e1116"
TEXT = "#e8eaed"
FAINT = "#8b929c"
WIDTH = 12.0
"""Of a picture, in inches."""

_PALETTE = (
    "#f2845c",
    "#f4d35e",
    "#5bc0eb",
    "#9bc53d",
    "#c77dff",
    "#ff6b9d",
    "#2ec4b6",
    "#e0b0ff",
    "#bc8034",
    "#8ecae6",
)
_DPI = 120


def new_figure(width: float, height: float) -> Figure:
    """A dark figure of its own, in inches: no pyplot, no display, nothing shared with the caller's plots."""
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure; the folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor=BACKGROUND)


def colors_by_name(names: Iterable[str], chosen: Mapping[str, Sequence[int]] | None) -> dict[str, Color]:
    """The chosen colour (0 to 255) of each name, or else the next of the palette, as fractions."""
    colors: dict[str, Color] = {}
    for number, name in enumerate(names):
        if chosen and name in chosen:
            red, green, blue = (channel / 255 for channel in chosen[name])
        else:
            code = _PALETTE[number % len(_PALETTE)]
            red, green, blue = (int(code[at : at + 2], 16) / 255 for at in (1, 3, 5))
        colors[name] = (red, green, blue)
    return colors
