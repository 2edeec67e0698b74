"""Differential attention: the difference of two attentions, so that what both give by accident cancels."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn.attention import Attention, AttentionConfig
from jaxlm.nn.context import Context
from jaxlm.ops.norms import rms_norm
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class DifferentialConfig(AttentionConfig):
    """Differential attention: H / 2 pairs of query heads, h and h + H/2, of which each gives
    o = (1 - l0) rms_norm((softmax_1 - l softmax_2) [v_1; v_2])

    with l = exp(a1 . b1) - exp(a2 . b2) + l0 and l0 = 0.8 - 0.6 exp(-0.3 n) in layer n (Ye et al. 2024,
    arXiv:2410.05258). The values of a pair are the two heads' values side by side.
    """

    eps: float = 1e-5
    deviation: float = 0.1  # of the initial a1, b1, a2, b2

    def __post_init__(self):
        super().__post_init__()
        check(self, eps=">= 0", deviation=">= 0")
        if self.H % 2:
            raise UserError(f"differential attention pairs its heads: H={self.H} must be even")

    def build(self, depth: int, name: str) -> nn.Module:
        return Differential(self, depth, name=name)

    def score_flops(self, T: int) -> float:
        """As that of `AttentionConfig`, with values twice as wide."""
        return 1.5 * super().score_flops(T)


class Differential(Attention):
    """As `Attention`; the state is the same."""

    c: DifferentialConfig

    def _read(self, k: Array, v: Array, heads: int) -> tuple[Array, Array]:
        """For every key head, the values of both heads of its pair. Query heads are paired: where that does not pair
        the key heads too, these are repeated first."""
        half, R = self.c.H // 2, self.c.H // self.c.groups
        if self.c.groups % 2:
            k, v = jnp.repeat(k, R, heads), jnp.repeat(v, R, heads)
        else:
            half //= R
        names = ["batch", None, None, None]
        if heads == 2:  # of the tokens computed, not of a cache
            names[1] = sharding.rows(v.shape[1])[1]
        first, second = jnp.split(sharding.constrain(v, *names), [half], heads)  # pairs may lie on different devices
        names[heads] = "heads"
        pair = jnp.concatenate([first, second], -1)
        return k, sharding.constrain(jnp.concatenate([pair, pair], heads), *names)

    def _combine(self, o_BTHJ: Array, context: Context) -> Array:
        c = self.c
        init = nn.initializers.normal(c.deviation)
        vector_K = lambda name: weight(self, f"lambda_{name}", (c.K,), (None,), init).astype(jnp.float32)
        a1, b1, a2, b2 = map(vector_K, ("q1", "k1", "q2", "k2"))
        start = 0.8 - 0.6 * jnp.exp(-0.3 * jnp.asarray(context.layer, jnp.float32))
        mix = jnp.exp(jnp.sum(a1 * b1)) - jnp.exp(jnp.sum(a2 * b2)) + start
        first, second = jnp.split(o_BTHJ, 2, 2)
        o_BTHJ = first - mix.astype(o_BTHJ.dtype) * second
        return rms_norm(o_BTHJ, eps=c.eps) * (1 - start).astype(o_BTHJ.dtype)
