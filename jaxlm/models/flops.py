"""What a model costs, by arithmetic: parameters and floating-point operations per token.

Training: 6 N_matmul + 12 d_attn (mean number of visible positions) per token. N_matmul counts every parameter that
takes part in a product, the head included, the embedding lookup not. Attention is counted causal, so a layer that
sees everything adds 6 d_attn T. Recomputation is never counted.
"""

import math

import jax

from jaxlm.models import lm
from jaxlm.sharding import Axes


def parameters(config: lm.LMConfig) -> int:
    """All parameters; a tied head counts once."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(lm.abstract(config)[0]))


def matmul_parameters(config: lm.LMConfig) -> int:
    """Parameters that multiply activations: all with inputs, and the table where it is the head too."""
    shapes, axes = lm.abstract(config)
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, Axes)), strict=True)
    return sum(math.prod(x.shape) for x, a in leaves if a.inputs) + config.V * config.D * config.tied


def train_flops(config: lm.LMConfig, T: int) -> float:
    """Per token of texts of T tokens, forward and backward; a forward pass alone is a third."""
    mixers = [block.mixer for segment in config.segments for block in segment.blocks for _ in range(segment.repeat)]
    return 6 * matmul_parameters(config) + sum(3 * mixer.score_flops(T) for mixer in mixers)
