"""Methods of quantisation that read texts first, by name."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxlm.axes import Params
from jaxlm.errors import UserError, unknown
from jaxlm.models import ModelConfig
from jaxlm.tune.awq import awq, smoothquant
from jaxlm.tune.calibrate import Row, by_inputs
from jaxlm.tune.gptq import gptq
from jaxlm.tune.quantize import KINDS, stored

METHODS: dict[str, tuple[Callable, str]] = {  # and the kind that the result is of
    "gptq4": (gptq, "int4"),
    "gptq8": (gptq, "int8"),
    "awq4": (awq, "int4"),
    "smoothquant": (smoothquant, "w8a8"),
}


def calibrated(
    config: ModelConfig,
    params: Params,
    method: str,
    batches: Iterable[Any],
    group: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Params, list[Row]]:
    """The parameters quantised by "gptq4", "gptq8", "awq4" or "smoothquant", and the errors by layer beside those of
    rounding to the nearest; see `tune.gptq`, `tune.awq` and `tune.calibrate.by_inputs`, which says what `batches` are.

    Raises UserError for an unknown method, groups that do not divide a matrix's inputs, and for no batches.
    """
    check(method)
    change, kind = METHODS[method]
    if change is not smoothquant:
        change = functools.partial(change, kind=kind, group=group)
    elif group is not None:
        raise UserError(f"group={group} is of weights in 4 bits: {method} has a scale for each output")
    group = group if kind == "int4" else None
    nearest = lambda m: _nearest(m.w, m.axes, m.name if group else "", kind, group)
    return by_inputs(config, params, batches, change, nearest, say)


_nearest = jax.jit(stored, static_argnums=(1, 2, 3, 4))


def check(method: str) -> None:
    """Raises UserError for a method that there is not."""
    if method not in METHODS:
        raise unknown("method of quantisation", method, (*METHODS, *KINDS))
