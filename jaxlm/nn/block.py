"""Transformer blocks: a mixer over positions and a feed-forward, two branches added to the residual stream."""

import dataclasses
from typing import Any

import flax.linen as nn

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.nn.branches import add, drop
from jaxlm.nn.context import Context
from jaxlm.nn.mixer import FeedForwardConfig, LayerConfig, MixerConfig
from jaxlm.nn.norm import NormConfig, RMSNormConfig, read


@dataclasses.dataclass(frozen=True)
class BlockConfig(LayerConfig):
    """A Transformer block: x += mixer(norm(x)); x += ffn(norm(x)) (pre-norm; Xiong et al. 2020, arXiv:2002.04745),
    unless said otherwise."""

    mixer: MixerConfig
    ffn: FeedForwardConfig | None  # None: the mixer is all of the layer
    norm: NormConfig | None = RMSNormConfig()  # of what a branch reads
    norm_out: NormConfig | None = None  # of what a branch gives (with `norm` the sandwich of Gemma 2, alone OLMo 2)
    norm_sum: NormConfig | None = None  # of the sum (post-norm; Vaswani et al. 2017)
    residual_from_norm: bool = False  # the residual goes from the norm's output, not its input (an option of Bloom)
    scale: float = 1.0  # of what a branch gives
    dropout: float = 0.0  # of both branches, where a "dropout" key is given to apply

    def __post_init__(self):
        check(self, dropout="[0, 1)")

    @property
    def parts(self) -> dict[str, MixerConfig | FeedForwardConfig]:
        return {"mixer": self.mixer} | ({} if self.ffn is None else {"ffn": self.ffn})

    def init_cache(self, B: int, length: int, dtype: Any) -> Any:
        return self.mixer.init_cache(B, length, dtype)

    def build(self, depth: int, name: str) -> nn.Module:
        return Block(self, depth, name=name)


@dataclasses.dataclass(frozen=True)
class ParallelConfig(LayerConfig):
    """Parallel attention and feed-forward: x += mixer(norm1(x)) + ffn(norm2(x)) (GPT-J, Wang & Komatsuzaki 2021; PaLM,
    arXiv:2204.02311)."""

    mixer: MixerConfig
    ffn: FeedForwardConfig
    norm: NormConfig = RMSNormConfig()
    shared: bool = True  # one norm for both
    dropout: float = 0.0

    def __post_init__(self):
        check(self, dropout="[0, 1)")

    @property
    def parts(self) -> dict[str, MixerConfig | FeedForwardConfig]:
        return {"mixer": self.mixer, "ffn": self.ffn}

    def init_cache(self, B: int, length: int, dtype: Any) -> Any:
        return self.mixer.init_cache(B, length, dtype)

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
        x_BTD = add(self, self.c, self._from(h_BTD, x_BTD), y_BTD, "norm1")
        if self.c.ffn is None:
            return x_BTD, (state, {})
        h_BTD = read(self.c.norm, "norm2", x_BTD)
        y_BTD, statistics = self.c.ffn.build(self.depth, "ffn")(h_BTD)
        return add(self, self.c, self._from(h_BTD, x_BTD), y_BTD, "norm2"), (state, statistics)

    def _from(self, h_BTD: Array, x_BTD: Array) -> Array:
        """What a branch that read h is added to."""
        return sharding.constrain(h_BTD, *sharding.stream(h_BTD.shape[1])) if self.c.residual_from_norm else x_BTD


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
