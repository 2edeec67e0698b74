"""Pictures without a display: a figure to draw on, written whole or not at all."""

import io
import warnings
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxlm.paths import expand
from jaxlm.text.files import write_file

BLUE, ORANGE, GREY = "#3b6ea8", "#d1603d", "#555555"
COLOURS = (BLUE, ORANGE, "#5a9e6f", "#8e6bb0", "#c9a227", "#4fb0b8", "#a8556f", "#7a7a7a")


def blank(width: float, height: float, rows: int = 1, share: bool = True) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes (an array where there are `rows`, which `share` their abscissa). No
    pyplot: nothing is global."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, sharex=share)


def save(figure: Figure, path: str | Path) -> None:
    """Writes a PNG; the same figure gives the same bytes. Raises UserError if it cannot be written."""
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font has not every script: a box stands for it
        figure.savefig(png, format="png", metadata={"Software": None})  # no versions in it
    write_file(expand(path), png.getvalue())
