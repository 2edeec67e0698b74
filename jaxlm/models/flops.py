"""What a model costs, by arithmetic: parameters and floating-point operations per token.

Training: 6 N_matmul + 12 d_attn (mean number of visible positions) per token. N_matmul counts every parameter that
takes part in a product with the token, so k of E experts, the head included, the embedding lookup not. Attention is
counted causal, so a layer that sees everything adds 6 d_attn T. Recomputation is never counted.
"""

import math
from collections.abc import Iterator

import jax

from jaxlm.models import lm
from jaxlm.sharding import Axes


def _weights(config: lm.LMConfig) -> Iterator[tuple[int, Axes]]:
    shapes, axes = lm.abstract(config)
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, Axes)), strict=True)
    return ((math.prod(x.shape), a) for x, a in leaves)


def parameters(config: lm.LMConfig) -> int:
    """All parameters; a tied head counts once."""
    return sum(size for size, _ in _weights(config))


def active_parameters(config: lm.LMConfig) -> int:
    """Those that one token meets: all but the experts that it is not given."""
    return round(sum(size * a.active for size, a in _weights(config)))


def matmul_parameters(config: lm.LMConfig) -> int:
    """Active parameters that multiply activations: all with inputs, and the table where it is the head too."""
    head = config.V * (config.embed_width or config.D) * config.tied
    return round(sum(size * a.active for size, a in _weights(config) if a.inputs)) + head


def train_flops(config: lm.LMConfig, T: int) -> float:
    """Per token of texts of T tokens, forward and backward; a forward pass alone is a third."""
    mixers = [block.mixer for segment in config.segments for block in segment.blocks for _ in range(segment.repeat)]
    return 6 * matmul_parameters(config) + sum(3 * mixer.score_flops(T) for mixer in mixers)
