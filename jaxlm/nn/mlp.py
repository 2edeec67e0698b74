"""Position-wise feed-forward networks (MLP), plain and gated (GLU)."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError, unknown
from jaxlm.nn import init
from jaxlm.nn.mixer import FeedForwardConfig
from jaxlm.nn.norm import RMSNormConfig
from jaxlm.ops.activations import ACTIVATIONS, glu, swish, xielu
from jaxlm.sharding import einsum, weight

LEARNED = "xielu"  # an activation that owns weights


@dataclasses.dataclass(frozen=True)
class MLPConfig(FeedForwardConfig):
    """Feed-forward y = act(x up) down, or gated y = (act(x gate) * (x up)) down (GLU; Shazeer 2020,
    arXiv:2002.05202)."""

    F: int  # feed-forward width
    activation: str = "silu"  # a name of ops.activations
    gated: bool = True
    bias: bool = False
    limit: float | None = None  # clamps gate and up, see ops.activations.glu
    swish: float | None = None  # the activation is x sigmoid(swish x) instead
    norm: RMSNormConfig | None = None  # of what "down" multiplies

    def __post_init__(self):
        check(self, F=">= 1", limit="> 0")
        if self.activation not in (*ACTIVATIONS, LEARNED):
            raise unknown("activation", self.activation, (*ACTIVATIONS, LEARNED))
        if self.gated and self.activation == LEARNED:
            raise UserError(f"activation={LEARNED!r} learns its slopes in layers without a gate: set gated=False")
        if self.limit is not None and not self.gated:
            raise UserError(f"limit={self.limit} clamps only gated layers: leave it out or gate")

    def hidden(self, project: Callable[[str], Array], act: Callable[[Array], Array] | None = None) -> Array:
        """What "down" multiplies, given the products with "up" and "gate"."""
        if act is not None:
            return act(project("up"))
        act = ACTIVATIONS[self.activation] if self.swish is None else partial(swish, beta=self.swish)
        return glu(project("gate"), project("up"), act, self.limit) if self.gated else act(project("up"))

    def build(self, depth: int, name: str) -> nn.Module:
        return MLP(self, depth, name=name)


def _xielu(module: nn.Module) -> Callable[[Array], Array]:
    """With slopes of the module's own, 0.8 at first."""
    slope = lambda name, start: weight(
        module, name, (1,), (None,), nn.initializers.constant(math.log(math.expm1(start)))
    )
    positive, negative = slope("alpha_p", 0.8), slope("alpha_n", 0.3)
    return lambda x: xielu(x, positive.astype(x.dtype)[0], negative.astype(x.dtype)[0])


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

        # Said for automatic meshes, whose compiler else divides the gradient by positions.
        act = _xielu(self) if c.activation == LEARNED else None
        h_BTF = sharding.constrain(c.hidden(project, act), *sharding.rows(x_BTD.shape[1])[:2], "mlp")
        if c.norm is not None:
            h_BTF = c.norm.build("norm")(h_BTF)
        w_FD = weight(self, "down", (c.F, D), ("mlp", "embed"), init.residual((0,), self.depth), (0,))
        y_BTD = einsum("btf,fd->btd", h_BTF, w_FD.astype(dtype), out=sharding.stream(x_BTD.shape[1]))
        if c.bias:
            y_BTD += weight(self, "down_bias", (D,), (None,)).astype(dtype)[None, None]
        return y_BTD, {}
