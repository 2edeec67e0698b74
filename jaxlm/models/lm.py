"""The decoder-only language model: embedding, groups of repeated layers, norm, head. Families are configs of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.models.model import ModelConfig, Output, Path, check_dtype, logits
from jaxlm.nn import init
from jaxlm.nn.branches import drop
from jaxlm.nn.context import Context
from jaxlm.nn.embed import AbsoluteConfig, Embed
from jaxlm.nn.norm import NormConfig, RMSNormConfig
from jaxlm.nn.pipeline import PipelineConfig
from jaxlm.nn.stack import LayersConfig, check_policy, run
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class LMConfig(ModelConfig):
    """A decoder-only language model: what it is, and how it is computed."""

    V: int  # vocabulary
    D: int  # model width
    layers: tuple[LayersConfig, ...]
    positions: AbsoluteConfig | None = None  # added to the embedding; rotary ones belong to the mixers
    norm: NormConfig | None = RMSNormConfig()  # before the head
    tied: bool = True  # the head is the embedding table
    embed_width: int | None = None  # of the table and the head; None: D, else a product leads to D and one back
    embed_scale: float = 1.0  # of the embedding
    embed_norm: NormConfig | None = None  # of the embedding
    logit_scale: float = 1.0  # of the logits
    softcap: float | None = None  # logits l become c tanh(l / c)
    dropout: float = 0.0  # of the embedding
    dtype: str = "float32"  # of activations and matmuls; weights are float32
    remat: str = "none"  # what the backward pass computes again: a name of nn.stack.POLICIES
    unroll: int = 1  # periods per iteration of the scan over layers
    pipeline: PipelineConfig = PipelineConfig()  # where the mesh divides layers

    def __post_init__(self):
        counts = dict.fromkeys(("V", "D", "embed_width", "unroll"), ">= 1")
        check(self, **counts, softcap="> 0", dropout="[0, 1)")
        if not self.layers:
            raise UserError("a model needs at least one group of layers")
        check_dtype(self.dtype)
        check_policy(self.remat)

    def build(self, stacked: bool = True) -> "LM":
        return LM(self, stacked)

    def example(self) -> tuple[Any, ...]:
        return (jnp.zeros((1, 1), jnp.int32),)

    def stacks(self) -> dict[Path, tuple[LayersConfig, ...]]:
        return {(): self.layers}

    def flops(self, lengths: Mapping[str, int]) -> float:
        return lengths["T"] * flops.train_flops(self, lengths["T"])

    @property
    def decodes(self) -> bool:
        return all(mixer.causal for mixer in flops.mixers(self))

    @property
    def tied_parameters(self) -> int:
        return self.V * (self.embed_width or self.D) * self.tied


class LM(nn.Module):
    """`apply({"params": params}, tokens_BT)` gives float32 logits (B, T, V); `method="forward"` an `Output`.

    A "dropout" key in `rngs` turns dropout on. `stacked` tells the layout of the parameters, see `nn.stack`.
    """

    c: LMConfig
    stacked: bool = True

    def __call__(self, tokens_BT: Array, positions_BT: Array | None = None, segments_BT: Array | None = None) -> Array:
        out = self.forward(tokens_BT, positions_BT, segments_BT)
        return logits(self.c, out)

    @nn.compact
    def forward(
        self,
        tokens_BT: Array,
        positions_BT: Array | None = None,
        segments_BT: Array | None = None,
        pasts: Any = None,
        end: Array | None = None,
        start_B: Array | None = None,
    ) -> Output:
        """Positions count from 0 and all tokens are one segment unless given. `pasts`, `end` and `start_B` belong to
        decoding, see `nn.context.Context`."""
        c = self.c
        if positions_BT is None:
            positions_BT = jnp.arange(tokens_BT.shape[1])[None]
        context = Context(positions_BT, segments_BT, end, start_B)
        width = c.embed_width or c.D
        x_BTD, table_VD = Embed(c.V, width, jnp.dtype(c.dtype), name="embed")(tokens_BT)
        if c.embed_scale != 1:
            x_BTD *= jnp.asarray(c.embed_scale, x_BTD.dtype)
        if c.embed_width is not None:
            x_BTD = self._product("embed_in", x_BTD, c.D)
        if c.embed_norm is not None:
            x_BTD = c.embed_norm.build("embed_norm")(x_BTD)
        if c.positions is not None:
            x_BTD = c.positions.build("positions")(x_BTD, positions_BT)
        x_BTD = drop(self, x_BTD, c.dropout)
        x_BTD, states, statistics = run(c, c.layers, self.stacked, x_BTD, context, pasts)
        if c.norm is not None:
            x_BTD = c.norm.build("norm")(x_BTD)
        if c.embed_width is not None:
            x_BTD = self._product("embed_out", x_BTD, width)
        if c.logit_scale != 1:
            x_BTD *= jnp.asarray(c.logit_scale, x_BTD.dtype)
        head_VD = table_VD
        if not c.tied:
            head_VD = weight(self, "head", (c.V, width), ("vocab", "embed"), init.fan_in((1,)), (1,))
        return Output(x_BTD, head_VD, states, {(): statistics})

    def _product(self, name: str, x_BTD: Array, width: int) -> Array:
        w_DD = weight(self, name, (x_BTD.shape[-1], width), ("embed", None), init.fan_in((0,)), (0,))
        return einsum("btd,de->bte", x_BTD, w_DD.astype(x_BTD.dtype), out=sharding.stream(x_BTD.shape[1]))
