"""A picture of a plan: what fills a device's memory, and what a step's time goes to."""

from pathlib import Path
from typing import Any

from jaxlm import picture
from jaxlm.plan.facts import Memory
from jaxlm.plan.roofline import Timing

GiB = 2**30
LIMIT = "#000000"


def draw(memory: Memory, limit: int, timing: Timing, title: str, path: str | Path, compiled: bool) -> None:
    """Writes a PNG of two bars: the memory of one device against its limit, and the parts of a step's time, which is
    always an estimate. So is memory that was not `compiled` by the chips' compiler, and marked so."""
    figure, (above, below) = picture.blank(9, 4, rows=2, share=False)
    parts = {name: n / GiB for name, n in memory.kinds().items() if n / GiB >= 0.005}
    _bar(above, parts, "GiB")
    above.axvline(limit / GiB, color=LIMIT, linewidth=1.5, linestyle="--")
    above.set_xlim(0, 1.08 * max(limit / GiB, sum(parts.values())))
    how = "" if compiled else "estimated "
    above.set_xlabel(
        f"{how}memory of one device, GiB; the dashed line is its limit of {limit / GiB:.1f}", color=picture.GREY
    )
    above.set_title(title if compiled else f"{title}: an estimate", loc="left", fontsize=11, color=picture.GREY)
    _bar(below, {name: t for name, t in timing.parts().items() if t > 0}, "s")
    below.set_xlim(0, 1.04 * timing.step)
    below.set_xlabel(
        f"estimated step by a roofline, seconds: {timing.step:.3g} (MFU {timing.mfu:.0%})", color=picture.GREY
    )
    picture.save(figure, path)


def _bar(axes: Any, parts: dict[str, float], unit: str) -> None:
    left = 0.0
    for (name, value), colour in zip(parts.items(), picture.COLOURS):
        axes.barh(0, value, left=left, color=colour, label=f"{name} {value:.3g} {unit}", edgecolor="white")
        left += value
    axes.set_yticks([])
    axes.tick_params(colors=picture.GREY, labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(picture.LINE)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)
    axes.set_ylim(-0.45, 1.1)
