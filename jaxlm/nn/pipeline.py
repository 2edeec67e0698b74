"""Pipeline parallelism: how a group of layers is computed on a mesh that divides its layers over stages."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn.context import Context
from jaxlm.ops import routing
from jaxlm.ops.pipeline import merge, pipeline, split

PER_STAGE = 4  # microbatches a stage: about a fifth of the time is idle


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """Pipeline schedule on a mesh that divides layers; it means nothing on others. See `ops.pipeline` for what it
    costs."""

    microbatches: int | None = None  # at most, as many as divide a device's rows; None: 4 a stage
    rounds: int = 1  # times that a microbatch passes each stage: less idle time, more traffic
    remat: bool = True  # keep only what a stage is given, and compute its layers again for the backward pass

    def __post_init__(self):
        check(self, microbatches=">= 1", rounds=">= 1")

    def parts(self, rows: int, S: int) -> int:
        """Into how many microbatches a device's rows are cut over S stages."""
        return max(n for n in range(1, (self.microbatches or PER_STAGE * S) + 1) if rows % n == 0)


def staged(
    period: Callable,
    c: PipelineConfig,
    params_N: Params,
    numbers_N: Array,
    x_BTD: Array,
    context: Context,
    pasts_N: Any,
    key: Array | None,
) -> tuple[Array, Any]:
    """N periods one after the other, divided over the stages of the current mesh.

    `period(params, x_BTD, context, number, past, key)` is one of them; it and this return what `nn.stack.Stack` does.
    Where there is a past (decoding) there is no pipeline: every stage computes everything. States and statistics are
    those of the whole batch, but for experts of limited capacity, who have it for each microbatch. Dropout draws for
    each microbatch by itself: its masks depend on how many there are, and on nothing else of the mesh.
    """

    def block(layers: Any, x_BTD: Array, given: Any) -> tuple[Array, Any]:
        context, key = given

        def one(x_BTD, layer):
            params, number, past = layer
            own = None if key is None else jax.random.fold_in(key, number)
            return period(params, x_BTD, context, number, past, own)

        return jax.lax.scan(one, x_BTD, layers)

    N, B, S = len(numbers_N), len(x_BTD), sharding.mesh_size("layers")
    layers_N = params_N, numbers_N, pasts_N
    context = dataclasses.replace(context, layer=None)  # each has its own
    if pasts_N is not None:
        return block(sharding.lead(layers_N, None), x_BTD, (context, key))
    if N % (S * c.rounds):
        raise UserError(
            f"a group of {N} periods cannot be divided over mesh stage={S} in rounds={c.rounds}: their product must "
            "divide it"
        )
    M = c.parts(B // sharding.mesh_size("batch"), S)
    cut = lambda x: split(x, M) if len(x) == B else jnp.broadcast_to(x[None], (M, *x.shape))
    given_M = jax.tree.map(cut, context), None if key is None else jax.random.split(key, M)
    x_M = split(x_BTD, M)
    x_M, (states_MN, statistics_MN) = pipeline(block, layers_N, x_M, given_M, rounds=c.rounds, remat=c.remat)
    states_N = jax.tree.map(jax.vmap(merge, in_axes=1), states_MN)
    return merge(x_M), (states_N, tuple(routing.mean_of(parts) for parts in statistics_MN))
