"""Position-wise feed-forward layers, plain and gated."""

import dataclasses

import flax.linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.errors import unknown
from jaxlm.nn import init
from jaxlm.ops.activations import ACTIVATIONS
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class MLPConfig:
    """y = act(x up) down, or gated y = (act(x gate) * (x up)) down (GLU; Shazeer 2020, arXiv:2002.05202)."""

    F: int  # feed-forward width
    activation: str = "silu"  # a name of ops.activations
    gated: bool = True
    bias: bool = False

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)

    def build(self, depth: int, name: str) -> nn.Module:
        return MLP(self, depth, name=name)


class MLP(nn.Module):
    """x_BTD -> y_BTD, and no statistics."""

    c: MLPConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array) -> tuple[Array, dict[str, Array]]:
        c, D, dtype = self.c, x_BTD.shape[-1], x_BTD.dtype

        def project(name: str) -> Array:
            w_DF = weight(self, name, (D, c.F), ("embed", "mlp"), init.fan_in((0,)), (0,))
            h_BTF = einsum("btd,df->btf", x_BTD, w_DF.astype(dtype))
            if c.bias:
                h_BTF += weight(self, f"{name}_bias", (c.F,), ("mlp",)).astype(dtype)[None, None]
            return checkpoint_name(h_BTF, "mlp")

        act = ACTIVATIONS[c.activation]
        h_BTF = act(project("gate")) * project("up") if c.gated else act(project("up"))
        w_FD = weight(self, "down", (c.F, D), ("mlp", "embed"), init.residual((0,), self.depth), (0,))
        y_BTD = einsum("btf,fd->btd", h_BTF, w_FD.astype(dtype), out=sharding.stream(x_BTD.shape[1]))
        if c.bias:
            y_BTD += weight(self, "down_bias", (D,), (None,)).astype(dtype)[None, None]
        return y_BTD, {}
