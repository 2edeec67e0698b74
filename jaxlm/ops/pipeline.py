"""Pipeline parallelism: layers divided over stages of devices, and microbatches that pass from one stage to the next.

With S stages, M microbatches and R rounds the layers are cut into R S equal blocks, of which block b belongs to stage
b mod S. A tick is the time of one block for one microbatch. Stage s computes its u-th of M R pieces at tick u + s, so
that all is done after

    M R + S - 1   ticks, of which S - 1 are idle on every stage: the bubble is (S - 1) / (M R + S - 1).

R = 1 is GPipe (Huang et al. 2018, arXiv:1811.06965); R > 1 the interleaved schedule (Narayanan et al. 2021,
arXiv:2104.04473), in which S microbatches at a time go round the ring of stages R times: a smaller bubble for R times
as much traffic between stages, and for one exchange of all weights a step, since they are stored in order.

What is sent: after each tick every stage gives its activations to the next (one collective-permute, and one back for
the gradient); the result is added up over stages once, and so is the gradient of the input. Weights stay where they
are, but what else divides them is done anew at every tick: fsdp gathers them, and their gradients are added up over
data and fsdp, M R + S - 1 times a step. So a pipeline wants few ticks where those axes are large or slow.

What is kept for the backward pass: with `remat` the input of each tick, (M R + S - 1) / M times the activations between
two layers; otherwise all that the blocks keep, in every tick.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array

(STAGE,) = sharding.RULES["layers"]


def ticks(S: int, M: int, R: int = 1) -> int:
    """From the first microbatch in to the last one out."""
    return _pieces(S, M, R) + S - 1


def _pieces(S: int, M: int, R: int) -> int:
    """Of work for a stage; with several rounds S microbatches go round together, some of them empty where S does not
    divide M."""
    return M if R == 1 else -(-M // S) * S * R


def split(x: Array, M: int) -> Array:
    """(B, ...) to (M, B / M, ...): microbatch m has rows m, m + M, ..., so that no row leaves its device."""
    return jnp.moveaxis(x.reshape(len(x) // M, M, *x.shape[1:]), 1, 0)


def merge(x: Array) -> Array:
    """The inverse of `split`."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])


def pipeline(
    block: Callable[[Any, Array, Any], tuple[Array, Any]],
    layers_N: Any,
    x_M: Array,
    given_M: Any = (),
    *,
    rounds: int = 1,
    remat: bool = True,
) -> tuple[Array, Any]:
    """All N layers for M microbatches, the layers divided over the stages of the current mesh.

    Equal to `block(layers_N, x, given)` for every microbatch by itself, in value and gradient.

    Args:
        block: (some of the layers, x, given) -> (x, outs): those layers one after the other. `outs` is a tree of arrays
            with a leading axis of layers. It is called within a shard_map over the stages alone: all other axes of the
            mesh are automatic there, and may have a shard_map of their own (`sharding.shard_map`).
        layers_N: a tree of arrays with a leading axis of N layers, which S * rounds divides.
        x_M: (M, ...), what the first layer reads.
        given_M: a tree of arrays (M, ...) that every layer reads with its microbatch, such as an encoder's output.

    Returns:
        (M, ...) of the last layer, and the tree of outs (M, N, ...), both on all stages.
    """
    run = functools.partial(_automatic, block, rounds, remat)
    if not sharding.explicit():
        return run(layers_N, x_M, given_M)
    # At the edge of a shard_map over some axes of an explicit mesh jax 0.10 gathers all arrays over the other axes. So
    # the mesh is automatic within, and its results get the shardings that they would have had.
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)
    trial = lambda layers_N, x_M, given_M: block(sharding.lead(layers_N, None), x_M[0], first(given_M))
    y, outs_N = jax.eval_shape(trial, layers_N, x_M, given_M)
    where = jax.tree.map(lambda x: jax.P(None, *(x.sharding.spec if x.sharding else ())), (y, outs_N))
    automatic: Callable = jax.sharding.auto_axes(run, out_sharding=where)
    return automatic(layers_N, x_M, given_M)


def _automatic(block: Callable, R: int, remat: bool, layers_N: Any, x_M: Array, given_M: Any) -> tuple[Array, Any]:
    """`pipeline` where the mesh is automatic."""
    S, M = sharding.mesh_size("layers"), len(x_M)
    pieces = _pieces(S, M, R)

    def by_round(x_u):  # a stage's pieces to (R, M, ...)
        if R == 1:
            return x_u[None]
        x_uRS = x_u.reshape(-1, R, S, *x_u.shape[1:])
        return jnp.moveaxis(x_uRS, 1, 0).reshape(R, -1, *x_u.shape[1:])[:, :M]

    def local(layers_n, x_1M, copied_1M, given_M):
        s, (x_M,) = lax.axis_index(STAGE), x_1M
        given_M = jax.tree.unflatten(tree, [x if own is None else own[0] for own, x in zip(copied_1M, given_M)])
        layers_Rn = _to_rounds(layers_n, S, R)

        def tick(x, t):
            piece = jnp.clip(t - s, 0, pieces - 1)  # idle stages compute what nobody reads
            r, m = piece // S % R, jnp.minimum(piece // (S * R) * S + piece % S, M - 1)
            x = jnp.where((s == 0) & (r == 0), _at(x_M, m), x)
            x, outs = block(_at(layers_Rn, r), x, _at(given_M, m))
            return lax.ppermute(x, STAGE, [(i, (i + 1) % S) for i in range(S)]), (x, outs)

        tick = jax.checkpoint(tick, prevent_cse=False) if remat else tick
        _, (x_t, outs_t) = lax.scan(tick, x_M[0], jnp.arange(pieces + S - 1))
        y_M = jnp.where(s == S - 1, by_round(x_t[S - 1 :])[-1], 0)
        own = lambda out_t: by_round(lax.dynamic_slice_in_dim(out_t, s, pieces))[:, :, None]  # (R, M, 1, n, ...)
        return y_M[None], jax.tree.map(own, outs_t)

    on_stage, everywhere = jax.P(STAGE), jax.P()
    run = jax.shard_map(
        local,
        in_specs=(on_stage, on_stage, on_stage, everywhere),
        out_specs=(on_stage, jax.P(None, None, STAGE)),
        axis_names={STAGE},
        check_vma=False,  # with it shard_maps within have no gradient (jax 0.10)
    )
    # Copied before and added up after, where the compiler does it: summing within would do it twice in the backward
    # pass, and bfloat16 sums there end XLA's CPU compiler.
    copies = lambda x: sharding.lead(lax.broadcast(x, (S,)), "layers")
    given, tree = jax.tree.flatten(given_M)
    real = [jnp.issubdtype(x.dtype, jnp.floating) for x in given]  # they have a gradient too
    copied = [copies(x) if has else None for x, has in zip(given, real)]
    shared = [None if has else x for x, has in zip(given, real)]
    y_SM, outs_RMSn = run(sharding.lead(layers_N, "layers"), copies(x_M), copied, shared)
    return lax.reduce_sum(y_SM, (0,)), jax.tree.map(_in_order, outs_RMSn)


def _at(tree: Any, i: Array) -> Any:
    """Entry i of the leading axis."""
    return jax.tree.map(lambda x: x[0] if len(x) == 1 else lax.dynamic_index_in_dim(x, i, keepdims=False), tree)


def _in_order(out_RMSn: Array) -> Array:
    """(R, M, S, n, ...) to (M, N, ...), on all stages."""
    out_SRMn = sharding.lead(jnp.moveaxis(out_RMSn, 2, 0), None)
    out_MRSn = jnp.moveaxis(out_SRMn, (2, 1, 0), (0, 1, 2))
    return out_MRSn.reshape(len(out_MRSn), -1, *out_MRSn.shape[4:])


def _to_rounds(layers_n: Any, S: int, R: int) -> Any:
    """A stage's layers as blocks of each round, (R, n / R, ...): its R consecutive blocks are exchanged for those that
    it computes.

    Stage s has the blocks s R .. s R + R - 1 and wants s, s + S, s + 2 S, ... Every stage sends R blocks and receives
    R, so they can go in R permutations. With g = gcd(R, S) the k-th is that stage s sends its block number
    i = k - k mod g + (k + s g // S) mod g: then (s R + i) mod S, where it goes, is different for every s.
    """
    blocks_R = jax.tree.map(lambda x: x.reshape(R, -1, *x.shape[1:]), layers_n)
    if R == 1:
        return blocks_R
    s, g = lax.axis_index(STAGE), math.gcd(R, S)
    number = lambda k, s: k - k % g + (k + s * g // S) % g
    goes = [[(s, (s * R + number(k, s)) % S) for s in range(S)] for k in range(R)]
    came = np.zeros((S, R), int)  # in which permutation a stage gets its block of a round
    for k, pairs in enumerate(goes):
        for source, target in pairs:
            came[target, (source * R + number(k, source)) // S] = k

    def exchange(x_R):
        sent = [lax.ppermute(_at(x_R, number(k, s)), STAGE, goes[k]) for k in range(R)]
        return jnp.stack(sent)[jnp.asarray(came)[s]]

    return jax.tree.map(exchange, blocks_R)
