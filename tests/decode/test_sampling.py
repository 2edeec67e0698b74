import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode import Chain, Greedy, MinP, Sampler, Temperature, TopK, TopP, VocabularyMask, within
from jaxlm.errors import UserError

RNG = np.random.default_rng(0)
INF = np.inf
LOGITS = [
    *RNG.normal(size=(4, 9)) * 2,
    np.zeros(9),  # all equal
    [1, 3, 3, 3, 0, 0, 3, -2, 1],  # ties
    [-INF, 2, -INF, 1, 0, -INF, -INF, 2, -INF],  # excluded already
    [-INF] * 4 + [5] + [-INF] * 4,  # one left
    [800, -800, 799, 0, 0, 0, 0, 0, 790],
    [-1e6, -1e6 - 1, -1e6 - 2] + [-2e6] * 6,
]
LOGITS = np.array(LOGITS, np.float32)
B, V = LOGITS.shape


# Slow and obvious: each says which ids of one row stay.


def probabilities(row: list[float]) -> list[float]:
    weights = [math.exp(x - max(row)) for x in row]
    return [w / sum(weights) for w in weights]


def top_k(row, k):
    kth = sorted(row, reverse=True)[: int(k)][-1]
    return [x >= kth for x in row]


def top_p(row, p):
    order = sorted(range(len(row)), key=lambda i: -row[i])
    total, least = 0.0, INF
    for i in order:
        if total >= p:
            break
        total, least = total + probabilities(row)[i], row[i]
    return [x >= least for x in row]


def min_p(row, p):
    return [q >= p * max(probabilities(row)) for q in probabilities(row)]


def greedy(row):
    return [i == row.index(max(row)) for i in range(len(row))]


def fresh(sampler: Sampler, logits):
    """The state after empty prompts."""
    B, V = logits.shape
    return sampler.start(jnp.zeros((B, 1), int), jnp.zeros((B, 1), int), V)


def filtered(sampler: Sampler, logits):
    return sampler.filter(jnp.asarray(logits), fresh(sampler, logits))


def draw(sampler: Sampler, logits, key):
    return sampler.choose(jnp.asarray(logits), fresh(sampler, logits), key).token_B


def kept(sampler: Sampler, logits=LOGITS) -> np.ndarray:
    """Which ids have a chance; what has keeps its logit."""
    found = np.asarray(jax.jit(filtered, static_argnums=0)(sampler, logits))
    assert not np.isnan(found).any()
    stays = found > -INF
    np.testing.assert_array_equal(found[stays], logits[stays])
    assert stays.any(-1).all()
    return stays


CASES = [
    *[(TopK(k), top_k, (k,)) for k in (1, 2, 3, V - 1, V, V + 1, 10**6)],
    *[(TopP(p), top_p, (p,)) for p in (1e-9, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)],
    *[(MinP(p), min_p, (p,)) for p in (0, 1e-9, 0.05, 0.3, 0.5, 1)],
    (Greedy(), greedy, ()),
    (VocabularyMask(5), lambda row: [i < 5 for i in range(V)], ()),
    (VocabularyMask(V), lambda row: [True] * V, ()),
    (Sampler(), lambda row: [True] * V, ()),
]


@pytest.mark.parametrize("sampler, reference, args", CASES, ids=lambda x: str(x) if isinstance(x, Sampler) else "")
def test_what_stays(sampler, reference, args):
    expected = np.array([reference([float(x) for x in row], *args) for row in LOGITS])
    np.testing.assert_array_equal(kept(sampler), expected & (LOGITS > -INF))


def test_nucleus_of_one_keeps_the_whole_tail():
    """The running sum of float32 probabilities is 1 from the first on."""
    logits = np.array([[0, -30, -40, -1000]], np.float32)
    assert kept(TopP(1), logits).all() and kept(TopP(1.0), logits).all()


def test_a_nucleus_has_the_probability_asked_for():
    logits = RNG.normal(size=(50, 1000)).astype(np.float32) * 3
    p = np.asarray(jax.nn.softmax(logits))
    stays = kept(TopP(0.8), logits)
    mass, least = (p * stays).sum(-1), np.where(stays, p, 1).min(-1)
    assert (mass > 0.8 - 1e-5).all() and (mass - least < 0.8 + 1e-5).all()


@pytest.mark.parametrize("t", [0.1, 0.8, 1, 3, 1e-6, 1e6])
def test_temperature(t):
    found = jax.jit(filtered, static_argnums=0)(Temperature(t), LOGITS)
    np.testing.assert_allclose(found, LOGITS / np.float32(t), rtol=1e-6)


def test_greedy_is_argmax_and_the_smallest_of_equals():
    key = jax.random.key(0)
    for sampler in (Greedy(), Temperature(2) | Greedy(), TopK(1) | Greedy(), Greedy() | TopP(0.5)):
        np.testing.assert_array_equal(draw(sampler, LOGITS, key), LOGITS.argmax(-1))


PARTS = [Temperature(0.5), TopK(4), TopP(0.8), MinP(0.2)]


@pytest.mark.parametrize("parts", [p for n in (2, 4) for p in itertools.permutations(PARTS, n)][::3], ids=str)
def test_a_chain_goes_from_left_to_right(parts):
    chain, expected = parts[0], LOGITS
    for part in parts[1:]:
        chain = chain | part
    for part in parts:
        expected = filtered(part, expected)
    np.testing.assert_allclose(filtered(chain, LOGITS), expected, rtol=1e-6)


def test_the_order_of_a_chain_matters():
    logits = np.log(np.array([[0.4, 0.3, 0.2, 0.1]], np.float32))
    mild = Temperature(10)
    assert kept(TopP(0.65), logits).sum() == 2
    assert (np.asarray(filtered(mild | TopP(0.65), logits)) > -INF).sum() == 3
    assert (np.asarray(filtered(TopP(0.65) | mild, logits)) > -INF).sum() == 2


def test_a_chain_of_none_or_one_is_what_it_holds():
    key = jax.random.key(0)
    for parts in ((), (Sampler(),), (TopK(2),), (Greedy(),)):
        (part,) = parts or (Sampler(),)
        np.testing.assert_array_equal(draw(Chain(parts), LOGITS, key), draw(part, LOGITS, key))


def test_ids_that_the_tokenizer_has_not_are_left_out_where_there_are_some():
    assert within(TopK(2), 5, V) == VocabularyMask(5) | TopK(2)
    assert within(TopK(2), V, V) == within(TopK(2), V + 1, V) == TopK(2)


def test_samplers_are_values():
    """Equal ones are one entry of jit's cache, however they were made."""
    a, b, c = Temperature(0.8), TopK(50), TopP(0.9)
    assert (a | b) | c == a | (b | c) == Chain((a, b, c)) and hash((a | b) | c) == hash(a | (b | c))
    assert len({a, Temperature(0.8), b, TopK(50), a | b, Temperature(0.8) | b, b | a, Greedy(), Sampler()}) == 6
    traced = []

    @jax.jit
    def count(x):
        traced.append(x)
        return x

    f = jax.jit(lambda sampler, x: count(filtered(sampler, x)), static_argnums=0)
    for sampler in (a | b, Temperature(0.8) | TopK(50)):
        f(sampler, LOGITS)
    assert len(traced) == 1
    with pytest.raises(AttributeError):
        a.t = 1.0


@pytest.mark.parametrize(
    "sampler",
    [Sampler(), Temperature(0.5), TopK(3), TopP(0.7), MinP(0.1), Temperature(2) | TopK(5) | TopP(0.9) | MinP(0.05)],
    ids=str,
)
def test_tokens_come_as_often_as_they_should(sampler):
    """20,000 draws in one call: frequencies within five standard deviations, nothing that is excluded."""
    logits, n = RNG.normal(size=V).astype(np.float32), 20_000
    draws = jax.jit(draw, static_argnums=0)(sampler, jnp.broadcast_to(logits, (n, V)), jax.random.key(0))
    frequencies = np.bincount(draws, minlength=V) / n
    p = np.asarray(jax.nn.softmax(filtered(sampler, logits[None])))[0]
    assert (np.abs(frequencies - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()


def test_draws_depend_on_the_key_and_the_row_only():
    logits, sampler, key = jnp.zeros((64, V)), Sampler(), jax.random.key(3)
    draws = draw(sampler, logits, key)
    np.testing.assert_array_equal(draw(sampler, logits, key), draws)
    np.testing.assert_array_equal(draw(sampler, logits[:5], key), draws[:5])
    assert (draw(sampler, logits, jax.random.key(4)) != draws).mean() > 0.5


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Temperature(0), "temperature must be above 0, got 0 .*use Greedy"),
        (lambda: Temperature(-1), "temperature must be above 0"),
        (lambda: Temperature(1e-40), "temperature must be above 0"),
        (lambda: Temperature(math.nan), "temperature must be above 0"),
        (lambda: Temperature(math.inf), "temperature must be above 0"),
        (lambda: TopK(0), "top-k must be a whole number of at least 1, got 0"),
        (lambda: TopK(-3), "top-k must be"),
        (lambda: TopK(2.5), "top-k must be"),
        (lambda: TopK(math.nan), "top-k must be"),
        (lambda: TopP(0), r"top-p must lie in \(0, 1\], got 0"),
        (lambda: TopP(1.01), "top-p must lie in"),
        (lambda: TopP(math.nan), "top-p must lie in"),
        (lambda: MinP(-0.1), r"min-p must lie in \[0, 1\], got -0.1"),
        (lambda: MinP(1.1), "min-p must lie in"),
        (lambda: MinP(math.nan), "min-p must lie in"),
        (lambda: Temperature(None), "temperature must be a number, got None"),
        (lambda: Temperature("1"), "temperature must be a number, got '1'"),
        (lambda: Temperature(10**400), "temperature must be a number, got an int"),
        (lambda: TopK("5"), "top-k must be a number, got '5'"),
        (lambda: TopP([0.5]), "top-p must be a number, got a list"),
        (lambda: MinP(True), "min-p must be a number, got True"),
        (lambda: VocabularyMask(0), "n of VocabularyMask must be at least 1, got 0"),
        (lambda: Greedy() | "x", "a sampler must be one of jaxlm's, such as Greedy.* got 'x'"),
        (lambda: Chain((None,)), "a sampler must be one of jaxlm's"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(UserError, match=message):
        make()
