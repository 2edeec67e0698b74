"""The decoder-only language model: embedding, groups of repeated layers, norm, head. Families are configs of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.models.model import ModelConfig, Output, Path, check_dtype, forward, logits
from jaxlm.nn import init
from jaxlm.nn.branches import drop
from jaxlm.nn.context import Context
from jaxlm.nn.embed import AbsoluteConfig, Embed
from jaxlm.nn.norm import NormConfig, RMSNormConfig
from jaxlm.nn.pipeline import PipelineConfig
from jaxlm.nn.stack import LayersConfig, check_policy, is_stacked, run
from jaxlm.nn.virtual import VirtualConfig, read, zeros
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
    virtual: VirtualConfig | None = None  # learned tokens before every text
    head_bias: bool = False  # a bias of the logits

    def __post_init__(self):
        counts = dict.fromkeys(("V", "D", "embed_width", "unroll"), ">= 1")
        check(self, **counts, softcap="> 0", dropout="[0, 1)")
        if not self.layers:
            raise UserError("a model needs at least one group of layers")
        check_dtype(self.dtype)
        check_policy(self.remat)
        if self.virtual is not None:
            self.virtual.sizes(self.layers)

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
        if c.virtual is not None:
            positions_BT = c.virtual.behind(positions_BT, tokens_BT.shape[1], c.positions)
        width = c.embed_width or c.D
        x_BTD, table_VD = Embed(c.V, width, jnp.dtype(c.dtype), name="embed")(tokens_BT)
        if c.embed_scale != 1:
            x_BTD *= jnp.asarray(c.embed_scale, x_BTD.dtype)
        if c.embed_width is not None:
            x_BTD = self._product("embed_in", x_BTD, c.D)
        enter = self._enters()
        prefix = None if c.virtual is None else self._prefix(c.virtual, enter)
        context = Context(positions_BT, segments_BT, end, start_B, prefix_N2GnK=prefix)
        x_BTD = drop(self, enter(x_BTD, positions_BT), c.dropout)
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
        bias_V = weight(self, "head_bias", (c.V,), ("vocab",)) if c.head_bias else None
        return Output(x_BTD, head_VD, states, {(): statistics}, bias_V, prefix_N2GnK=prefix)

    def _enters(self) -> Callable[[Array, Array], Array]:
        """x_BTD, positions_BT -> what the first layer reads."""
        c = self.c
        norm = None if c.embed_norm is None else c.embed_norm.build("embed_norm")
        positions = None if c.positions is None else c.positions.build("positions")

        def enter(x_BTD: Array, positions_BT: Array) -> Array:
            x_BTD = x_BTD if norm is None else norm(x_BTD)
            return x_BTD if positions is None else positions(x_BTD, positions_BT)

        return enter

    def _prefix(self, virtual: VirtualConfig, enter: Callable[[Array, Array], Array]) -> Array:
        """What every layer reads of the virtual tokens."""
        if virtual.prefix:
            return virtual.keys_values(self, self.c.layers)
        x_1nD = enter(virtual.prompt(self, self.c.D, jnp.dtype(self.c.dtype)), jnp.arange(virtual.n)[None])
        if self.is_initializing():
            return zeros(virtual, self.c.layers, x_1nD.dtype)
        return read(self.c, self.stacked, self.variables["params"], x_1nD)

    def _product(self, name: str, x_BTD: Array, width: int) -> Array:
        w_DD = weight(self, name, (x_BTD.shape[-1], width), ("embed", None), init.fan_in((0,)), (0,))
        return einsum("btd,de->bte", x_BTD, w_DD.astype(x_BTD.dtype), out=sharding.stream(x_BTD.shape[1]))


def folded(config: LMConfig, params: Params) -> tuple[LMConfig, Params]:
    """Config and parameters with a prompt as the prefix that the layers make of it: it is not computed again for every
    token. Others are as they were."""
    virtual = config.virtual
    if virtual is None or virtual.prefix:
        return config, params
    token = jnp.zeros((sharding.mesh_size("batch"), 1), jnp.int32)
    out = forward(config.build(is_stacked(params)), params, sharding.constrain(token, "batch", None))
    prefix = jnp.moveaxis(out.prefix_N2GnK, 3, 0)
    weights = {name: x for name, x in params.items() if name != "prompt"}
    weights["prefix"] = prefix.reshape(virtual.n, -1, *prefix.shape[-2:])
    return dataclasses.replace(config, virtual=dataclasses.replace(virtual, prefix=True)), weights
