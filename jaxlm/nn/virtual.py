"""Virtual tokens, learned, before every text: prompt tuning, and prefix tuning, which learns what layers read."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.nn.attention import AttentionConfig
from jaxlm.nn.context import Context
from jaxlm.nn.stack import LayersConfig, run
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class VirtualConfig:
    """n virtual tokens before every text, whose own positions begin behind them.

    Their embeddings are weights (prompt tuning; Lester et al. 2021, arXiv:2104.08691), or with `prefix` their keys and
    values in every layer (prefix tuning; Li & Liang 2021, arXiv:2101.00190). Each text of a packed row sees them.
    """

    n: int = 16
    prefix: bool = False

    def __post_init__(self):
        check(self, n=">= 1")

    def sizes(self, groups: Sequence[LayersConfig]) -> tuple[int, int, int]:
        """Layers, key/value heads and their width. Raises UserError for layers that are no plain attention alike."""
        mixers = [mixer for group in groups for block in group.blocks for mixer in block.mixers]
        kinds = {(mixer.groups, mixer.K) if type(mixer) is AttentionConfig else None for mixer in mixers}
        if len(kinds) != 1 or kinds == {None} or any(len(b.mixers) != 1 for group in groups for b in group.blocks):
            raise UserError("virtual tokens need one attention in every layer, all with as many and as wide key heads")
        G, K = next(iter(filter(None, kinds)))
        return sum(group.depth for group in groups), G, K

    def behind(self, positions_BT: Array, T: int, table: Any) -> Array:
        """Positions of text of T tokens. Raises UserError where a table of learned ones has not as many."""
        if self.n + T > getattr(table, "length", self.n + T):
            raise UserError(f"{T} tokens behind {self.n} virtual ones, but the model has {table.length} positions")
        return positions_BT + self.n

    def keys_values(self, module: nn.Module, groups: Sequence[LayersConfig]) -> Array:
        """The weight `prefix` as `Context` has it."""
        N, G, K = self.sizes(groups)
        names = (None, None, "heads", None)
        w_nZGK = weight(module, "prefix", (self.n, 2 * N, G, K), names, init.EMBEDDING)
        return jnp.moveaxis(w_nZGK.reshape(self.n, N, 2, G, K), 0, 3)

    def prompt(self, module: nn.Module, D: int, dtype: Any) -> Array:
        """The weight `prompt` (1, n, D)."""
        w_nD = weight(module, "prompt", (self.n, D), (None, "embed"), init.EMBEDDING)
        return sharding.constrain(w_nD, None, None).astype(dtype)[None]


class Layers(nn.Module):
    """All layers of a causal model, x_BTD -> states."""

    c: Any
    stacked: bool

    @nn.compact
    def __call__(self, x_BTD: Array) -> tuple:
        return run(self.c, self.c.layers, self.stacked, x_BTD, Context(jnp.arange(x_BTD.shape[1])[None]))[1]


def read(c: Any, stacked: bool, params: Params, x_1nD: Array) -> Array:
    """What the layers of a causal model with these parameters make of virtual tokens, as `Context` has it: no later
    token changes it."""
    B = sharding.mesh_size("batch")  # copies, so that the mesh divides them
    x_BnD = sharding.constrain(jnp.broadcast_to(x_1nD, (B, *x_1nD.shape[1:])), *sharding.stream(x_1nD.shape[1]))
    groups: Any = Layers(c, stacked, parent=None).apply({"params": params}, x_BnD)
    found = []
    for group in groups:
        periods = [group] if stacked else group
        for period in periods:
            blocks = [jnp.stack([_one(x, stacked) for x in state.value], -4) for state in period]  # (N, 2, G, n, K)
            found.append(jnp.stack(blocks, -5).reshape(-1, *blocks[0].shape[-4:]))
    return jnp.concatenate(found)


def _one(x: Array, stacked: bool) -> Array:
    """(..., B, G, n, K) -> (..., G, n, K)."""
    x = sharding.constrain(x, *[None] * (1 + stacked), "heads", None, None)
    return x[:, 0] if stacked else x[0]


def before(module: nn.Module, c: VirtualConfig, x_BTD: Array, *ids: tuple[Array | None, Any]) -> tuple[Any, ...]:
    """x_BTD with the prompt before it, and of each (ids_BT, those of the prompt) both together; None stays None."""
    B, T, D = x_BTD.shape
    prompt_BnD = jnp.broadcast_to(c.prompt(module, D, x_BTD.dtype), (B, c.n, D))
    whole = lambda x: sharding.constrain(x, "batch", *[None] * (x.ndim - 1))
    x_BTD = jnp.concatenate([whole(prompt_BnD), whole(x_BTD)], 1)
    wide = lambda x, n: whole(jnp.broadcast_to(jnp.asarray(x, jnp.int32), (B, n)))
    both = (x if x is None else jnp.concatenate([wide(new, c.n), wide(x, T)], 1) for x, new in ids)
    return (sharding.constrain(x_BTD, *sharding.stream(T + c.n)), *both)


def behind(c: VirtualConfig, x_BTD: Array) -> Array:
    """The inverse: x_BTD without its first n."""
    x_BTD = sharding.constrain(x_BTD, "batch", None, None)[:, c.n :]
    return sharding.constrain(x_BTD, *sharding.stream(x_BTD.shape[1]))


def zeros(c: VirtualConfig, groups: Sequence[LayersConfig], dtype: Any) -> Array:
    """As `read` gives, before there are parameters."""
    N, G, K = c.sizes(groups)
    return jnp.zeros((N, 2, G, c.n, K), dtype)
