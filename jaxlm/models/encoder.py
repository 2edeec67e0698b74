"""The bidirectional encoder: every token sees all of its text. Families and sizes are configs of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.models.heads import HeadConfig, MaskedHead, dense, first
from jaxlm.models.model import ModelConfig, Output, Path, check_dtype, logits
from jaxlm.nn.branches import drop
from jaxlm.nn.context import Context
from jaxlm.nn.embed import AbsoluteConfig, Embed, LearnedConfig, Types
from jaxlm.nn.norm import LayerNormConfig, NormConfig
from jaxlm.nn.pipeline import PipelineConfig
from jaxlm.nn.stack import LayersConfig, check_policy, run
from jaxlm.nn.virtual import VirtualConfig, before, behind


@dataclasses.dataclass(frozen=True)
class EncoderConfig(ModelConfig):
    """A Transformer encoder with a head (BERT; Devlin et al. 2019, arXiv:1810.04805). Its layers' mixers are not
    causal."""

    V: int  # vocabulary
    D: int  # model width
    layers: tuple[LayersConfig, ...]
    positions: AbsoluteConfig | None = LearnedConfig(512)  # added to the embedding
    types: int = 0  # kinds of token, such as first and second text, whose vectors are added too
    embed_norm: NormConfig | None = LayerNormConfig()  # of the sum
    embed_width: int | None = None  # of all three; None: D, else a product leads to D after the norm
    embed_scale: float = 1.0  # of the embedding
    norm: NormConfig | None = None  # after the last layer; post-norm layers need none
    head: HeadConfig | None = MaskedHead()  # None: hidden states alone
    pooler: bool = False  # whether the text has a vector tanh(x_0 W + b), of its first token
    next_sentence: bool = False  # whether two logits of that vector say that the second text follows the first
    dropout: float = 0.0  # of the embedding
    dtype: str = "float32"  # of activations and matmuls; weights are float32
    remat: str = "none"  # what the backward pass computes again: a name of nn.stack.POLICIES
    unroll: int = 1  # periods per iteration of the scan over layers
    pipeline: PipelineConfig = PipelineConfig()  # where the mesh divides layers
    virtual: VirtualConfig | None = None  # learned tokens before every row, of one text

    def __post_init__(self):
        check(self, V=">= 1", D=">= 1", types=">= 0", embed_width=">= 1", unroll=">= 1", dropout="[0, 1)")
        if not self.layers:
            raise UserError("a model needs at least one group of layers")
        check_dtype(self.dtype)
        check_policy(self.remat)
        if self.virtual is not None:
            self.virtual.sizes(self.layers)
        if all(mixer.causal for mixer in flops.mixers(self)):
            raise UserError("an encoder's tokens see what follows: set causal=false in its mixers")
        if not self.pooler and (self.next_sentence or (self.head is not None and self.head.pooled)):
            raise UserError("the head reads the pooled text: set pooler=true")

    def build(self, stacked: bool = True) -> "Encoder":
        return Encoder(self, stacked)

    def example(self) -> tuple[Any, ...]:
        return (jnp.zeros((1, 1), jnp.int32),)

    def stacks(self) -> dict[Path, tuple[LayersConfig, ...]]:
        return {(): self.layers}

    def flops(self, lengths: Mapping[str, int]) -> float:
        of_text = {"pooler", "next_sentence"}
        if self.head is not None and self.head.of_text:
            of_text |= {"transform", "head"}
        once = sum(w.size for w in flops.weights(self) if w.axes.inputs and w.path[0] in of_text)
        return lengths["T"] * flops.train_flops(self, lengths["T"]) - 6 * once * (lengths["T"] - 1)

    @property
    def tied_parameters(self) -> int:
        tied = isinstance(self.head, MaskedHead) and self.head.tied
        return self.V * (self.embed_width or self.D) * tied


@struct.dataclass
class Encoded:
    """What an encoder gives beside what its head reads."""

    last_BTD: Array  # after the last layer (and norm)
    pooled_BD: Array | None = None  # where there is a pooler
    next_B2: Array | None = None  # float32 logits: the second text follows, or is any other


class Encoder(nn.Module):
    """`apply({"params": params}, tokens_BT)` gives the head's float32 logits: (B, T, V) of a `MaskedHead`, (B, T, 1),
    (B, 1, classes), (B, T, classes) or (B, T, 2) of the others; `method="forward"` an `Output`, whose `encoded` is an
    `Encoded`. A "dropout" key in `rngs` turns dropout on. `stacked` tells the layout of the parameters, see `nn.stack`.
    """

    c: EncoderConfig
    stacked: bool = True
    shared: Mapping[str, nn.Module] | None = None  # modules of its embedding that another owns, by their names

    def __call__(self, *args: Any, **more: Any) -> Array:
        if self.c.head is None:
            raise UserError("this encoder has no head, so no logits: it gives hidden states")
        return logits(self.c, self.forward(*args, **more))

    @nn.compact
    def forward(
        self,
        tokens_BT: Array,
        positions_BT: Array | None = None,
        segments_BT: Array | None = None,
        types_BT: Array | None = None,
        global_BA: Array | None = None,
    ) -> Output:
        """Positions count from 0, all tokens are one segment (0 is padding) and of type 0 unless given. `global_BA`
        are the places of tokens that see all, see `nn.context.Context`."""
        c = self.c
        x_BTD, table_VD, context = self.embed(tokens_BT, positions_BT, segments_BT, types_BT, global_BA)
        x_BTD, states, statistics = run(c, c.layers, self.stacked, x_BTD, context)
        if c.norm is not None:
            x_BTD = c.norm.build("norm")(x_BTD)
        if c.virtual is not None and not c.virtual.prefix:
            x_BTD = behind(c.virtual, x_BTD)
        encoded = Encoded(x_BTD)
        if c.pooler:
            pooled_B1D = jnp.tanh(dense(self, "pooler", first(x_BTD), c.D))
            next_B2 = None
            if c.next_sentence:
                next_B2 = dense(self, "next_sentence", pooled_B1D, 2)[:, 0].astype(jnp.float32)
            encoded = Encoded(x_BTD, pooled_B1D[:, 0], next_B2)
        read = x_BTD, table_VD, None
        if c.head is not None:
            read = c.head.read(self, x_BTD, encoded.pooled_BD, table_VD, segments_BT)
        hidden_BTD, head_VD, bias_V = read
        return Output(hidden_BTD, head_VD, states, {(): statistics}, bias_V, encoded)

    def embed(
        self,
        tokens_BT: Array,
        positions_BT: Array | None,
        segments_BT: Array | None,
        types_BT: Array | None,
        global_BA: Array | None,
    ) -> tuple[Array, Array, Context]:
        c, owned = self.c, self.shared or {}
        if positions_BT is None:
            positions_BT = jnp.arange(tokens_BT.shape[1])[None]
        types_BT = jnp.zeros_like(tokens_BT) if types_BT is None else types_BT
        embed = owned.get("embed") or Embed(c.V, c.embed_width or c.D, jnp.dtype(c.dtype), name="embed")
        x_BTD, table_VD = embed(tokens_BT)
        if c.embed_scale != 1:
            x_BTD *= jnp.asarray(c.embed_scale, x_BTD.dtype)
        prefix = None
        if c.virtual is not None:
            n, positions_BT = c.virtual.n, c.virtual.behind(positions_BT, tokens_BT.shape[1], c.positions)
            global_BA = None if global_BA is None else jnp.where(global_BA < 0, global_BA, global_BA + n)
            if c.virtual.prefix:
                prefix = c.virtual.keys_values(self, c.layers)
            else:
                ids = (positions_BT, jnp.arange(n)[None]), (segments_BT, 1), (types_BT, 0)
                x_BTD, positions_BT, segments_BT, types_BT = before(self, c.virtual, x_BTD, *ids)
        assert positions_BT is not None and types_BT is not None
        if c.positions is not None:
            x_BTD = (owned.get("positions") or c.positions.build("positions"))(x_BTD, positions_BT)
        if c.types:
            x_BTD = (owned.get("types") or Types(c.types, name="types"))(x_BTD, types_BT)
        if c.embed_norm is not None:
            x_BTD = c.embed_norm.build("embed_norm")(x_BTD)
        x_BTD = drop(self, x_BTD, c.dropout)
        if c.embed_width is not None:
            x_BTD = dense(self, "embed_in", x_BTD, c.D)
        return x_BTD, table_VD, Context(positions_BT, segments_BT, global_BA=global_BA, prefix_N2GnK=prefix)
