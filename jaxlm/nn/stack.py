"""Scan over layers: a period of blocks repeated many times, compiled once; and the two layouts of its parameters.

Stacked: every weight has a leading axis of N periods and one `nn.scan` runs them (training; compile time does not
grow with depth). Unstacked: one tree a period and plain calls (decoding; a scan would copy each layer's slice of
the weights for every token). `stack` and `unstack` turn one into the other. A mesh that divides layers makes a
pipeline of a stacked group, unless it has fewer periods than there are stages.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.errors import UserError, unknown
from jaxlm.nn.context import Context
from jaxlm.nn.mixer import LayerConfig
from jaxlm.nn.pipeline import PipelineConfig, staged
from jaxlm.nn.state import with_handed

_names = jax.checkpoint_policies.save_only_these_names
POLICIES = {  # what the backward pass need not compute again
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(  # as "attention", and all in host memory
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["block", "attention"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
    "full": jax.checkpoint_policies.nothing_saveable,  # nothing but what a block reads
    "attention": _names("attention"),
    "qkv": _names("attention", "qkv"),
    "dots_except_mlp": _names("attention", "qkv", "out"),
    "mlp": _names("attention", "qkv", "mlp"),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # all products with weights, but no attention
    "none": None,  # no rematerialisation
}


def check_policy(name: str) -> None:
    """Raises UserError for a name that is not in `POLICIES`."""
    if name not in POLICIES:
        raise unknown("remat policy", name, POLICIES)


@dataclasses.dataclass(frozen=True)
class LayersConfig:
    """A group of layers: `repeat` periods of these blocks, e.g. 5 x (local, local, local, local, local, global)."""

    blocks: tuple[LayerConfig, ...]
    repeat: int = 1
    remat: str | None = None  # a name of POLICIES for these layers; None: the model's

    def __post_init__(self):
        if self.remat is not None:
            check_policy(self.remat)
        check(self, repeat=">= 1")
        if not self.blocks:
            raise UserError("a group of layers needs at least one block")

    @property
    def depth(self) -> int:
        return self.repeat * len(self.blocks)


def group_layers(blocks: Sequence[LayerConfig]) -> tuple[LayersConfig, ...]:
    """The layers `blocks`, in order, as groups that compile the fewest different blocks (then: the fewest groups).

    Thirty-four layers of which every sixth is global are five periods of six and one of the four that are left.
    """
    numbers: dict[Any, int] = {}
    ids = [numbers.setdefault(block, len(numbers)) for block in blocks]
    best: list[tuple[int, int, tuple[LayersConfig, ...]]] = [(0, 0, ())]
    for end in range(1, len(ids) + 1):
        found = []
        for start in reversed(range(end)):  # of equals, the longest head: the pattern as it is published
            compiled, count, before = best[start]
            length = end - start
            p = next(
                p for p in range(1, length + 1) if length % p == 0 and ids[start + p : end] == ids[start : end - p]
            )
            found.append((compiled + p, count + 1, before, start, p))
        compiled, count, before, start, p = min(found, key=lambda one: one[:2])
        group = LayersConfig(tuple(blocks[start : start + p]), (end - start) // p)
        best.append((compiled, count, (*before, group)))
    return best[-1][2]


class Period(nn.Module):
    """x_BTD, context, number of its first layer, pasts -> x_BTD, (states, statistics): one tuple entry a block.

    With `remat` the backward pass computes one block again at a time.
    """

    c: LayersConfig
    depth: int
    remat: str = "none"

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, layer: Any, pasts: Any) -> tuple[Array, Any]:
        apply: Callable = lambda block, x_BTD, *more: block(checkpoint_name(x_BTD, "block"), *more)
        if self.remat != "none":
            # A body of one block cannot be merged with its backward pass anyway; of several each waits for the next.
            several = len(self.c.blocks) > 1
            apply = nn.remat(apply, prevent_cse=several, policy=POLICIES[self.remat])
            if several:
                apply = nn.custom_vjp(apply, functools.partial(nn.vjp, apply), _in_turn)
        outs = []
        for i, block in enumerate(self.c.blocks):
            here, past = dataclasses.replace(context, layer=layer + i), None if pasts is None else pasts[i]
            x_BTD, out = apply(block.build(self.depth, place(0, block=i)[2]), x_BTD, here, past)
            context = with_handed(context, out[0])
            outs.append(out)
        return x_BTD, tuple(zip(*outs))


def _in_turn(backward: Callable, grads: Any) -> tuple[Any, ...]:
    """A block's gradients all at once: those of its weights, once there, free what they read before the next begins."""
    params, x_BTD, *rest = backward(grads)
    return (*jax.lax.optimization_barrier((params, x_BTD)), *rest)


class Stack(nn.Module):
    """A group of layers of the model; see the file's first lines for `stacked`.

    `context.layer` is the number of its first layer. States and statistics come back with a leading axis of periods,
    or as a tuple of periods when not stacked; pasts are taken in the same form.
    """

    c: LayersConfig
    depth: int
    remat: str = "none"
    unroll: int = 1
    stacked: bool = True
    pipeline: PipelineConfig = PipelineConfig()

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, pasts: Any = None) -> tuple[Array, Any]:
        firsts = range(0, self.c.depth, len(self.c.blocks))  # of each period
        if not self.stacked:
            outs = []
            for i, first in enumerate(firsts):
                period, past = Period(self.c, self.depth, name=str(i)), None if pasts is None else pasts[i]
                x_BTD, out = period(x_BTD, context, context.layer + first, past)
                outs.append(out)
            return x_BTD, tuple(zip(*outs))
        numbers = context.layer + jnp.array(firsts)
        remat = self.c.remat or self.remat
        if 1 < sharding.mesh_size("layers") <= self.c.repeat and not self.is_initializing():

            def apply(params, x_BTD, context, number, past, key):
                rngs = {} if key is None else {"dropout": key}
                module = Period(self.c, self.depth, remat, parent=None)
                return module.apply({"params": params}, x_BTD, context, number, past, rngs=rngs)

            params = self.variables["params"][PERIODS]
            key = self.make_rng("dropout") if self.has_rng("dropout") else None
            return staged(apply, self.pipeline, params, numbers, x_BTD, context, pasts, key)
        scan = nn.scan(
            Period,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=cast(Any, (nn.broadcast, 0, 0)),
            length=self.c.repeat,
            unroll=self.unroll,
        )
        return scan(self.c, self.depth, remat, name=PERIODS)(x_BTD, context, numbers, pasts)


def run(
    c: Any, groups: Sequence[LayersConfig], stacked: bool, x_BTD: Array, context: Context, pasts: Any = None
) -> tuple[Array, tuple, tuple]:
    """Within a module: x_BTD through all its groups of layers, with each one's states and statistics.

    `c` is the config of the model: how its layers are computed.
    """
    outs, depth = [], sum(group.depth for group in groups)
    for i, group in enumerate(groups):
        layers = Stack(group, depth, c.remat, c.unroll, stacked, c.pipeline, name=place(i)[0])
        x_BTD, out = layers(x_BTD, context, None if pasts is None else pasts[i])
        context = dataclasses.replace(context, layer=context.layer + group.depth)
        context = with_handed(context, out[0], stacked)
        outs.append(out)
    states, statistics = zip(*outs)
    return x_BTD, states, statistics


# Where the weights of layers stand -----------------------------------------------------------------------------------

GROUP, PERIODS = "segment_", "periods"  # as checkpoints have them; in the second all periods are stacked


def place(group: int, period: int | None = None, block: int = 0) -> tuple[str, str, str]:
    """Where the weights of a block stand in those of a stack: of all periods, or of one where they are apart."""
    return f"{GROUP}{group}", PERIODS if period is None else str(period), f"block_{block}"


def is_stacked(params: Params) -> bool:
    """Whether any part of a model's parameters is stacked."""
    return isinstance(params, Mapping) and (PERIODS in params or any(map(is_stacked, params.values())))


def unstack(params: Params) -> Params:
    """One tree a period from the stacked layout of a whole model's parameters. Stages of the current mesh, which divide
    a stack, have all of it then."""
    if not isinstance(params, Mapping):
        return params
    if PERIODS not in params:
        return {name: unstack(tree) for name, tree in params.items()}
    tree = params[PERIODS]
    tree = sharding.lead(tree, None) if sharding.mesh_size("layers") > 1 else tree
    return {str(i): jax.tree.map(lambda x, i=i: x[i], tree) for i in range(jax.tree.leaves(tree)[0].shape[0])}


def stack(params: Params) -> Params:
    """The inverse of `unstack`."""
    if not isinstance(params, Mapping):
        return params
    if "0" not in params:
        return {name: stack(tree) for name, tree in params.items()}
    return {PERIODS: jax.tree.map(lambda *xs: jnp.stack(xs), *(params[str(i)] for i in range(len(params))))}
