import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import reference_attention
from jaxlm.ops.kernels import CUDNN_DENSE_MASK, cudnn_attention, cudnn_takes, splash_attention, splash_takes
from tests.meshes import MESHES, name, on
from tests.ops.attention_cases import CASES, Case, reference, with_gradients

SPLASH = functools.partial(splash_attention, interpret=True)


@pytest.mark.parametrize(
    "case",
    [
        Case(T=128, B=1, H=2, G=1),
        Case(T=256, B=1, H=2, window=40, packed=True),
        Case(T=128, B=1, H=2, causal=False, window=40, packed=True),
    ],
    ids=str,
)
def test_splash_equals_the_reference(case):
    f = lambda q, k, v, s: SPLASH(q, k, v, s, case.causal, case.window, 0.3)
    o, grads = with_gradients(f, case)
    chex.assert_trees_all_close((o, grads), reference(case, scale=0.3), atol=1e-4)


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_splash_on_meshes(config):
    case = Case(T=128, B=4, H=2)
    q, k, v, _, _ = case.arrays()
    segments = np.ones((4, 128), np.int32)
    f = lambda *args: SPLASH(*args, True, None, 0.3)
    expected = reference_attention(q, k, v, case.mask(None), 0.3)
    with on(config) as put:
        args = [put(x, "batch", None, "heads", None) for x in (q, k, v)] + [put(segments, "batch", None)]
        np.testing.assert_allclose(jax.jit(f)(*args), expected, atol=1e-5)


def test_what_splash_takes():
    q = lambda T: jnp.zeros((1, T, 2, 8))
    assert [T for T in (64, 100, 127, 128, 200, 256, 1000, 1024) if splash_takes(q(T), q(T))] == [128, 256, 1024]


LONG = CUDNN_DENSE_MASK + 1


@pytest.mark.parametrize(
    "takes, dtype, K, T, packed, causal, window",
    [
        (True, jnp.bfloat16, 64, 100, False, True, None),
        (True, jnp.float16, 128, CUDNN_DENSE_MASK, True, True, None),
        (True, jnp.bfloat16, 64, LONG, False, True, 10),
        (True, jnp.bfloat16, 64, LONG, False, False, None),
        (False, jnp.float32, 64, 100, False, True, None),
        (False, jnp.bfloat16, 60, 100, False, True, None),
        (False, jnp.bfloat16, 512, 100, False, True, None),
        (False, jnp.bfloat16, 64, LONG, True, True, None),
        (False, jnp.bfloat16, 64, LONG, False, False, 10),
    ],
)
def test_what_cudnn_takes(takes, dtype, K, T, packed, causal, window):
    q = jax.ShapeDtypeStruct((1, T, 2, K), dtype)
    segments = jax.ShapeDtypeStruct((1, T), jnp.int32) if packed else None
    assert cudnn_takes(q, segments, causal, window) == takes


@pytest.mark.parametrize("case", CASES[2:8], ids=str)
def test_what_is_asked_of_cudnn(case, monkeypatch):
    """The same arguments given to XLA's form, whose contract is cuDNN's, but for the window that cuDNN refuses."""
    original = jax.nn.dot_product_attention

    def xla(*args, implementation, local_window_size=None, **kwargs):
        assert implementation == "cudnn"
        assert local_window_size is None or local_window_size[1] == 0
        return original(*args, implementation="xla", local_window_size=local_window_size, **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", xla)
    f = lambda q, k, v, s: cudnn_attention(q, k, v, s, case.causal, case.window, 0.3)
    chex.assert_trees_all_close(with_gradients(f, case), reference(case, scale=0.3), atol=2e-5)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("case", [dataclasses.replace(case, K=64) for case in CASES if case.T > 1], ids=str)
def test_cudnn_equals_the_reference(case):
    f = lambda q, k, v, s: cudnn_attention(q, k, v, s, case.causal, case.window, 0.1)
    found = jax.tree.map(np.float32, with_gradients(f, case, jnp.bfloat16))
    chex.assert_trees_all_close(found, reference(case, scale=0.1), atol=6e-2)
