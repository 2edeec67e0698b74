"""Longformer's attention with both kinds of weights, written out; padding; meshes."""

import chex
import jax
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import Context, LongformerConfig
from tests.meshes import MESHES, name, on
from tests.weights import boxed, weights

RNG = np.random.default_rng(0)
B, T, D = 2, 9, 12
C = LongformerConfig(H=4, K=6, reach=2)
X = RNG.normal(size=(B, T, D)).astype(np.float32)
SEGMENTS = np.array([[1] * 7 + [0] * 2, [1] * 9])
GLOBAL = np.array([[0, 5], [4, -1]])
CONTEXT = Context(np.arange(T)[None], SEGMENTS, global_BA=GLOBAL)
MODULE = C.build(3, "mixer")
P = weights(MODULE, X, CONTEXT)


def slow(p, x, places, length):
    """One row: token by token, head by head."""
    project = lambda name: np.einsum("td,dhk->thk", x, p[name]) + p[f"{name}_bias"]
    (q, k, v), (gq, gk, gv) = (tuple(project(f"{n}{kind}") for n in "qkv") for kind in ("", "_global"))
    o = np.zeros_like(q)
    for t in range(length):
        near = {s for s in range(length) if abs(s - t) <= C.reach}
        sees = sorted(set(range(length)) if t in places else near | places)
        a, b, c = (gq, gk, gv) if t in places else (q, k, v)
        scores = np.exp(np.einsum("hk,shk->hs", a[t], b[sees]) / np.sqrt(C.K))
        o[t] = np.einsum("hs,shk->hk", scores / scores.sum(-1, keepdims=True), c[sees])
    return np.einsum("thk,hkd->td", o, p["o"])[:length] + p["o_bias"]


def test_it_is_the_formula():
    y, state = MODULE.apply({"params": P}, X, CONTEXT)
    assert state == ()
    for b, length in enumerate((7, 9)):
        places = {int(i) for i in GLOBAL[b] if i >= 0}
        np.testing.assert_allclose(y[b, :length], slow(P, X[b], places, length), atol=1e-5)


def test_without_global_tokens():
    assert jax.tree.map(np.shape, weights(MODULE, X, Context(np.arange(T)[None]))) == jax.tree.map(np.shape, P)
    y, _ = MODULE.apply({"params": P}, X, Context(np.arange(T)[None]))
    np.testing.assert_allclose(y[0], slow(P, X[0], set(), T), atol=1e-5)


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_on_meshes(config):
    x, segments, at = (np.concatenate([a] * 4) for a in (X, SEGMENTS, GLOBAL))
    axes = sharding.axes_of(boxed(MODULE, X, CONTEXT))

    @jax.jit
    def run(p, x, segments, at):
        f = lambda p: MODULE.apply({"params": p}, x, Context(np.arange(T)[None], segments, global_BA=at))[0]
        y, pull = jax.vjp(f, p)
        return y, pull(y)

    expected = run(P, x, segments, at)
    with on(config) as put:
        placed = {key: put(P[key], *axes[key].names) for key in P}
        rows = put(x, "batch", None, None), put(segments, "batch", None), put(at, "batch", None)
        chex.assert_trees_all_close(run(placed, *rows), expected, rtol=1e-4, atol=1e-4)


def test_flops_count_the_window():
    for T in (2, 30):
        seen = sum(abs(t - s) <= C.reach for t in range(T) for s in range(T)) / T
        assert C.score_flops(T) == pytest.approx(4 * C.H * C.K * seen)


def test_it_does_not_decode():
    with pytest.raises(UserError, match="does not decode"):
        C.init_cache(1, 8, "float32")
