"""Feed-forward layers read as memories: what each token recalls, and which tokens each memory speaks for.

y = sum_f m_f(x) v_f: row f of the last matrix is a value, and its coefficient m_f(x) = act(x . k_f), or
act(x . g_f) (x . k_f) in a gated layer, tells how well the input matches its key (Geva et al. 2021, arXiv:2012.14913).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.models.lm import LM, LMConfig
from jaxlm.models.model import forward, layers
from jaxlm.nn.mlp import MLPConfig
from jaxlm.nn.stack import unstack

VALUES = 256  # values at a time meet the whole vocabulary


@struct.dataclass
class Memories:
    """The feed-forward of one layer, for the tokens it was given."""

    coefficients_BTF: Array  # m_f(x)
    values_FD: Array  # v_f
    bias_D: Array  # of the layer's output; zero where it has none
    output_BTD: Array  # what the layer computed: coefficients values + bias
    head_VD: Array  # the model's output projection


def memories(config: LMConfig, params: Params, tokens_BT: Array, layer: int, *args: Any) -> Memories:
    """The memories of layer `layer`, counted from 0, as `tokens_BT` call them up.

    `params` in either layout of `nn.stack`; `args` go on as in `models.LM.forward`: positions, segments.
    Raises UserError for a layer that is not there or has not one plain or gated MLP.
    """
    *path, ffn = _place(config, layer)
    name = path[-1]
    params, seen = unstack(params), []

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "__call__" and context.module.path == tuple(path):
            seen.append((args[0], out[0]))
        return out

    with nn.intercept_methods(record):
        head_VD = forward(LM(config, stacked=False), params, tokens_BT, *args).head_VD
    ((x_BTD, output_BTD),) = seen
    for key in path:
        params = params[key]
    values_FD = params["down"]
    (F, D), bias_D = values_FD.shape, params.get("down_bias", jnp.zeros_like(values_FD[0]))

    def recall(down_FD: Array) -> Array:
        """The layer with other values."""
        other = {**params, "down": down_FD}
        if "down_bias" in params:
            other["down_bias"] = jnp.zeros_like(bias_D)
        return ffn.build(config.depth, name).apply({"params": other}, x_BTD)[0]

    # Where rows of the identity stand for the values, the layer's output is their coefficients.
    coefficients = [recall(jnp.eye(F, D, -first)) for first in range(0, F, D)]
    return Memories(jnp.concatenate(coefficients, -1)[..., :F], values_FD, bias_D, output_BTD, head_VD)


def strongest(memories: Memories, count: int = 10) -> tuple[Array, Array]:
    """For each token the memories that add the longest vectors: ids and m_f |v_f| (B, T, count), longest first."""
    length_F = jnp.linalg.norm(memories.values_FD, axis=1)
    strength_BTF = memories.coefficients_BTF.astype(jnp.float32) * length_F[None, None]
    _, ids = jax.lax.top_k(jnp.abs(strength_BTF), count)
    return ids, jnp.take_along_axis(strength_BTF, ids, -1)


def promoted(memories: Memories, count: int = 10) -> tuple[Array, Array]:
    """For each value the tokens that it promotes: ids and scores v_f . e (F, count), most promoted first.

    The value meets the head as it is, without the norm before it, which no value passes alone.
    """
    best = lambda value_D: jax.lax.top_k(memories.head_VD @ value_D, count)
    scores, ids = jax.lax.map(best, memories.values_FD, batch_size=VALUES)
    return ids, scores


def _place(config: LMConfig, layer: int) -> tuple[*tuple[str, ...], MLPConfig]:
    """Where a layer's feed-forward stands in the unstacked parameters, and its config."""
    if not 0 <= layer < config.depth:
        raise UserError(f"layer {layer} is not there: the model has layers 0 .. {config.depth - 1}")
    found = layers(config)[layer]
    mlps = [(name, part) for name, part in found.config.parts.items() if isinstance(part, MLPConfig)]
    if len(mlps) != 1:
        kinds = " and ".join(type(ffn).__name__ for ffn in found.config.ffns) or "no feed-forward"
        raise UserError(f"layer {layer} has not one plain or gated MLP to read as memories, but {kinds}")
    return *found.path(stacked=False), *mlps[0]
