"""Quantisation: parameters in fewer bits."""

import jax

from jaxlm.axes import Params
from jaxlm.errors import unknown
from jaxlm.models import ModelConfig, abstract
from jaxlm.ops.leaves import Int8
from jaxlm.optim import columns
from jaxlm.sharding import Axes

KINDS = ("int8",)


def quantize(config: ModelConfig, params: Params, kind: str = "int8") -> Params:
    """The parameters with every matrix inside the layers stored as `kind`; tables, head and vectors stay as they are.

    They serve wherever parameters do, and each layer's matrices are dense only while it computes. Raises UserError for
    an unknown kind.
    """
    if kind not in KINDS:
        raise unknown("kind of quantisation", kind, KINDS)

    def one(axes: Axes, w):
        matrix = axes.inputs and columns(axes) and "vocab" not in axes.names
        return Int8.of(w, axes.inputs) if matrix else w

    return jax.tree.map(one, abstract(config)[1], params, is_leaf=lambda x: isinstance(x, Axes))
