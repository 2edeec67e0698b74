"""The bidirectional encoder: every token sees all of its text. Families and sizes are configs of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError, unknown
from jaxlm.models import flops
from jaxlm.models.model import ModelConfig, Output, Path, check_dtype, logits
from jaxlm.nn import init
from jaxlm.nn.branches import drop
from jaxlm.nn.context import Context
from jaxlm.nn.embed import AbsoluteConfig, Embed, LearnedConfig, Types
from jaxlm.nn.norm import LayerNormConfig, NormConfig
from jaxlm.nn.pipeline import PipelineConfig
from jaxlm.nn.stack import LayersConfig, check_policy, run
from jaxlm.ops.activations import ACTIVATIONS
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class EncoderConfig(ModelConfig):
    """A Transformer encoder with a head for masked tokens (BERT; Devlin et al. 2019, arXiv:1810.04805).

    Its layers' mixers are not causal. The head is act(x W + b), a norm, and the table of the embedding.
    """

    V: int  # vocabulary
    D: int  # model width
    layers: tuple[LayersConfig, ...]
    positions: AbsoluteConfig | None = LearnedConfig(512)  # added to the embedding
    types: int = 0  # kinds of token, such as first and second text, whose vectors are added too
    embed_norm: NormConfig | None = LayerNormConfig()  # of the sum
    norm: NormConfig | None = None  # after the last layer; post-norm layers need none
    activation: str = "gelu"  # of the head
    dropout: float = 0.0  # of the embedding
    dtype: str = "float32"  # of activations and matmuls; weights are float32
    remat: str = "none"  # what the backward pass computes again: a name of nn.stack.POLICIES
    unroll: int = 1  # periods per iteration of the scan over layers
    pipeline: PipelineConfig = PipelineConfig()  # where the mesh divides layers

    def __post_init__(self):
        check(self, V=">= 1", D=">= 1", types=">= 0", unroll=">= 1", dropout="[0, 1)")
        if not self.layers:
            raise UserError("a model needs at least one group of layers")
        if self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)
        check_dtype(self.dtype)
        check_policy(self.remat)
        if all(mixer.causal for mixer in flops.mixers(self)):
            raise UserError("an encoder's tokens see what follows: set causal=false in its mixers")

    def build(self, stacked: bool = True) -> "Encoder":
        return Encoder(self, stacked)

    def example(self) -> tuple[Any, ...]:
        return (jnp.zeros((1, 1), jnp.int32),)

    def stacks(self) -> dict[Path, tuple[LayersConfig, ...]]:
        return {(): self.layers}

    def flops(self, lengths: Mapping[str, int]) -> float:
        return lengths["T"] * flops.train_flops(self, lengths["T"])

    @property
    def tied_parameters(self) -> int:
        return self.V * self.D


class Encoder(nn.Module):
    """`apply({"params": params}, tokens_BT)` gives float32 logits (B, T, V); `method="forward"` an `Output`.

    A "dropout" key in `rngs` turns dropout on. `stacked` tells the layout of the parameters, see `nn.stack`.
    """

    c: EncoderConfig
    stacked: bool = True

    def __call__(
        self,
        tokens_BT: Array,
        positions_BT: Array | None = None,
        segments_BT: Array | None = None,
        types_BT: Array | None = None,
    ) -> Array:
        return logits(self.c, self.forward(tokens_BT, positions_BT, segments_BT, types_BT))

    @nn.compact
    def forward(
        self,
        tokens_BT: Array,
        positions_BT: Array | None = None,
        segments_BT: Array | None = None,
        types_BT: Array | None = None,
    ) -> Output:
        """Positions count from 0, all tokens are one segment (0 is padding) and of type 0 unless given."""
        c = self.c
        x_BTD, table_VD, context = self.embed(tokens_BT, positions_BT, segments_BT, types_BT)
        x_BTD, states, statistics = run(c, c.layers, self.stacked, x_BTD, context)
        if c.norm is not None:
            x_BTD = c.norm.build("norm")(x_BTD)
        w_DD = weight(self, "transform", (c.D, c.D), ("embed", None), init.fan_in((0,)), (0,))
        x_BTD = einsum("btd,de->bte", x_BTD, w_DD.astype(x_BTD.dtype), out=sharding.stream(x_BTD.shape[1]))
        x_BTD += weight(self, "transform_bias", (c.D,), (None,)).astype(x_BTD.dtype)[None, None]
        x_BTD = LayerNormConfig().build("transform_norm")(ACTIVATIONS[c.activation](x_BTD))
        return Output(x_BTD, table_VD, states, {(): statistics})

    def embed(
        self, tokens_BT: Array, positions_BT: Array | None, segments_BT: Array | None, types_BT: Array | None
    ) -> tuple[Array, Array, Context]:
        c = self.c
        if positions_BT is None:
            positions_BT = jnp.arange(tokens_BT.shape[1])[None]
        x_BTD, table_VD = Embed(c.V, c.D, jnp.dtype(c.dtype), name="embed")(tokens_BT)
        if c.positions is not None:
            x_BTD = c.positions.build("positions")(x_BTD, positions_BT)
        if c.types:
            types_BT = jnp.zeros_like(tokens_BT) if types_BT is None else types_BT
            x_BTD = Types(c.types, name="types")(x_BTD, types_BT)
        if c.embed_norm is not None:
            x_BTD = c.embed_norm.build("embed_norm")(x_BTD)
        return drop(self, x_BTD, c.dropout), table_VD, Context(positions_BT, segments_BT)
