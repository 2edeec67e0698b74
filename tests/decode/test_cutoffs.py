import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from jaxlm.decode import Choice, CountPenalty, Epsilon, Eta, Mirostat, TopP, Typical
from jaxlm.errors import UserError
from tests.decode.test_sampling import LOGITS, RNG, V, draw, filtered, kept, probabilities


def typical(row, p):
    q = probabilities(row)
    H = -sum(x * math.log(x) for x in q if x)
    far = [abs(-math.log(x) - H) if x else math.inf for x in q]
    return [sum(x for x, f in zip(q, far) if f < mine) < p for mine in far]


def epsilon(row, e):
    q = probabilities(row)
    return [x >= e or x == max(q) for x in q]


def eta(row, e):
    q = probabilities(row)
    return epsilon(row, min(e, math.sqrt(e) * math.exp(sum(x * math.log(x) for x in q if x))))


CASES = [
    *[(Typical(p), typical, p) for p in (0.2, 0.5, 0.9)],
    *[(Epsilon(e), epsilon, e) for e in (0.0, 0.01, 0.3, 0.9)],
    *[(Eta(e), eta, e) for e in (0.0, 0.02, 0.3)],
    (
        Mirostat(1.0),
        lambda row, t: [-math.log2(x or 1e-99) <= 2 or x == max(probabilities(row)) for x in probabilities(row)],
        0,
    ),
]


@pytest.mark.parametrize("sampler, reference, number", CASES, ids=lambda x: getattr(x, "__name__", str(x)))
def test_what_stays(sampler, reference, number):
    logits = LOGITS[:6]  # equal ones that differ by rounding are no test
    expected = np.array([reference([float(x) for x in row], number) for row in logits])
    np.testing.assert_array_equal(kept(sampler, logits), expected & (logits > -np.inf))


@pytest.mark.parametrize("sampler", [Typical(1e-9), Epsilon(0.999), Eta(0.999), Mirostat(1e-9), TopP(1e-9)], ids=str)
def test_at_least_one_stays(sampler):
    assert kept(sampler).any(1).all()


def test_all_of_it_is_typical():
    assert kept(Typical(1), np.array([[0, -30, -40, -1000]], np.float32)).all()


@pytest.mark.parametrize("sampler", [Typical(0.7), Epsilon(0.1), Eta(0.2), Mirostat(1.2)], ids=str)
def test_tokens_come_as_often_as_they_should(sampler):
    logits, n = RNG.normal(size=V).astype(np.float32), 20_000
    draws = jax.jit(draw, static_argnums=0)(sampler, jnp.broadcast_to(logits, (n, V)), jax.random.key(0))
    stays = np.asarray(filtered(sampler, logits[None]))[0] > -np.inf
    counts, q = np.bincount(draws, minlength=V), np.exp(logits.astype(float)) * stays
    assert 1 < stays.sum() < V and not counts[~stays].any()
    assert chisquare(counts[stays], n * q[stays] / q.sum()).pvalue > 1e-4


def test_mirostat_by_its_equations():
    """Three rows, one of which stops; the threshold of each follows its own surprises, and they come near tau."""
    tau, rate, sampler = 2.0, 0.3, Mirostat(2.0, 0.3)
    mu, state = [2 * tau] * 3, sampler.start(jnp.zeros((3, 1), int), jnp.zeros((3, 1), int), 50)
    choose, after, bits = jax.jit(sampler.choose), jax.jit(sampler.after), []
    for t in range(60):
        logits = RNG.normal(size=(3, 50)).astype(np.float32) * 2
        choice = choose(logits, state, jax.random.key(t))
        assert choice.logprob_B is not None
        for b, row in enumerate(logits):
            q = np.array(probabilities([float(x) for x in row]))
            stays = (-np.log2(q) <= mu[b]) | (q == q.max())
            surprise = -np.log2(q[choice.token_B[b]] / q[stays].sum())
            assert stays[choice.token_B[b]]
            np.testing.assert_allclose(-choice.logprob_B[b] / math.log(2), surprise, atol=1e-4)
            if b or t < 5:
                mu[b] -= rate * (surprise - tau)
                bits.append(surprise)
        stopped = jnp.array([t >= 5, False, False])
        state = after(state, Choice(jnp.where(stopped, -1, choice.token_B), choice.logprob_B))
        np.testing.assert_allclose(2 * tau - state, mu, atol=1e-3)
    assert abs(np.mean(bits[30:]) - tau) < 0.2


def test_presence_and_frequency_by_their_equations():
    sampler, said = CountPenalty(0.7, -0.2), [[], []]
    state = sampler.start(jnp.ones((2, 3), int), jnp.ones((2, 3), int), V)
    for chosen in ([1, 2], [1, -1], [8, -1], [1, -1]):
        logits = RNG.normal(size=(2, V)).astype(np.float32)
        expected = [
            [x - 0.7 * (i in row) + 0.2 * row.count(i) for i, x in enumerate(line)] for row, line in zip(said, logits)
        ]
        np.testing.assert_allclose(sampler.filter(jnp.asarray(logits), state), expected, rtol=1e-5, atol=1e-6)
        state = sampler.after(state, Choice(jnp.array(chosen)))
        said = [[*row, token] if token >= 0 else row for row, token in zip(said, chosen)]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Typical(0), r"typical p must lie in \(0, 1\], got 0"),
        (lambda: Epsilon(1), r"epsilon must lie in \[0, 1\), got 1"),
        (lambda: Eta(-0.1), r"eta's epsilon must lie in \[0, 1\), got -0.1"),
        (lambda: Mirostat(0), "mirostat's tau must be a positive number"),
        (lambda: Mirostat(3, -1), "mirostat's eta must be a positive number"),
        (lambda: CountPenalty(presence=math.nan), "presence penalty must be a finite number"),
        (lambda: CountPenalty(frequency="x"), "frequency penalty must be a number, got 'x'"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(UserError, match=message):
        make()
