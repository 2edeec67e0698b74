"""Additive attention to a memory: the module that owns the scoring network."""

import dataclasses

import flax.linen as nn

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.nn import init
from jaxlm.ops.additive import additive_attention
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class AdditiveAttentionConfig:
    """Additive attention: scores v . tanh(W x + U h) of F hidden units (Bahdanau et al. 2015, arXiv:1409.0473)."""

    F: int

    def __post_init__(self):
        check(self, F=">= 1")

    def build(self, name: str) -> nn.Module:
        return AdditiveAttention(self, name=name)


class AdditiveAttention(nn.Module):
    """x_BTD, memory_BSD, mask_BS, key_BSF -> c_BTD, weights_BTS, key_BSF.

    The memory may be of another width than x, which the result then has. `mask_BS` is False on padding. The projected
    memory comes back, to be given with the next query: it is computed once.
    """

    c: AdditiveAttentionConfig

    @nn.compact
    def __call__(
        self, x_BTD: Array, memory_BSD: Array, mask_BS: Array | None = None, key_BSF: Array | None = None
    ) -> tuple[Array, Array, Array]:
        def project(name: str, x: Array) -> Array:
            w_DF = weight(self, name, (x.shape[-1], self.c.F), ("embed", None), init.fan_in((0,)), (0,))
            return einsum("btd,df->btf", x, w_DF.astype(x.dtype))

        query_BTF = project("query", x_BTD)
        if key_BSF is None:
            key_BSF = sharding.replicated(project("key", memory_BSD), 1)
        score_F = weight(self, "score", (self.c.F,), (None,), init.fan_in((0,)), (0,))
        mask_BS = None if mask_BS is None else sharding.replicated(mask_BS, 1)
        c_BTD, p_BTS = additive_attention(query_BTF, key_BSF, sharding.replicated(memory_BSD, 1), score_F, mask_BS)
        return c_BTD, p_BTS, key_BSF
