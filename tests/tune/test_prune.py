"""Pruning: how many zeros and where, against slow numpy; shapes that shrink; zeros that stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import abstract, forward
from jaxlm.trains import join
from jaxlm.tune import prune, prune_heads, prune_layers, prune_units, quantize
from jaxlm.tune.kept import Kept, gradual, lottery_ticket
from jaxlm.tune.prune import cubic, sparsegpt, sparsity, wanda
from jaxlm.tune.seen import Seen
from tests import tiny
from tests.tune.test_methods import BATCHES, MODEL, PARAMS, block, matrix

RNG = np.random.default_rng(0)
W_IO = RNG.normal(size=(16, 6)).astype(np.float32)
X_NI = (RNG.normal(size=(80, 16)) * np.linspace(0.2, 3, 16)) @ (np.eye(16) + 0.3 * RNG.normal(size=(16, 16)))
SEEN = Seen.of(jnp.asarray(X_NI))


def error(w):
    return np.square(X_NI @ (np.asarray(w) - W_IO)).sum()


def test_magnitude_drops_the_smallest_of_each_matrix():
    pruned = jax.jit(lambda params: prune(MODEL, params, 0.25)[0])(PARAMS)
    for part, name in (("mixer", "k"), ("ffn", "down")):
        for w, found in zip(block(PARAMS)[part][name], block(pruned)[part][name]):
            zero = np.sort(np.abs(w).ravel())[: w.size // 4]
            np.testing.assert_array_equal(found, np.where(np.isin(np.abs(w), zero), 0, w))
    np.testing.assert_array_equal(pruned["embed"]["table"], PARAMS["embed"]["table"])


def test_global_and_patterns():
    assert abs(sparsity(MODEL, prune(MODEL, PARAMS, 0.7, "global")[0]) - 0.7) < 1e-3
    two = prune(MODEL, PARAMS, pattern="2:4")[0]
    zeros = (block(two)["ffn"]["down"] == 0).reshape(2, 16, 4, 32).sum(2)
    np.testing.assert_array_equal(zeros, 2)


def test_wanda_and_sparsegpt_are_what_slow_numpy_finds():
    score = np.abs(W_IO) * np.sqrt((X_NI**2).sum(0))[:, None]
    expected = W_IO.copy()
    for o in range(6):
        expected[np.argsort(score[:, o])[:8], o] = 0
    found = wanda([matrix(W_IO)], SEEN, 0.5, 0, 0)[0]
    np.testing.assert_array_equal(found, expected)

    h = np.asarray(SEEN.hessian_II, np.float64)
    h += np.eye(16) * 0.01 * h.diagonal().mean()
    d = np.array([np.linalg.inv(h[i:, i:])[0, 0] for i in range(16)])
    w, keep = W_IO.astype(np.float64), np.ones((16, 6))
    for o in range(6):
        for i in range(0, 16, 4):  # 2:4, each four chosen when they are reached
            drop = i + np.argsort(w[i : i + 4, o] ** 2 / d[i : i + 4])[:2]
            keep[drop, o] = 0
            for j in range(i, i + 4):
                inverse = np.linalg.inv(h[j:, j:])
                w[j:, o] -= inverse[:, 0] / inverse[0, 0] * w[j, o] * (1 - keep[j, o])
    solved = sparsegpt([matrix(W_IO)], SEEN, 0.5, 2, 4)[0]
    np.testing.assert_allclose(solved, w * keep, atol=1e-3)
    half = sparsegpt([matrix(W_IO)], SEEN, 0.5, 0, 0)[0]
    assert (np.asarray(half) == 0).mean() == 0.5 and error(half) < 0.9 * error(found)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_methods_that_read(method):
    found, rows = prune(MODEL, PARAMS, 0.5, method, batches=BATCHES)
    assert abs(sparsity(MODEL, found) - 0.5) < 0.01 and len(rows) == 14
    assert all(row.error < row.nearest for row in rows if method == "sparsegpt")
    assert sum(row.error for row in rows) < sum(row.nearest for row in rows)


def test_whole_heads_units_and_layers():
    out = lambda config, params: forward(config.build(), params, BATCHES[0]).hidden_BTD
    # A model with idle parts: without them it computes the same.
    params = jax.tree.map(np.array, PARAMS)
    block(params)["mixer"]["o"][:, :2] = 0  # both query heads of the first key head
    block(params)["ffn"]["down"][:, ::2] = 0
    for batches in (None, BATCHES[:1]):
        small, pruned = prune_heads(MODEL, params, 1, batches)
        assert small.layers[0].blocks[0].mixer.H == 2 and small.layers[0].blocks[0].mixer.G == 1
        np.testing.assert_allclose(out(small, pruned), out(MODEL, params), atol=1e-5)
    small, pruned = prune_units(small, pruned, 32)
    assert jax.tree.map(np.shape, pruned) == jax.tree.map(lambda x: x.shape, abstract(small)[0])
    np.testing.assert_allclose(out(small, pruned), out(MODEL, params), atol=1e-5)
    block(params)["mixer"]["o"][1] = block(params)["ffn"]["down"][1] = 0  # the second layer does nothing
    small, pruned = prune_layers(MODEL, params, 1, BATCHES[:1])
    np.testing.assert_allclose(out(small, pruned), out(MODEL, params), atol=1e-5)
    assert prune_layers(MODEL, params, 1)[0].depth == 1


def test_zeros_stay_and_tickets_rewind():
    run = tiny.run(trains=Kept())
    pruned = prune(MODEL, PARAMS, 0.5)[0]
    dressed = Kept().dress(pruned, abstract(MODEL)[1], jax.random.key(0))
    trained, frozen = Kept().split(dressed)
    assert len(jax.tree.leaves(frozen)) == 7 and len(jax.tree.leaves(trained)) == len(jax.tree.leaves(PARAMS))
    loss = lambda params: forward(MODEL.build(), params, BATCHES[0]).hidden_BTD.sum()
    grads = jax.grad(lambda trained: loss(join(trained, frozen)))(trained)
    down, grad = block(pruned)["ffn"]["down"], block(grads)["ffn"]["down"].w
    assert np.all(grad[down == 0] == 0) and np.any(grad[down != 0] != 0)
    assert run.trains == Kept()

    more = lambda params, i: jax.tree.map(lambda x: x * (1.5 + i), params)
    np.testing.assert_allclose(sparsity(MODEL, gradual(MODEL, PARAMS, more, [0.2, 0.5])), 0.5, atol=1e-3)
    ticket = lottery_ticket(MODEL, PARAMS, more, [0.3, 0.6])
    np.testing.assert_allclose(sparsity(MODEL, ticket), 0.6, atol=1e-3)
    q, first = block(ticket)["mixer"]["q"], block(PARAMS)["mixer"]["q"]
    np.testing.assert_array_equal(q, np.where(q == 0, 0, first))
    assert [round(float(cubic(t, 10, 20, 0.8)), 3) for t in (0, 10, 15, 20, 30)] == [0, 0, 0.7, 0.8, 0.8]


def test_what_cannot_be():
    for how, match in (
        ({"sparsity": 1.0}, r"sparsity=1\.0 must be a share"),
        ({"method": "smallest"}, "unknown method of pruning 'smallest'"),
        ({"method": "wanda"}, "wanda needs calibration batches"),
        ({"batches": BATCHES}, "magnitude reads no calibration"),
        ({"pattern": "4"}, "pattern '4' is not like 2:4"),
        ({"pattern": "2:5"}, r"ffn\.down has 64 inputs: groups of 5 do not divide them"),
        ({"pattern": "2:4", "method": "global"}, "leave the pattern out"),
    ):
        with pytest.raises(UserError, match=match):
            prune(MODEL, PARAMS, **how)
    with pytest.raises(UserError, match=r"is stored as Int8: prune before it is quantised"):
        prune(MODEL, quantize(MODEL, PARAMS))
    with pytest.raises(UserError, match="keep=3 must be from 1 to the 2 of layer 0"):
        prune_heads(MODEL, PARAMS, 3)
    with pytest.raises(UserError, match="keep=0 must be from 1 to the model's 2 layers"):
        prune_layers(MODEL, PARAMS, 0)
