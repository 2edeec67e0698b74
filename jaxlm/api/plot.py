"""A picture of words: their vectors on the plane that shows most of how they differ."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jaxlm import picture
from jaxlm.errors import UserError

DOT, LINE, GREY = picture.BLUE, picture.LINE, picture.GREY
DOT_SIZE = 5  # points
GAPS = range(5, 90, 5)  # points between a dot and its label, tried in turn
SIDES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)])  # right is best

Box = tuple[np.ndarray, np.ndarray]  # lower left and upper right, in pixels


def plot_words(vectors: Any, words: Sequence[str], path: str | Path) -> None:
    """Writes a PNG of `vectors` (words, D), projected by `plane`, each dot beside its word.

    Labels keep off each other and off the dots; one that finds no room close by gets a line to its dot. The same
    vectors give the same bytes. Raises UserError for what cannot be drawn or written.
    """
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or len(vectors) != len(words) or len(words) < 2:
        raise UserError(f"vectors of shape {vectors.shape} do not fit {len(words)} words: give two or more, a row each")
    if not np.isfinite(vectors).all():
        raise UserError("a vector to draw is infinite or not a number")
    xy, shares = plane(vectors)
    figure, axes = picture.blank(8, 6)
    axes.plot(*xy.T, "o", color=DOT, markersize=DOT_SIZE)
    axes.margins(0.12)
    axes.set_aspect("equal", adjustable="datalim")  # distances are what it shows
    first, second = (f"{share:.0%}" for share in shares[:2])
    picture.dress(axes, "", f"first principal component ({first} of the variance)", f"second ({second})")
    figure.canvas.draw()  # lays the figure out: labels are placed in pixels
    figure.set_layout_engine("none")
    _label(axes, xy, [_printable(word) for word in words])
    picture.save(figure, path)


def plane(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal components (Pearson 1901): (N, D) -> coordinates (N, 2), and the shares (2,) of the variance they show.

    With x - mean(x) = U S W^T (singular values S falling) they are the first two columns of U S. A component's sign
    is free: the largest entry of its direction, the column of W, is made positive.
    """
    centred = vectors - vectors.mean(0)
    u, s, w = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(w[np.arange(len(w)), np.abs(w).argmax(1)])
    xy, shares = np.zeros((len(vectors), 2)), np.zeros(2)
    n = min(2, len(s))  # vectors of width 1 have one component
    xy[:, :n] = (u * s * signs)[:, :n]
    shares[:n] = (s**2 / max(np.sum(s**2), np.finfo(np.float64).tiny))[:n]
    return xy, shares


def _label(axes: Axes, xy: np.ndarray, words: Sequence[str]) -> None:
    """Every word at the first of its places that is free and in the picture, or at the very first."""
    point = axes.figure.dpi / 72  # in pixels
    dots, room = axes.transData.transform(xy), (np.array(axes.bbox.min), np.array(axes.bbox.max))
    taken = [(dot - DOT_SIZE / 2 * point, dot + DOT_SIZE / 2 * point) for dot in dots]
    for at, dot, word in zip(xy, dots, words):
        label = axes.annotate(word, at, (0, 0), textcoords="offset points", ha="center", va="center", parse_math=False)
        size = np.array(label.get_window_extent().size)
        centres = [dot + side * (size / 2 + gap * point) for gap in GAPS for side in SIDES]
        boxes = [(centre - size / 2, centre + size / 2) for centre in centres]
        best = next((i for i, box in enumerate(boxes) if _within(room, box) and _free(taken, box)), 0)
        taken.append(boxes[best])
        label.xyann = tuple((centres[best] - dot) / point)
        if best >= len(SIDES):  # too far to be seen as its dot's
            edge = axes.transData.inverted().transform(np.clip(dot, *boxes[best]))
            axes.plot(*zip(at, edge), color=LINE, linewidth=0.7, zorder=1, scalex=False, scaley=False)


def _within(room: Box, box: Box) -> bool:
    return bool((box[0] > room[0]).all() and (box[1] < room[1]).all())


def _free(taken: list[Box], box: Box) -> bool:
    low, high = map(np.array, zip(*taken))
    return not ((box[0] < high) & (box[1] > low)).all(1).any()


def _printable(word: str) -> str:
    """Spaces around a word are not shown; what cannot be, such as a line break, is spelled."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in word.strip(" "))
