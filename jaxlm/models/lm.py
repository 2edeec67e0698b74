"""The decoder-only language model: embedding, segments of repeated blocks, norm, head. Families are configs of it."""

import dataclasses
import functools
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.nn.branches import drop
from jaxlm.nn.context import Context
from jaxlm.nn.embed import AbsoluteConfig, Embed
from jaxlm.nn.norm import NormConfig, RMSNormConfig
from jaxlm.nn.pipeline import PipelineConfig
from jaxlm.nn.stack import SegmentConfig, Stack, check_policy
from jaxlm.ops.activations import soft_cap
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class LMConfig:
    """What the model is, and how it is computed."""

    V: int  # vocabulary
    D: int  # model width
    segments: tuple[SegmentConfig, ...]
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
        if not self.segments:
            raise UserError("a model needs at least one segment")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise UserError(f"unknown dtype {self.dtype!r}: float32, bfloat16 or float16")
        check_policy(self.remat)

    @property
    def layers(self) -> int:
        return sum(segment.layers for segment in self.segments)


@struct.dataclass
class Output:
    """What a forward pass computes before the head."""

    hidden_BTD: Array  # what the head multiplies: after the last norm
    head_VD: Array  # the output projection, float32: logits = hidden head^T
    states: tuple  # for each segment, what its mixers hand to a cache
    statistics: tuple  # for each segment, what its feed-forwards report


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
        outs = []
        for i, segment in enumerate(c.segments):
            run = Stack(segment, c.layers, c.remat, c.unroll, self.stacked, c.pipeline, name=f"segment_{i}")
            x_BTD, out = run(x_BTD, context, None if pasts is None else pasts[i])
            context = dataclasses.replace(context, layer=context.layer + segment.layers)
            outs.append(out)
        if c.norm is not None:
            x_BTD = c.norm.build("norm")(x_BTD)
        if c.embed_width is not None:
            x_BTD = self._product("embed_out", x_BTD, width)
        if c.logit_scale != 1:
            x_BTD *= jnp.asarray(c.logit_scale, x_BTD.dtype)
        head_VD = table_VD
        if not c.tied:
            head_VD = weight(self, "head", (c.V, width), ("vocab", "embed"), init.fan_in((1,)), (1,))
        states, statistics = zip(*outs)
        return Output(x_BTD, head_VD, states, statistics)

    def _product(self, name: str, x_BTD: Array, width: int) -> Array:
        w_DD = weight(self, name, (x_BTD.shape[-1], width), ("embed", None), init.fan_in((0,)), (0,))
        return einsum("btd,de->bte", x_BTD, w_DD.astype(x_BTD.dtype), out=sharding.stream(x_BTD.shape[1]))


def forward(model: LM, params: Params, *args: Any, dropout_key: Array | None = None) -> Output:
    """`LM.forward` as a pure function; dropout is on where a key is given."""
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    return cast(Output, model.apply({"params": params}, *args, rngs=rngs, method="forward"))


def logits(config: LMConfig, out: Output) -> Array:
    """float32 (B, T, V) = hidden head^T, capped where the config says so."""
    rows = sharding.rows(out.hidden_BTD.shape[1])
    hidden_BTD = sharding.constrain(out.hidden_BTD, *rows)
    head_VD = out.head_VD.astype(hidden_BTD.dtype)
    l_BTV = einsum("btd,vd->btv", hidden_BTD, head_VD, out=(*rows[:2], "vocab"), dtype=jnp.float32)
    return l_BTV if config.softcap is None else soft_cap(l_BTV, config.softcap)


def init_boxed(config: LMConfig, key: Array) -> Params:
    """Fresh parameters, every leaf a `sharding.Named`. Best under `jax.jit` with the shardings wanted."""
    with sharding.no_mesh():  # the one dummy token divides no mesh
        return LM(config).init(key, jnp.zeros((1, 1), jnp.int32), method="forward")["params"]


@functools.lru_cache(maxsize=16)  # tracing a large model takes a second, and many ask
def abstract(config: LMConfig) -> tuple[Params, Params]:
    """Shapes and `sharding.Axes` of the parameters; computes nothing."""
    boxed = jax.eval_shape(lambda: init_boxed(config, jax.random.key(0)))
    return sharding.unbox(boxed), sharding.axes_of(boxed)
