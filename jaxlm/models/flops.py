"""What a model costs, by arithmetic: parameters and floating-point operations per token.

Training: 6 N_matmul + 12 d_attn (mean number of visible positions) per token. N_matmul counts every parameter that
takes part in a product with the token, so k of E experts, the head included, the embedding lookup not. Attention is
counted causal, so a layer that sees everything adds 6 d_attn T. Recomputation is never counted.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax

from jaxlm.models.model import ModelConfig, abstract, home, layers
from jaxlm.nn.mixer import MixerConfig
from jaxlm.sharding import Axes


class Weight(NamedTuple):
    """One leaf of the parameters: its names from the root on, its shape, what its dimensions mean."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    axes: Axes

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def weights(config: ModelConfig) -> Iterator[Weight]:
    """Every weight of the model, layers of a group stacked; nothing is computed."""
    shapes, axes = abstract(config)
    leaves = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, Axes))
    for (path, x), a in zip(jax.tree_util.tree_leaves_with_path(shapes), leaves, strict=True):
        yield Weight(tuple(str(key.key) for key in path), x.shape, a)


def mixers(config: ModelConfig) -> list[MixerConfig]:
    """Those of every layer, in order."""
    return [mixer for layer in layers(config) for mixer in layer.config.mixers]


def parameters(config: ModelConfig) -> int:
    """All parameters; a tied head counts once."""
    return sum(w.size for w in weights(config))


def active_parameters(config: ModelConfig) -> int:
    """Those that one token meets: all but the experts that it is not given."""
    return round(sum(w.size * w.axes.active for w in weights(config)))


def matmul_parameters(config: ModelConfig) -> int:
    """Active parameters that multiply activations: all with inputs, as often as a repeated layer has them do so, and
    the table where it is the head too."""
    times = lambda w: getattr(getattr(home(config, w.path), "config", None), "times", 1)
    once = sum(w.size * w.axes.active * times(w) for w in weights(config) if w.axes.inputs)
    return round(once) + config.tied_parameters


def train_flops(config: ModelConfig, T: int) -> float:
    """Per token of texts of T tokens, forward and backward; a forward pass alone is a third."""
    return 6 * matmul_parameters(config) + sum(3 * layer.config.score_flops(T) for layer in layers(config))
