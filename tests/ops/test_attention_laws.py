"""What blockwise attention promises about memory whatever is asked of it, read from compiled programs."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest

from jaxlm.ops import attention

H, G, K, LAYERS = 4, 2, 16, 3
EVERYTHING = {"softcap": 5.0, "dropout": 0.1}
CASES = [{}, {"window": 250, "chunk": 300}, {"causal": False, "window": 200}]


@functools.cache
def training(T: int, **options) -> jax.stages.Compiled:
    """The gradient through a scan over layers of attention with everything on, compiled."""

    def loss(q_NTHK, bias_HZ, sinks_H, segments_BT, positions_BT, key):
        def layer(x_BTHK, q_THK):
            kv = x_BTHK[:, :, :G]
            given = {"bias_HZ": bias_HZ, "sinks_H": sinks_H, "key": key, "implementation": "blockwise"}
            o = attention(
                x_BTHK * q_THK[None], kv, kv[..., :8], segments_BT, positions_BT, **EVERYTHING, **options, **given
            )
            return x_BTHK + jnp.pad(o, ((0, 0),) * 3 + ((0, 8),)), None

        return jax.lax.scan(layer, jnp.ones((1, T, H, K)), q_NTHK)[0].sum()

    shape = jax.ShapeDtypeStruct
    learned = shape((LAYERS, T, H, K), "f4"), shape((H, 2 * T - 1), "f4"), shape((H,), "f4")
    rest = shape((1, T), "i4"), shape((1, T), "i4"), jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(jax.grad(loss, (0, 1, 2))).lower(*learned, *rest).compile()


def temporary(compiled: jax.stages.Compiled) -> int:
    """Bytes of everything that is neither argument nor result."""
    return compiled.memory_analysis().temp_size_in_bytes


def largest(compiled: jax.stages.Compiled) -> int:
    """Elements of the largest array in the program."""
    shapes = re.findall(r"\b(?:f|bf|s|u|pred)\d*\[([\d,]+)\]", compiled.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_memory_is_linear_in_the_length_with_everything_on(options):
    short, long = 1024, 8192
    slope = math.log(temporary(training(long, **options)) / temporary(training(short, **options)))
    assert slope / math.log(long / short) <= 1.1
    # A block of 128 queries of each head meets all keys, and its bias is cut from rows 128 longer.
    assert largest(training(long, **options)) <= H * 128 * (long + 128)
