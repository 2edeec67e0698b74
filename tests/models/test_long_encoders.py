"""Encoders of long texts: the memory of a training step grows with the text, not with its square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models import EncoderConfig, abstract
from jaxlm.nn import BigBirdConfig, BlockConfig, LayersConfig, LearnedConfig, LongformerConfig, MLPConfig
from jaxlm.objectives import MaskedTokens

LENGTHS = (1024, 16_384)
MIXERS = {"longformer": LongformerConfig(H=2, K=16, reach=32), "big_bird": BigBirdConfig(H=2, K=16, C=32, random=1)}


def sizes(jaxpr):
    """Of every array of a program, and of those within it."""
    for equation in jaxpr.eqns:
        yield from (x.aval.shape for x in equation.outvars if hasattr(x.aval, "shape"))
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from sizes(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("kind", MIXERS)
def test_memory_is_linear(kind):
    block = BlockConfig(MIXERS[kind], MLPConfig(32, gated=False))
    c = EncoderConfig(64, 32, (LayersConfig((block,), 2),), LearnedConfig(LENGTHS[-1]))
    step = jax.jit(jax.grad(lambda params, batch: MaskedTokens(mask=63).loss(c, params, batch)[0].total))

    def memory(T):
        row = lambda dtype: jax.ShapeDtypeStruct((1, T), dtype)
        batch = dict.fromkeys(("tokens", "positions", "segments"), row(jnp.int32)) | {"weights": row(jnp.float32)}
        traced = step.trace(abstract(c)[0], batch)
        assert not any(sum(n >= T for n in shape) > 1 for shape in sizes(traced.jaxpr.jaxpr))
        return traced.lower().compile().memory_analysis().temp_size_in_bytes

    slope = np.log(memory(LENGTHS[1]) / memory(LENGTHS[0])) / np.log(LENGTHS[1] / LENGTHS[0])
    assert slope <= 1.1
