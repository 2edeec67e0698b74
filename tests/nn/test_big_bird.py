"""BigBird's attention block by block, as transformers computes it in evaluation; its full form; meshes."""

import chex
import jax
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import BigBirdConfig, Context
from tests.meshes import MESHES, name, on
from tests.weights import boxed, weights

RNG = np.random.default_rng(0)
B, D = 2, 12
C = BigBirdConfig(H=4, K=6, C=2, random=2)
T = C.whole + 3  # the last block is ragged
X = RNG.normal(size=(B, T, D)).astype(np.float32)
SEGMENTS = np.array([[1] * (T - 2) + [0] * 2, [1] * T])
CONTEXT = Context(np.arange(T)[None], SEGMENTS)
MODULE = C.build(3, "mixer")
P = weights(MODULE, X, CONTEXT)


def keys(t, n):
    """The blocks of keys that a token sees, those at random replaced by the first, in a text of n blocks."""
    i = t // C.C
    if i in (0, n - 1):
        return list(range(n))
    return sorted({0, i - 1, i, i + 1, n - 1}) + [0] * C.random


def slow(p, x, length, sees):
    q, k, v = (np.einsum("td,dhk->thk", x, p[name]) + p[f"{name}_bias"] for name in "qkv")
    o = np.zeros_like(q)
    for t in range(length):
        at = [s for s in sees(t) if s < length]
        scores = np.exp(np.einsum("hk,shk->hs", q[t], k[at]) / np.sqrt(C.K))
        o[t] = np.einsum("hs,shk->hk", scores / scores.sum(-1, keepdims=True), v[at])
    return np.einsum("thk,hkd->td", o, p["o"])[:length] + p["o_bias"]


def test_it_is_the_formula():
    y, state = MODULE.apply({"params": P}, X, CONTEXT)
    assert state == ()
    n = -(-T // C.C)
    sees = lambda t: [C.C * block + i for block in keys(t, n) for i in range(C.C)]
    for b, length in enumerate((T - 2, T)):
        np.testing.assert_allclose(y[b, :length], slow(P, X[b], length, sees), atol=1e-5)


def test_short_texts_see_all():
    x = X[:, : C.whole]
    y, _ = MODULE.apply({"params": P}, x, Context(np.arange(C.whole)[None]))
    np.testing.assert_allclose(y[0], slow(P, x[0], C.whole, lambda t: range(C.whole)), atol=1e-5)


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_on_meshes(config):
    x, segments = (np.concatenate([a] * 4) for a in (X, SEGMENTS))
    axes = sharding.axes_of(boxed(MODULE, X, CONTEXT))

    @jax.jit
    def run(p, x, segments):
        f = lambda p: MODULE.apply({"params": p}, x, Context(np.arange(T)[None], segments))[0]
        y, pull = jax.vjp(f, p)
        return y, pull(y)

    expected = run(P, x, segments)
    with on(config) as put:
        placed = {key: put(P[key], *axes[key].names) for key in P}
        found = run(placed, put(x, "batch", None, None), put(segments, "batch", None))
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def test_flops_count_the_pairs():
    n = 40
    assert C.score_flops(2 * n) == 4 * 4 * 6 * sum(len({*keys(2 * i, n)}) for i in range(n)) * 4 / (2 * n)
    assert C.score_flops(10) == 4 * 4 * 6 * 10


def test_it_does_not_decode():
    with pytest.raises(UserError, match="does not decode"):
        C.init_cache(1, 8, "float32")
