"""What operations compute that are no plain product: fused kernels, grouped products, convolutions."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from jax._src.cudnn import fused_attention_stablehlo

from jaxlm import compat
from jaxlm.plan.graph import Value

CUDNN = "dot_product_attention"  # begins the names of its forward and backward
PRODUCTS = ("ragged_dot_general", "conv_general_dilated")


def is_kernel(name: str) -> bool:
    return name in ("pallas_call", "ffi_call") or name.startswith(CUDNN)


@contextlib.contextmanager
def cudnn_assumed() -> Iterator[None]:
    """Within it programs with cuDNN's attention can be traced on a machine that has none: jax asks for its version."""
    names = {"check_cudnn_version": lambda: 90_000, "check_compute_capability": lambda capability: True}
    own = {name: getattr(fused_attention_stablehlo, name) for name in names}
    for name, answer in names.items():
        setattr(fused_attention_stablehlo, name, answer)
    try:
        yield
    finally:
        for name, f in own.items():
            setattr(fused_attention_stablehlo, name, f)


def product_flops(eqn: Any, left: Value, right: Value, out: Value) -> float:
    """Of a product other than dot_general. A row of a grouped one meets its own group's matrix only."""
    if eqn.primitive.name == "ragged_dot_general":
        (sums, _), _ = eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
        return 2.0 * math.prod(out.shape) * math.prod(left.shape[i] for i in sums)
    channels = right.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(out.shape) * math.prod(right.shape) / channels


def kernel_flops(eqn: Any, ins: list[Value]) -> float:
    """Of a Pallas kernel the products in its body, as often as its grid runs it; splash attention (whose second operand
    tells which blocks its mask leaves) skips the others. Of cuDNN's attention by formula, half where it is causal."""
    name, p = eqn.primitive.name, eqn.params
    if name == "pallas_call":
        share = ins[1].share if compat.kernel_name(p).startswith("splash") else 1.0
        return share * math.prod(p["grid_mapping"].grid) * _inside(p["jaxpr"])
    if name.startswith(CUDNN):
        q_BTHK, k_BSGK = ins[0].shape, ins[1].shape
        share = 0.5 if "CAUSAL" in str(p.get("mask_type", "")) else 1.0
        # Two products forward; five backward, the scores again among them.
        return share * (4 if "fwd" in name else 10) * math.prod(q_BTHK) * k_BSGK[1]
    return 0.0


def _inside(jaxpr: Any) -> float:
    """FLOPs of the products in a kernel's body; of branches the one that computes most."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (sums, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[i] for i in sums)
        elif eqn.primitive.name == "cond":
            total += max(_inside(branch.jaxpr) for branch in eqn.params["branches"])
        else:
            total += eqn.params.get("length", 1) * sum(map(_inside, _programs(eqn.params)))
    return total


def _programs(params: dict[str, Any]) -> Iterator[Any]:
    for x in params.values():
        inner = getattr(x, "jaxpr", x)
        if hasattr(inner, "eqns"):
            yield inner
