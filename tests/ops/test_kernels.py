import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops.kernels import (
    CUDNN_DENSE_MASK,
    cudnn_attention,
    cudnn_lacks,
    splash_attention,
    splash_blocks,
    splash_lacks,
)
from jaxlm.ops.rule import Extras
from tests.meshes import MESHES, name, on
from tests.ops.attention_cases import CASES, Case, reference, with_gradients

SPLASH = functools.partial(splash_attention, interpret=True)


@pytest.mark.parametrize(
    "case",
    [
        Case(T=128, B=1, H=2, G=1),
        Case(T=256, B=1, H=2, window=40, packed=True),
        Case(T=128, B=1, H=2, causal=False, window=40, packed=True),
        Case(T=256, B=2, H=2, window=40, chunk=50, softcap=0.9, sinks=True, packed=True, J=16),
        Case(T=384, B=2, H=4, G=2, softcap=0.9, sinks=True, packed=True, J=16),  # three parts of dq
        Case(T=640, B=1, H=2, G=1, packed=True),  # too many parts
        Case(T=4096, B=1, H=1, G=1, K=8, J=8),  # tiles that are smaller than the blocks of keys
    ],
    ids=str,
)
def test_splash_equals_the_reference(case):
    found = with_gradients(lambda *args: SPLASH(*args, case.rule(0.3)), case)
    chex.assert_trees_all_close(found, reference(case, scale=0.3), atol=1e-4)


@pytest.mark.parametrize(
    "T, K, window, forward, keys, parts",
    [
        (128, 64, None, 128, 128, 1),
        (1024, 64, None, 512, 512, 2),
        (1536, 64, None, 512, 512, 3),
        (4096, 128, None, 1024, 1024, 4),
        (4096, 256, None, 512, 1024, 4),  # wide heads
        (8192, 128, None, 1024, 2048, 4),
        (8192, 128, 1024, 512, 512, 0),  # a window skips blocks
        (8192, 128, 8192, 1024, 512, 0),
        (640, 64, None, 128, 128, 0),  # five parts
        (16384, 128, None, 1024, 512, 0),
    ],
)
def test_splash_blocks(T, K, window, forward, keys, parts):
    """`parts` is how often the queries' gradient is held in one backward kernel; 0 where there are two."""
    sizes = splash_blocks(T, K, window)
    assert (sizes.block_q, sizes.block_kv, sizes.block_kv_dkv) == (forward, forward, keys)
    assert sizes.use_fused_bwd_kernel == (parts > 0) and sizes.has_backward_blocks
    assert parts in (0, T // sizes.block_kv_dkv)
    # A tile of scores in float32, and its few companions, within 16 MiB of vector memory.
    assert max(sizes.block_q * sizes.block_kv_compute, sizes.block_q_dkv * sizes.block_kv_dkv_compute) <= 2**19


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_splash_on_meshes(config):
    case = Case(T=128, B=4, H=2, sinks=True, chunk=50)
    q, k, v, do, extras = case.arrays()
    segments = np.ones((4, 128), np.int32)

    @jax.jit
    def run(q, k, v, do, segments, sinks):
        f = lambda q, k, v, sinks: SPLASH(q, k, v, Extras(segments, sinks_H=sinks), case.rule())
        o, pull = jax.vjp(f, q, k, v, sinks)
        return o, *pull(do)

    o, (dq, dk, dv, _, dsinks) = reference(case)
    with on(config) as put:
        args = [put(x, "batch", None, "heads", None) for x in (q, k, v, do)]
        found = run(*args, put(segments, "batch", None), put(extras.sinks_H, "heads"))
        chex.assert_trees_all_close(found, (o, dq, dk, dv, dsinks), atol=1e-4)


@pytest.mark.parametrize(
    "lacking, options",
    [("", {}), ("", {"softcap": 1.0, "sinks": True, "chunk": 3, "J": 12}), ("bias_HZ", {"biased": True})]
    + [(f"{T} positions (it takes multiples of 128)", {"T": T}) for T in (64, 129, 1000)],
)
def test_what_splash_lacks(lacking, options):
    case = Case(**({"T": 256, "B": 1, "K": 8} | options))
    q, k, v, _, extras = case.arrays()
    assert splash_lacks(q, k, v, extras, case.rule()) == lacking


LONG = CUDNN_DENSE_MASK + 1
SEGMENTS = Extras(jnp.zeros((1, 1), jnp.int32))


BF16, DENSE = jnp.bfloat16, "segments, chunk or a window without causal beyond 4096 positions"


@pytest.mark.parametrize(
    "lacking, dtype, K, T, options",
    [
        ("", BF16, 64, 100, {}),
        ("", jnp.float16, 128, CUDNN_DENSE_MASK, {"packed": True}),
        ("", BF16, 64, 100, {"chunk": 10}),
        ("", BF16, 64, LONG, {"window": 10}),
        ("", BF16, 64, LONG, {"causal": False}),
        ("float32 (it takes bfloat16 and float16)", jnp.float32, 64, 100, {}),
        ("a head width of 60 (it takes multiples of 8 up to 128)", BF16, 60, 100, {}),
        ("a head width of 512 (it takes multiples of 8 up to 128)", BF16, 512, 100, {}),
        ("values of another width than keys", BF16, 64, 100, {"J": 128}),
        ("softcap", BF16, 64, 100, {"softcap": 50.0}),
        ("bias_HZ", BF16, 64, 100, {"biased": True}),
        ("sinks_H", BF16, 64, 100, {"sinks": True}),
        (DENSE, BF16, 64, LONG, {"packed": True}),
        (DENSE, BF16, 64, LONG, {"chunk": 10}),
        (DENSE, BF16, 64, LONG, {"causal": False, "window": 10}),
    ],
)
def test_what_cudnn_lacks(lacking, dtype, K, T, options):
    case = Case(**({"T": T, "B": 1, "K": K, "J": K} | options))
    arrays = jax.eval_shape(lambda: case.arrays(dtype))
    args = *arrays[:3], arrays[-1]
    assert cudnn_lacks(*args, case.rule()) == lacking


@pytest.mark.parametrize("lacks", [cudnn_lacks, splash_lacks])
def test_neither_drops(lacks):
    case = Case(T=128)
    q, k, v, _, extras = case.arrays(BF16)
    assert lacks(q, k, v, extras, case.rule()) == ""
    assert lacks(q, k, v, extras, dataclasses.replace(case.rule(), dropout=0.1)) == "dropout"


@pytest.mark.parametrize("case", [*CASES[2:8], Case(chunk=3, packed=True)], ids=str)
def test_what_is_asked_of_cudnn(case, monkeypatch):
    """The same arguments given to XLA's form, whose contract is cuDNN's, but for the window that cuDNN refuses."""
    original = jax.nn.dot_product_attention

    def xla(*args, implementation, local_window_size=None, **kwargs):
        assert implementation == "cudnn"
        assert local_window_size is None or local_window_size[1] == 0
        return original(*args, implementation="xla", local_window_size=local_window_size, **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", xla)
    f = lambda *args: cudnn_attention(*args, case.rule(0.3))
    chex.assert_trees_all_close(with_gradients(f, case), reference(case, scale=0.3), atol=2e-5)


CUDNN = [dataclasses.replace(case, K=64, J=64) for case in CASES[:9]] + [Case(chunk=3, packed=True, K=64, J=64)]


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("case", CUDNN, ids=str)
def test_cudnn_equals_the_reference(case):
    f = lambda *args: cudnn_attention(*args, case.rule(0.1))
    found = jax.tree.map(np.float32, with_gradients(f, case, jnp.bfloat16))
    chex.assert_trees_all_close(found, reference(case, scale=0.1), atol=6e-2)
