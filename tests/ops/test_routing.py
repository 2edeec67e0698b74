"""Routers against loops over tokens, and what their statistics mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import routing

RNG = np.random.default_rng(0)
B, T, E, A = 2, 7, 12, 3
LOGITS = RNG.normal(size=(B, T, E)).astype(np.float32)
BALANCE = RNG.normal(size=E).astype(np.float32)


def softmax(x):
    p = np.exp(x - x.max())
    return p / p.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(logits, score, normalize, scale, balance, groups, kept, group_score):
    """One token: (expert, weight) pairs, best first."""
    scores = softmax(logits) if score == "softmax" else sigmoid(logits)
    choice = scores + (0 if balance is None else balance)
    members = np.arange(E).reshape(groups, E // groups)
    worth = [np.sort(choice[m])[-1:].sum() if group_score == "max" else np.sort(choice[m])[-2:].sum() for m in members]
    allowed = np.concatenate([members[g] for g in np.argsort(worth)[::-1][:kept]])
    chosen = sorted(allowed, key=lambda e: -choice[e])[:A]
    weights = scores[chosen] / (scores[chosen].sum() if normalize else 1)
    return chosen, weights * scale


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalize, scale", [(True, 1.0), (False, 2.5)])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("groups, kept, group_score", [(1, 1, "max"), (4, 2, "max"), (4, 2, "top2")])
def test_it_is_the_loop(score, normalize, scale, balanced, groups, kept, group_score):
    balance = BALANCE if balanced else None
    how = {"score": score, "norm_topk_prob": normalize, "scale": scale, "group_score": group_score}
    weights, ids = routing.route(
        LOGITS, A, balance_E=None if balance is None else jnp.asarray(balance), groups=groups, topk_group=kept, **how
    )
    for b, t in np.ndindex(B, T):
        e, w = loop(LOGITS[b, t], score, normalize, scale, balance, groups, kept, group_score)
        np.testing.assert_array_equal(ids[b, t], e)
        np.testing.assert_allclose(weights[b, t], w, rtol=1e-5)


def test_normalised_softmax_is_the_softmax_of_the_chosen_logits():
    logits = 30 * LOGITS  # most probabilities are tiny
    weights, ids = routing.route(logits, A)
    np.testing.assert_allclose(weights, jax.nn.softmax(jnp.take_along_axis(jnp.asarray(logits), ids, -1)), atol=1e-6)


def test_saturated_sigmoids_are_told_apart():
    logits = np.tile(np.arange(20, 20 + E, dtype=np.float32), (1, 1, 1))
    assert routing.route(logits, 2, score="sigmoid")[1].tolist() == [[[E - 1, E - 2]]]


def test_the_gradient_goes_through_weights_and_never_to_the_balance():
    mix = RNG.normal(size=(B, T, A)).astype(np.float32)
    for score in ("softmax", "sigmoid"):

        def total(logits, balance, score=score):
            return jnp.sum(routing.route(logits, A, score=score, balance_E=balance)[0] * mix)

        ids = routing.route(LOGITS, A, score=score, balance_E=jnp.asarray(BALANCE))[1]

        def chosen(logits, score=score, ids=ids):
            picked = jnp.take_along_axis(logits, ids, -1)
            w = jax.nn.softmax(picked) if score == "softmax" else jax.nn.sigmoid(picked)
            return jnp.sum(w / w.sum(-1, keepdims=True) * mix)

        dlogits, dbalance = jax.grad(total, (0, 1))(LOGITS, jnp.asarray(BALANCE))
        np.testing.assert_allclose(dlogits, jax.grad(chosen)(jnp.asarray(LOGITS)), atol=1e-6)
        assert not np.any(dbalance)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_statistics(score):
    ids = np.asarray(routing.route(LOGITS, A, score=score)[1])
    found = routing.statistics(jnp.asarray(LOGITS), jnp.asarray(ids), score, slots=4)
    load = np.array([(ids == e).sum() for e in range(E)]) / ids.size
    p = np.apply_along_axis(softmax if score == "softmax" else sigmoid, -1, LOGITS)
    importance = (p / p.sum(-1, keepdims=True)).mean((0, 1))
    dropped = sum(max((ids == e).sum() - 4, 0) for e in range(E)) / ids.size
    assert dropped > 0
    np.testing.assert_allclose(found["load"], load, rtol=1e-6)
    np.testing.assert_allclose(found["importance"], importance, rtol=1e-5)
    np.testing.assert_allclose(found["balance_loss"], E * np.sum(load * importance), rtol=1e-5)
    np.testing.assert_allclose(found["z_loss"], np.mean(np.log(np.exp(LOGITS).sum(-1)) ** 2), rtol=1e-5)
    np.testing.assert_allclose(found["dropped"], dropped, rtol=1e-6)
    assert routing.statistics(jnp.asarray(LOGITS), jnp.asarray(ids), score)["dropped"] == 0
    assert all(x.dtype == jnp.float32 for x in found.values())


def test_an_even_router_has_balance_loss_one():
    ids = jnp.arange(B * 6 * 2).reshape(B, 6, 2) % E
    found = routing.statistics(jnp.zeros((B, 6, E)), ids, "softmax")
    np.testing.assert_allclose([found["balance_loss"], found["z_loss"]], [1, np.log(E) ** 2], rtol=1e-6)


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_an_expert_takes_the_first_choices_of_a_row(capacity):
    ids = RNG.integers(0, 3, (B, T, 2))
    ids[..., 1] = ids[..., 0] + 3  # a token's choices are different experts
    found = routing.within(jnp.asarray(ids), 6, capacity)
    for b in range(B):
        taken = dict.fromkeys(range(6), 0)
        for t in range(T):
            for a in range(2):
                taken[ids[b, t, a]] += 1
                assert bool(found[b, t, a]) == (taken[ids[b, t, a]] <= capacity)


def test_sparse_mixer_by_a_loop():
    """Of the best two experts, each weighed against those left that are near it."""
    logits = np.random.default_rng(3).normal(size=(2, 5, 6)).astype(np.float32)
    weights, ids = routing.sparse_mixer(jnp.asarray(logits), 2, jitter=0.3)
    for (b, t), _ in np.ndenumerate(logits[..., 0]):
        left = list(range(6))
        for a in range(2):
            best = max(left, key=lambda e: logits[b, t, e])
            m = logits[b, t, best]
            near = [e for e in left if (m - logits[b, t, e]) / max(abs(logits[b, t, e]), m) <= 0.6]
            exp = np.exp([logits[b, t, e] for e in near])
            assert ids[b, t, a] == best
            np.testing.assert_allclose(weights[b, t, a], np.exp(m) / exp.sum(), rtol=1e-5)
            left.remove(best)
