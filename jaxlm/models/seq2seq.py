"""The encoder-decoder: a decoder that writes, layer by layer reading what an encoder made of the source."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.models.model import ModelConfig, Output, Path, check_dtype, layers, logits
from jaxlm.nn import init
from jaxlm.nn.attention import AttentionConfig
from jaxlm.nn.bias import Buckets, SharedBucketsConfig
from jaxlm.nn.branches import drop
from jaxlm.nn.context import Context
from jaxlm.nn.embed import AbsoluteConfig, Embed, SinusoidalConfig
from jaxlm.nn.frames import FramesConfig
from jaxlm.nn.norm import NormConfig
from jaxlm.nn.pipeline import PipelineConfig
from jaxlm.nn.stack import LayersConfig, check_policy, run
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class Seq2SeqConfig(ModelConfig):
    """An encoder and a decoder over one vocabulary (Vaswani et al. 2017, arXiv:1706.03762).

    The encoder's mixers are not causal; the decoder's layers are `nn.BranchesConfig` with a cross attention each. The
    model owns the tables of `nn.SharedBucketsConfig`, one for each of both.
    """

    V: int  # vocabulary
    D: int  # model width
    encoder: tuple[LayersConfig, ...]
    decoder: tuple[LayersConfig, ...]
    positions: AbsoluteConfig | None = SinusoidalConfig()  # added to both embeddings, each with weights of its own
    source: FramesConfig | None = None  # what reads a source of sound, with positions of its own; None: it is tokens
    embed_scale: float = 1.0  # of the embedding
    embed_norm: NormConfig | None = None  # of each embedding
    untrained: int | None = None  # a token whose vector gets no gradient where it is read (BART's padding)
    norm: NormConfig | None = None  # after the last layer of each; post-norm layers need none
    tied: bool = True  # the head is the embedding table
    logit_scale: float = 1.0
    logit_bias: bool = False  # a bias of the logits, which is kept and not trained (BART)
    dropout: float = 0.0  # of the embeddings
    dtype: str = "float32"  # of activations and matmuls; weights are float32
    remat: str = "none"  # what the backward pass computes again: a name of nn.stack.POLICIES
    unroll: int = 1  # periods per iteration of the scan over layers
    pipeline: PipelineConfig = PipelineConfig()  # where the mesh divides layers

    def __post_init__(self):
        check(self, V=">= 1", D=">= 1", unroll=">= 1", dropout="[0, 1)")
        if not self.encoder or not self.decoder:
            raise UserError("an encoder-decoder needs at least one group of layers in each")
        check_dtype(self.dtype)
        check_policy(self.remat)
        if not all(mixer.causal for group in self.decoder for block in group.blocks for mixer in block.mixers):
            raise UserError("a decoder's tokens must not see what follows: set causal=true in its mixers")

    def build(self, stacked: bool = True) -> "Seq2Seq":
        return Seq2Seq(self, stacked)

    def example(self) -> tuple[Any, ...]:
        one = jnp.zeros((1, 1), jnp.int32)
        return one, None, None, None, None, None, one if self.source is None else jnp.zeros((1, 2, self.source.bands))

    @property
    def bucket(self) -> int:
        """To multiples of this the decoder's prompts are padded: of text they are a token or two, and read as long as
        they are."""
        return 1 if self.source is None else 64

    def stacks(self) -> dict[Path, tuple[LayersConfig, ...]]:
        return {("encoder",): self.encoder, ("decoder",): self.decoder}

    @property
    def layers(self) -> tuple[LayersConfig, ...]:
        """Those that write."""
        return self.decoder

    @property
    def decodes(self) -> bool:
        return True

    def flops(self, lengths: Mapping[str, int]) -> float:
        """Of S source and T target positions. Keys and values of cross attention are counted at the target's."""
        S, T = lengths["S"], lengths["T"]
        matmul = {name: 0.0 for name in ("encoder", "decoder", "head")}
        for w in flops.weights(self):
            if w.axes.inputs:
                matmul[w.path[0]] += w.size * w.axes.active
        scores = {name: sum(x.config.score_flops(n) for x in layers(self) if x.stack == (name,)) for name, n in
                  (("encoder", S), ("decoder", T))}  # fmt: skip
        matmul["decoder"] += matmul["head"] + self.tied_parameters
        return sum(n * (6 * matmul[name] + 3 * scores[name]) for name, n in (("encoder", S), ("decoder", T)))

    @property
    def tied_parameters(self) -> int:
        return self.V * self.D * self.tied


class Seq2Seq(nn.Module):
    """`apply({"params": params}, tokens_BT, source_BS=source_BS)` gives float32 logits (B, T, V) of the target tokens;
    `method="forward"` an `Output`, `method="encode"` what the encoder makes of a source.

    A "dropout" key in `rngs` turns dropout on. `stacked` tells the layout of the parameters, see `nn.stack`.
    """

    c: Seq2SeqConfig
    stacked: bool = True

    def __call__(self, tokens_BT: Array, *args: Any, **more: Any) -> Array:
        return logits(self.c, self.forward(tokens_BT, *args, **more))

    @nn.compact
    def encode(self, source_BS: Array, source_segments_BS: Array | None = None) -> Array:
        """What the encoder makes of a source, (B, S, D): of ids (B, S), or of frames of sound (B, 2S, bands)."""
        return self._encode(
            Embed(self.c.V, self.c.D, jnp.dtype(self.c.dtype), name="embed"), source_BS, source_segments_BS
        )[0]

    @nn.compact
    def forward(
        self,
        tokens_BT: Array,
        positions_BT: Array | None = None,
        segments_BT: Array | None = None,
        pasts: Any = None,
        end: Array | None = None,
        start_B: Array | None = None,
        source_BS: Array | None = None,
        source_segments_BS: Array | None = None,
        source_positions_BS: Array | None = None,
    ) -> Output:
        """The source's segments are 0 on its padding. Its positions are given where rows have several pairs: those of
        one segment belong together. `pasts`, `end` and `start_B` belong to decoding, see
        `nn.context.Context`: there the pasts have the source."""
        c, statistics = self.c, {}
        embed = Embed(c.V, c.D, jnp.dtype(c.dtype), name="embed")
        memory_BSD = mask_BS = None
        if source_BS is not None:
            memory_BSD, statistics["encoder",] = self._encode(embed, source_BS, source_segments_BS, source_positions_BS)
            mask_BS = None if source_segments_BS is None else source_segments_BS > 0
        if positions_BT is None:
            positions_BT = jnp.arange(tokens_BT.shape[1])[None]
        context = Context(positions_BT, segments_BT, end, start_B, memory_BSD=memory_BSD, memory_mask_BS=mask_BS)
        if source_positions_BS is not None:
            context = dataclasses.replace(context, memory_segments_BS=source_segments_BS)
        x_BTD, table_VD = self._looked_up(embed, tokens_BT)
        tower = Tower(c, c.decoder, c.positions, self.stacked, name="decoder")
        x_BTD, states, statistics["decoder",] = tower(x_BTD, context, pasts)
        if c.logit_scale != 1:
            x_BTD *= jnp.asarray(c.logit_scale, x_BTD.dtype)
        head_VD = table_VD if c.tied else weight(self, "head", (c.V, c.D), ("vocab", "embed"), init.fan_in((1,)), (1,))
        bias_V = lax.stop_gradient(weight(self, "logit_bias", (c.V,), ("vocab",))) if c.logit_bias else None
        return Output(x_BTD, head_VD, states, statistics, bias_V)

    def _looked_up(self, embed: Embed, ids_BT: Array) -> tuple[Array, Array]:
        x_BTD, table_VD = embed(ids_BT)
        if self.c.untrained is not None:
            x_BTD = jnp.where((ids_BT == self.c.untrained)[..., None], lax.stop_gradient(x_BTD), x_BTD)
        return x_BTD, table_VD

    def _encode(
        self, embed: Embed, source_BS: Array, segments_BS: Array | None, place_BS: Array | None = None
    ) -> tuple[Array, tuple]:
        """The encoder's output and statistics. Positions count from a row's first real token unless given."""
        c = self.c
        tower = Tower(c, c.encoder, c.positions if c.source is None else None, self.stacked, name="encoder")
        if c.source is not None:
            x_BSD = c.source.build(c.D, "frames")(source_BS, jnp.dtype(c.dtype))
            memory_BSD, _, statistics = tower(x_BSD, Context(jnp.arange(x_BSD.shape[1])[None], segments_BS))
            return memory_BSD, statistics
        if place_BS is None:
            place_BS = jnp.arange(source_BS.shape[1])[None]
            if segments_BS is not None:
                place_BS = jnp.maximum(place_BS - jnp.argmax(segments_BS > 0, 1)[:, None], 0)
        memory_BSD, _, statistics = tower(self._looked_up(embed, source_BS)[0], Context(place_BS, segments_BS))
        return memory_BSD, statistics


def _shared_bias(segments: tuple[LayersConfig, ...]) -> tuple[SharedBucketsConfig, int] | None:
    """The first attention's bias that layers share, and its heads."""
    mixers = (mixer for segment in segments for block in segment.blocks for mixer in block.mixers)
    for mixer in mixers:
        if isinstance(mixer, AttentionConfig) and isinstance(mixer.position_bias, SharedBucketsConfig):
            return mixer.position_bias, mixer.H
    return None


class Tower(nn.Module):
    """Embedded tokens, context, pasts -> what its last layer gives, states, statistics."""

    c: Seq2SeqConfig
    layers: tuple[LayersConfig, ...]
    positions: AbsoluteConfig | None
    stacked: bool

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, pasts: Any = None) -> tuple[Array, tuple, tuple]:
        c = self.c
        if c.embed_scale != 1:
            x_BTD *= jnp.asarray(c.embed_scale, x_BTD.dtype)
        if self.positions is not None:
            x_BTD = self.positions.build("positions")(x_BTD, context.positions_BT)
        if c.embed_norm is not None:
            x_BTD = c.embed_norm.build("embed_norm")(x_BTD)
        x_BTD = drop(self, x_BTD, c.dropout)
        if shared := _shared_bias(self.layers):
            table_HA = Buckets(*shared, name="position_bias").table()
            context = dataclasses.replace(context, bias_1HA=table_HA[None])
        x_BTD, states, statistics = run(c, self.layers, self.stacked, x_BTD, context, pasts)
        x_BTD = x_BTD if c.norm is None else c.norm.build("norm")(x_BTD)
        return x_BTD, states, statistics
