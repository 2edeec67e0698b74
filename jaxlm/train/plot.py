"""The loss curve of a run, from its `metrics.jsonl` to a picture."""

import json
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from jaxlm import picture

TRAIN, HELDOUT = picture.BLUE, picture.ORANGE
ENOUGH = 20  # points from which on a smoothed curve says more than the points


def plot_losses(metrics_path: str | Path, png_path: str | Path) -> bool:
    """Draws `train/loss`, raw and smoothed, and `eval/loss` over steps; False, and no picture, without a single point.

    May be called while the run writes. The axis of losses follows the smoothed curve, so a few wild steps do not
    flatten it.
    """
    png_path = Path(png_path)
    train, heldout = (_series(Path(metrics_path), key) for key in ("train/loss", "eval/loss"))
    if not len(train[0]) and not len(heldout[0]):
        return False
    figure, axes = picture.blank(8, 4.5)
    shown = _draw_train(axes, *train) + _draw_heldout(axes, *heldout)
    axes.set_xlim(0, 1.02 * max(*train[0], *heldout[0], 1))
    _dress(axes, shown, png_path.absolute().parent.name)
    picture.save(figure, png_path)
    return True


def smooth(y: np.ndarray) -> np.ndarray:
    """A curve through noisy points that does not lag: an exponential average from the left and one from the right.

    Their half-life is a hundredth of the points; a running median of five goes first, so lone spikes leave no mark.
    """
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(y, 2, mode="edge"), 5)
    y = np.median(windows, axis=-1)
    return (_average(y) + _average(y[::-1])[::-1]) / 2


def _average(y: np.ndarray) -> np.ndarray:
    keep = 0.5 ** (100 / len(y))
    total, weight, out = 0.0, 0.0, np.empty(len(y))
    for i, value in enumerate(y):
        total, weight = keep * total + value, keep * weight + 1
        out[i] = total / weight
    return out


def _series(path: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of `key`; of a step written twice the last counts, and damaged lines do not."""
    found: dict[int, float] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
            step, value = int(entry["step"]), float(entry[key])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        if math.isfinite(value):
            found[step] = value
    steps = sorted(found)
    return np.array(steps), np.array([found[step] for step in steps])


def _draw_train(axes: Axes, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    if not len(x):
        return []
    if len(x) < ENOUGH:
        axes.plot(x, y, color=TRAIN, linewidth=1.5, marker="o", markersize=4, label=f"training ({y[-1]:.3f})")
        return [y]
    smoothed = smooth(y)
    axes.plot(x, y, color=TRAIN, linewidth=0.6, alpha=0.35)
    axes.plot(x, smoothed, color=TRAIN, linewidth=1.8, label=f"training, smoothed ({smoothed[-1]:.3f})")
    return [smoothed, np.quantile(y, [0.005, 0.995])]


def _draw_heldout(axes: Axes, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    if not len(x):
        return []
    marker = "o" if len(x) <= 60 else None
    axes.plot(x, y, color=HELDOUT, linewidth=1.5, marker=marker, markersize=3.5, label=f"held-out ({y[-1]:.3f})")
    best = int(np.argmin(y))
    label = f"best held-out ({y[best]:.3f} at step {x[best]:,})"
    axes.plot(
        x[best],
        y[best],
        "o",
        color="white",
        markeredgecolor=HELDOUT,
        markersize=8,
        zorder=3,
        label=label,
        clip_on=False,
    )
    return [y]


def _dress(axes: Axes, shown: list[np.ndarray], title: str) -> None:
    low, high = min(y.min() for y in shown), max(y.max() for y in shown)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)
    picture.dress(axes, title, "step", "loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend(frameon=False, fontsize=9, loc="upper right")
