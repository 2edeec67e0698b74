"""FLOPs of the matrix products in the text of a compiled program. Those in Pallas kernels are not told there."""

import math
import re

from jaxlm.plan.hlo import Instruction, Module, dims, operands


def flops(module: Module) -> float:
    """Of a step, two for each multiplication that meets a number and not padding; loops as often as they run."""
    shapes = {x.name: x.shape for body in module.computations.values() for x in body}
    kinds = {"dot": _dot, "convolution": _convolution}
    return sum(kinds[x.kind](x, shapes) * place.times for x, place in module.walk() if x.kind in kinds)


def _dot(x: Instruction, shapes: dict[str, str]) -> float:
    left = dims(shapes[operands(x.line)[0]])[0]
    summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.line)
    assert summed is not None
    return 2 * math.prod(dims(x.shape)[0]) * math.prod(left[int(i)] for i in summed[1].split(",") if i)


def _convolution(x: Instruction, shapes: dict[str, str]) -> float:
    """A TPU's products are convolutions: batch dimensions are windows that meet one number each."""
    left, right = (dims(shapes[name])[0] for name in operands(x.line)[:2])
    out, labels = dims(x.shape)[0], re.search(r"dim_labels=(\S+?)_(\S+?)->([^,\s]+)", x.line)
    assert labels is not None
    window = re.search(r"window=\{([^}]*)\}", x.line)
    spatial = len(labels[3]) - 2

    def each(key: str, default: str) -> list[str]:
        found = re.search(rf"\b{key}=(\S+)", window[1] if window else "")
        return found[1].split("x") if found else [default] * spatial

    sizes, strides, pads = each("size", "1"), each("stride", "1"), each("pad", "0_0")
    holes, gaps = each("lhs_dilate", "1"), each("rhs_dilate", "1")
    met = 2 * right[labels[2].index("i")] * math.prod(n for n, c in zip(out, labels[3]) if c in "bf")
    for i in range(spatial):
        n, turns = left[labels[1].index(str(i))], out[labels[3].index(str(i))]
        hole, gap, step, low = int(holes[i]), int(gaps[i]), int(strides[i]), int(pads[i].split("_")[0])
        places = (o * step - low + t * gap for o in range(turns) for t in range(int(sizes[i])))
        met *= sum(1 for at in places if 0 <= at <= (n - 1) * hole and at % hole == 0)
    return met
