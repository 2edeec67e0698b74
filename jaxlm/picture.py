"""Pictures without a display: a figure to draw on, written whole or not at all."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlm.files import write_file
from jaxlm.paths import expand

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#3b6ea8", "#d1603d", "#555555"
LINE, GRID = "#b0b0b0", "#e4e4e4"
COLOURS = (BLUE, ORANGE, "#5a9e6f", "#8e6bb0", "#c9a227", "#4fb0b8", "#a8556f", "#7a7a7a")


def blank(width: float, height: float, rows: int = 1, share: bool = True) -> "tuple[Figure, Any]":
    """A figure of so many inches, and its axes (an array where there are `rows`, which `share` their abscissa). No
    pyplot: nothing is global."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, sharex=share)


def save(figure: "Figure", path: str | Path) -> None:
    """Writes a PNG; the same figure gives the same bytes. Raises UserError if it cannot be written."""
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font has not every script: a box stands for it
        figure.savefig(png, format="png", metadata={"Software": None})  # no versions in it
    write_file(expand(path), png.getvalue())


def dress(axes: Any, title: str, x: str, y: str) -> None:
    """Titles, a faint grid, and no frame above and on the right."""
    axes.set_title(title, loc="left", fontsize=11, color=GREY)
    axes.set_xlabel(x, color=GREY)
    axes.set_ylabel(y, color=GREY)
    axes.tick_params(colors=GREY, labelsize=9, which="both")
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
