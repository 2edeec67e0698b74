"""A layer of any number of branches, each added to the residual stream in turn."""

import collections
import dataclasses
from typing import Any

import flax.linen as nn

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn.context import Context
from jaxlm.nn.mixer import FeedForwardConfig, LayerConfig, MixerConfig
from jaxlm.nn.moe import MoEConfig
from jaxlm.nn.norm import NormConfig, RMSNormConfig, read
from jaxlm.ops.dropout import dropout


@dataclasses.dataclass(frozen=True)
class BranchConfig:
    """x += scale f(norm(x)): a residual branch (He et al. 2016, arXiv:1512.03385), with norms as in `BlockConfig`."""

    name: str  # of its weights; those of its norms are called name_norm, name_norm_out and name_norm_sum
    of: MixerConfig | FeedForwardConfig
    norm: NormConfig | None = RMSNormConfig()  # of what it reads
    norm_out: NormConfig | None = None  # of what it gives
    norm_sum: NormConfig | None = None  # of the sum
    scale: float = 1.0  # of what it gives
    dropout: float = 0.0  # of what it gives, where a "dropout" key is given to apply

    def __post_init__(self):
        check(self, dropout="[0, 1)")
        if not self.name.isidentifier():
            raise UserError(f"a branch needs a name for its weights, such as 'attention', not {self.name!r}")


@dataclasses.dataclass(frozen=True)
class BranchesConfig(LayerConfig):
    """A layer of these branches: attention, cross attention and a feed-forward (Vaswani et al. 2017, arXiv:1706.03762);
    one mixer alone (Mamba; Gu & Dao 2023, arXiv:2312.00752); feed-forward, attention, convolution, feed-forward
    (Conformer; Gulati et al. 2020, arXiv:2005.08100)."""

    branches: tuple[BranchConfig, ...]

    def __post_init__(self):
        names = collections.Counter(branch.name for branch in self.branches)
        if not names:
            raise UserError("a layer needs at least one branch")
        if twice := [name for name, n in names.items() if n > 1]:
            raise UserError(f"two branches of a layer are called {twice[0]!r}: each needs a name of its own")
        if sum(isinstance(branch.of, MoEConfig) for branch in self.branches) > 1:
            raise UserError("a layer reports the use of its experts once: give it one branch with experts, not several")

    @property
    def parts(self) -> dict[str, MixerConfig | FeedForwardConfig]:
        return {branch.name: branch.of for branch in self.branches}

    def init_cache(self, B: int, length: int, dtype: Any) -> dict[str, Any]:
        """By the names of the branches that are mixers."""
        of_mixers = {name: part for name, part in self.parts.items() if isinstance(part, MixerConfig)}
        return {name: mixer.init_cache(B, length, dtype) for name, mixer in of_mixers.items()}

    def build(self, depth: int, name: str) -> nn.Module:
        return Branches(self, depth, name=name)


class Branches(nn.Module):
    """x_BTD, context, past -> x_BTD, (states by name, statistics of the experts)."""

    c: BranchesConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, tuple[dict[str, Any], Any]]:
        states, statistics = {}, {}
        for branch in self.c.branches:
            h_BTD, module = read(branch.norm, f"{branch.name}_norm", x_BTD), branch.of.build(self.depth, branch.name)
            if isinstance(branch.of, MixerConfig):
                y_BTD, states[branch.name] = module(h_BTD, context, None if past is None else past[branch.name])
            else:
                y_BTD, found = module(h_BTD)
                statistics |= found
            x_BTD = add(self, branch, x_BTD, y_BTD, f"{branch.name}_norm")
        return x_BTD, (states, statistics)


def add(module: nn.Module, c: Any, x_BTD: Array, y_BTD: Array, norm: str) -> Array:
    """The residual stream with what a branch gives, by the `norm_out`, `dropout`, `scale` and `norm_sum` of `c`. The
    weights are `module`'s, `norm` begins the names of the norms."""
    y_BTD = y_BTD if c.norm_out is None else c.norm_out.build(f"{norm}_out")(y_BTD)
    y_BTD = drop(module, y_BTD, c.dropout)
    x_BTD += y_BTD if c.scale == 1 else y_BTD * c.scale
    return x_BTD if c.norm_sum is None else c.norm_sum.build(f"{norm}_sum")(x_BTD)


def drop(module: nn.Module, y_BTD: Array, rate: float) -> Array:
    """Dropout on the residual stream, where a "dropout" key was given to apply."""
    if not rate or not module.has_rng("dropout"):
        return y_BTD
    return dropout(y_BTD, rate, module.make_rng("dropout"), *sharding.stream(y_BTD.shape[1]))
