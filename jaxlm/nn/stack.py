"""A period of blocks repeated many times, compiled once; and the two layouts of its parameters.

Stacked: every weight has a leading axis of N periods and one `nn.scan` runs them (training; compile time does not
grow with depth). Unstacked: one tree a period and plain calls (decoding; a scan would copy each layer's slice of
the weights for every token). `stack` and `unstack` turn one into the other.
"""

import dataclasses
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.nn.block import BlockConfig
from jaxlm.nn.context import Context

POLICIES = {  # what the backward pass need not compute again
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names("attention"),
    "qkv": jax.checkpoint_policies.save_only_these_names("attention", "qkv"),
    "mlp": jax.checkpoint_policies.save_only_these_names("attention", "qkv", "mlp"),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "none": None,  # no rematerialisation
}


@dataclasses.dataclass(frozen=True)
class SegmentConfig:
    """`repeat` periods of these blocks, e.g. 5 x (local, local, local, local, local, global)."""

    blocks: tuple[BlockConfig, ...]
    repeat: int = 1

    def __post_init__(self):
        if not self.blocks or self.repeat < 1:
            raise UserError(f"a segment needs blocks and repeat >= 1, got {len(self.blocks)} and {self.repeat}")

    @property
    def layers(self) -> int:
        return self.repeat * len(self.blocks)


class Period(nn.Module):
    """x_BTD, context, pasts -> x_BTD, (states, statistics): one tuple entry a block."""

    c: SegmentConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, pasts: Any) -> tuple[Array, Any]:
        outs = []
        for i, block in enumerate(self.c.blocks):
            x_BTD, out = block.build(self.depth, f"block_{i}")(x_BTD, context, None if pasts is None else pasts[i])
            outs.append(out)
        return x_BTD, tuple(zip(*outs))


class Stack(nn.Module):
    """A segment of the model; see the file's first lines for `stacked`.

    States and statistics come back with a leading axis of periods, or as a tuple of periods when not stacked; pasts
    are taken in the same form.
    """

    c: SegmentConfig
    depth: int
    remat: str = "none"
    unroll: int = 1
    stacked: bool = True

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, pasts: Any = None) -> tuple[Array, Any]:
        if not self.stacked:
            outs = []
            for i in range(self.c.repeat):
                x_BTD, out = Period(self.c, self.depth, name=str(i))(
                    x_BTD, context, None if pasts is None else pasts[i]
                )
                outs.append(out)
            return x_BTD, tuple(zip(*outs))
        # prevent_cse=False: a scan's body cannot be merged with its backward pass anyway.
        period = Period if self.remat == "none" else nn.remat(Period, prevent_cse=False, policy=POLICIES[self.remat])
        scan = nn.scan(
            period,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=cast(Any, (nn.broadcast, 0)),
            length=self.c.repeat,
            unroll=self.unroll,
        )
        return scan(self.c, self.depth, name="periods")(x_BTD, context, pasts)


def unstack(params: Params) -> Params:
    """One tree a period from the stacked layout of a whole model's parameters."""
    return {
        name: {str(i): jax.tree.map(lambda x, i=i: x[i], tree["periods"]) for i in range(_length(tree["periods"]))}
        if "periods" in tree
        else tree
        for name, tree in params.items()
    }


def stack(params: Params) -> Params:
    """The inverse of `unstack`."""
    return {
        name: {"periods": jax.tree.map(lambda *xs: jnp.stack(xs), *(tree[str(i)] for i in range(len(tree))))}
        if name.startswith("segment_")
        else tree
        for name, tree in params.items()
    }


def _length(tree: Params) -> int:
    return jax.tree.leaves(tree)[0].shape[0]
