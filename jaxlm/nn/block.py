"""One layer: a mixer over positions and a feed-forward, two branches added to the residual stream."""

import dataclasses
from typing import Any

import flax.linen as nn

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.nn.attention import AttentionConfig
from jaxlm.nn.context import Context
from jaxlm.nn.latent import LatentConfig
from jaxlm.nn.linear_attention import LinearAttentionConfig
from jaxlm.nn.linformer import LinformerConfig
from jaxlm.nn.mlp import MLPConfig
from jaxlm.nn.norm import NormConfig, RMSNormConfig, read
from jaxlm.nn.sparse import SparseAttentionConfig
from jaxlm.ops.dropout import dropout

# DifferentialConfig is an AttentionConfig, and MoEConfig an MLPConfig.
Mixer = AttentionConfig | LatentConfig | SparseAttentionConfig | LinearAttentionConfig | LinformerConfig


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """x += mixer(norm(x)); x += ffn(norm(x)) (pre-norm; Xiong et al. 2020, arXiv:2002.04745), unless said otherwise.

    Any config will do as `mixer` or `ffn` whose `build` makes a module of the same signature.
    """

    mixer: Mixer
    ffn: MLPConfig
    norm: NormConfig | None = RMSNormConfig()  # of what a branch reads
    norm_out: NormConfig | None = None  # of what a branch gives (with `norm` the sandwich of Gemma 2, alone OLMo 2)
    norm_sum: NormConfig | None = None  # of the sum (post-norm; Vaswani et al. 2017)
    around_norm: bool = False  # the residual goes from the norm's output, not its input (an option of Bloom)
    scale: float = 1.0  # of what a branch gives
    dropout: float = 0.0  # of both branches, where a "dropout" key is given to apply

    def __post_init__(self):
        check(self, dropout="[0, 1)")

    def build(self, depth: int, name: str) -> nn.Module:
        return Block(self, depth, name=name)


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """x += mixer(norm1(x)) + ffn(norm2(x)) (GPT-J, Wang & Komatsuzaki 2021; PaLM, arXiv:2204.02311)."""

    mixer: Mixer
    ffn: MLPConfig
    norm: NormConfig = RMSNormConfig()
    shared: bool = True  # one norm for both
    dropout: float = 0.0

    def __post_init__(self):
        check(self, dropout="[0, 1)")

    def build(self, depth: int, name: str) -> nn.Module:
        return Parallel(self, depth, name=name)


class Block(nn.Module):
    """x_BTD, context, past -> x_BTD, (state, statistics)."""

    c: BlockConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, tuple[Any, Any]]:
        h_BTD = read(self.c.norm, "norm1", x_BTD)
        y_BTD, state = self.c.mixer.build(self.depth, "mixer")(h_BTD, context, past)
        x_BTD = self._add(h_BTD if self.c.around_norm else x_BTD, y_BTD, "norm1")
        h_BTD = read(self.c.norm, "norm2", x_BTD)
        y_BTD, statistics = self.c.ffn.build(self.depth, "ffn")(h_BTD)
        return self._add(h_BTD if self.c.around_norm else x_BTD, y_BTD, "norm2"), (state, statistics)

    def _add(self, x_BTD: Array, y_BTD: Array, name: str) -> Array:
        c = self.c
        if c.norm_out is not None:
            y_BTD = c.norm_out.build(f"{name}_out")(y_BTD)
        y_BTD = drop(self, y_BTD, c.dropout)
        x_BTD = sharding.constrain(x_BTD, *sharding.stream(x_BTD.shape[1])) if c.around_norm else x_BTD
        x_BTD += y_BTD if c.scale == 1 else y_BTD * c.scale
        return x_BTD if c.norm_sum is None else c.norm_sum.build(f"{name}_sum")(x_BTD)


class Parallel(nn.Module):
    """x_BTD, context, past -> x_BTD, (state, statistics)."""

    c: ParallelConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, tuple[Any, Any]]:
        h_BTD = read(self.c.norm, "norm1", x_BTD)
        y_BTD, state = self.c.mixer.build(self.depth, "mixer")(h_BTD, context, past)
        h_BTD = h_BTD if self.c.shared else read(self.c.norm, "norm2", x_BTD)
        z_BTD, statistics = self.c.ffn.build(self.depth, "ffn")(h_BTD)
        return x_BTD + drop(self, y_BTD, self.c.dropout) + drop(self, z_BTD, self.c.dropout), (state, statistics)


def drop(module: nn.Module, y_BTD: Array, rate: float) -> Array:
    """Dropout on the residual stream, where a "dropout" key was given to apply."""
    if not rate or not module.has_rng("dropout"):
        return y_BTD
    return dropout(y_BTD, rate, module.make_rng("dropout"), *sharding.stream(y_BTD.shape[1]))
