"""A fit as one picture: the law over sizes and tokens, isoFLOP curves, predictions and what is left over."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from jaxlm import picture
from jaxlm.scaling.fitting import LEVEL, Fit
from jaxlm.scaling.isoflops import IsoFLOPs

COLOURS = "viridis_r"  # of compute


def plot(fit: Fit, isoflops: IsoFLOPs | None, path: str | Path) -> None:
    """Writes a PNG of four panels, three without isoFLOP curves. UserError where it cannot be written."""
    figure, axes = picture.blank(12 if isoflops else 15, 9.5 if isoflops else 4.8)
    axes.remove()
    panels = figure.subplots(2, 2).flat if isoflops else figure.subplots(1, 3).flat
    colour = Normalize(*np.log10([fit.runs.flops.min(), fit.runs.flops.max()]))
    _contours(next(panels), fit, isoflops)
    if isoflops:
        _valleys(next(panels), isoflops, colour)
    last = _predicted(next(panels), fit, colour)
    residuals = next(panels)
    _residuals(residuals, fit, colour)
    bar: Any = figure.colorbar(
        last, ax=residuals, label="training FLOPs", shrink=0.9, format="$10^{%g}$", ticks=MaxNLocator(8, integer=True)
    )
    bar.outline.set_visible(False)
    picture.save(figure, path)


def _contours(axes: Any, fit: Fit, isoflops: IsoFLOPs | None) -> None:
    """Lines of equal loss over compute and size, the runs, and the best size of every budget with its interval."""
    runs = fit.runs
    flops = np.geomspace(runs.flops.min() / 2, runs.flops.max() * 2, 80)
    sizes = np.geomspace(runs.parameters.min() / 1.5, runs.parameters.max() * 1.5, 80)
    losses = fit.law.loss(sizes[:, None], flops / (6 * sizes[:, None]))
    low, high = runs.loss.min(), np.quantile(runs.loss, 0.98)
    levels = np.geomspace(0.97 * low, max(high, 1.05 * low), 10)
    lines = axes.contour(flops, sizes, losses, levels, colors="#b9b9b9", linewidths=0.9, zorder=1)
    axes.clabel(lines, fmt="%.2f", fontsize=7.5, colors="#8a8a8a", inline_spacing=1)
    axes.scatter(
        runs.flops, runs.parameters, s=11, color=picture.BLUE, alpha=0.75, linewidths=0, label="runs", zorder=2
    )
    few = np.geomspace(flops[0], flops[-1], 12)
    bands = [fit.estimate(lambda law, c=c: law.optimum(c).parameters) for c in few]
    best = fit.law.optimum(flops).parameters
    axes.plot(flops, best, color=picture.ORANGE, linewidth=2, label=f"best size, a = {fit.law.exponent:.3f}", zorder=3)
    band = [band.low for band in bands], [band.high for band in bands]
    axes.fill_between(few, *band, color=picture.ORANGE, alpha=0.18, linewidth=0, label=f"{LEVEL:.0%} interval")
    if isoflops:
        x, y = zip(*((valley.flops, valley.parameters) for valley in isoflops.valleys))
        axes.plot(x, y, "D", color="white", markeredgecolor="black", markersize=5, label="isoFLOP optima", zorder=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(sizes[0], sizes[-1])
    picture.dress(axes, "equal loss, and the best size", "training FLOPs", "parameters")
    axes.legend(fontsize=8, loc="upper left", framealpha=0.9, edgecolor="none")


def _valleys(axes: Any, isoflops: IsoFLOPs, colour: Normalize) -> None:
    """The runs of each budget, the parabola through those near the bottom, and the bottom."""
    from matplotlib import colormaps

    for valley in isoflops.valleys:
        shade = colormaps[COLOURS](colour(np.log10(valley.flops)))
        axes.plot(valley.runs.parameters, valley.runs.loss, "o", color=shade, markersize=3.5, alpha=0.8)
        sizes = np.geomspace(valley.near.parameters.min(), valley.near.parameters.max(), 60)
        axes.plot(sizes, np.polyval(valley.coefficients, np.log(sizes)), color=shade, linewidth=1.5)
        axes.plot(valley.parameters, valley.loss, "D", color="white", markeredgecolor="black", markersize=5, zorder=3)
    near = [valley.near.loss for valley in isoflops.valleys]
    low, high = min(map(np.min, near)), max(map(np.max, near))
    axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))  # runs far above are cut off
    axes.set_xscale("log")
    exponent = isoflops.parameters.exponent
    text = f"N ~ C^{exponent.value:.3f} [{exponent.low:.3f}, {exponent.high:.3f}]"
    axes.text(0.97, 0.96, text, transform=axes.transAxes, ha="right", va="top", fontsize=9, color=picture.GREY)
    picture.dress(axes, "isoFLOP curves", "parameters", "loss (nats per token)")


def _predicted(axes: Any, fit: Fit, colour: Normalize) -> Any:
    predicted = fit.law.loss(fit.runs.parameters, fit.runs.tokens)
    ends = [min(predicted.min(), fit.runs.loss.min()), max(predicted.max(), fit.runs.loss.max())]
    axes.plot(ends, ends, color=picture.LINE, linewidth=1, zorder=1)
    points = _points(axes, fit.runs.loss, predicted, fit, colour)
    picture.dress(axes, "the law against the runs", "measured loss", "predicted loss")
    return points


def _residuals(axes: Any, fit: Fit, colour: Normalize) -> None:
    off = 100 * fit.errors()
    axes.axhline(0, color=picture.LINE, linewidth=1, zorder=1)
    _points(axes, fit.runs.tokens / fit.runs.parameters, off, fit, colour)
    axes.set_xscale("log")
    axes.text(0.97, 0.96, f"mean |error| {np.abs(off).mean():.2f} %", transform=axes.transAxes, ha="right", va="top",
              fontsize=9, color=picture.GREY)  # fmt: skip
    axes.margins(y=0.12)
    picture.dress(axes, "what the law leaves over", "tokens per parameter", "predicted - measured (%)")


def _points(axes: Any, x: np.ndarray, y: np.ndarray, fit: Fit, colour: Normalize) -> Any:
    compute = np.log10(fit.runs.flops)
    return axes.scatter(x, y, s=14, c=compute, cmap=COLOURS, norm=colour, linewidths=0, alpha=0.9, zorder=2)
