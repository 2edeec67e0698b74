import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import delta_rule, delta_step, diagonal_plus_rank_one, rank_one_step
from tests.ops import recurrences
from tests.ops.recurrences import ROWS, T

H, K, J = 2, 3, 4


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def inputs(kind, T=T, rows=ROWS, size=1.0):
    """With gates whose logits are of this size."""
    rng = np.random.default_rng(0)
    q, k, at = rng.normal(size=(3, rows, T, H, K))
    v = rng.normal(size=(rows, T, H, J))
    gate = lambda *more: size * rng.normal(size=(rows, T, H, *more))
    if kind == "rank one":
        rate = 1 / (1 + np.exp(-gate(K)))
        xs = q, k, v, -np.exp(-0.5) / (1 + np.exp(-gate(K))), -unit(at), unit(at) * rate
    else:
        rate = (1 + (kind == "negative")) / (1 + np.exp(-gate()))
        xs = q, unit(k), v, rate, -np.logaddexp(0, gate({"channels": K}.get(kind, 1))) * (kind != "no decay")
    return tuple(x.astype(np.float32) for x in xs)


KINDS = ("no decay", "negative", "a head", "channels", "rank one")
ALL = pytest.mark.parametrize("kind", KINDS)


def op(xs, _, state, segments, chunk):
    return (delta_rule if len(xs) == 5 else diagonal_plus_rank_one)(*xs, state, segments, chunk)


def plain(xs, _, state, segments, chunk):
    """One token after the other."""
    one = delta_step if len(xs) == 5 else rank_one_step

    def step(s, at):
        y, s = one(*at, s)
        return s, y

    xs = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tuple(xs))
    s, y = jax.lax.scan(step, jnp.zeros((*xs[0].shape[1:], J)), xs)
    return jnp.moveaxis(y, 0, 1), s


def slow(q, k, v, *more):
    """The equations of one row, as products of whole matrices."""
    s, y = np.zeros((H, K, J)), np.zeros((T, H, J))
    for t, h in np.ndindex(T, H):
        if len(more) == 2:
            rate, decay = more[0][t, h], np.diag(np.broadcast_to(np.exp(more[1][t, h]), K))
            s[h] = (np.eye(K) - rate * np.outer(k[t, h], k[t, h])) @ decay @ s[h] + rate * np.outer(k[t, h], v[t, h])
        else:
            decay, at, to = (x[t, h] for x in more)
            s[h] = (np.diag(np.exp(decay)) + np.outer(to, at)) @ s[h] + np.outer(k[t, h], v[t, h])
        y[t, h] = s[h].T @ q[t, h]
    return y, s


@ALL
def test_it_is_its_equation(kind):
    xs = inputs(kind)
    wanted = [slow(*(x[row] for x in xs)) for row in range(ROWS)]
    for y, state in (op(xs, None, None, None, 4), plain(xs, None, None, None, 1)):
        np.testing.assert_allclose(y, [y for y, _ in wanted], atol=1e-5)
        np.testing.assert_allclose(state, [state for _, state in wanted], atol=1e-5)


@pytest.mark.parametrize("kind", ["a head", "rank one"])
def test_parallel_is_chunked_is_recurrent(kind):
    recurrences.chunks_change_nothing(op, inputs(kind), None, (T, 3, 1))


@pytest.mark.parametrize("kind", ["channels", "rank one"])
def test_packed_texts_are_each_alone(kind):
    recurrences.packed_texts_are_each_alone(op, inputs(kind), None, 4)


@ALL
def test_gates_of_any_size(kind):
    xs = inputs(kind, size=30.0)
    np.testing.assert_allclose(op(xs, None, None, None, 8)[0], plain(xs, None, None, None, 1)[0], atol=1e-5)
    recurrences.gradients_are_those_of(plain, op, xs, None, 8)


@pytest.mark.parametrize("kind", ["a head", "rank one"])
def test_sixteen_bits(kind):
    recurrences.sixteen_bits(op, plain, [jnp.asarray(x, jnp.bfloat16) for x in inputs(kind)], None, 4)


def test_training_memory_is_linear():
    kind = "rank one"
    recurrences.memory_is_linear(op, lambda T: jax.tree.map(jnp.asarray, inputs(kind, T, 1)), None, 16)
    recurrences.no_square(op, jax.tree.map(jnp.asarray, inputs(kind, 1000, 1)), None, 16)


@pytest.mark.parametrize("kind", ["channels", "rank one"])
@pytest.mark.parametrize("at", [1, 7])
def test_it_goes_on_from_its_state(kind, at):
    recurrences.it_goes_on(op, inputs(kind), None, at, 4)


def test_a_repeated_key_is_overwritten():
    """At rate one the state holds the last value, where linear attention would hold the sum."""
    k = np.tile(unit(np.ones(K)), (1, T, H, 1)).astype(np.float32)
    v = np.random.default_rng(2).normal(size=(1, T, H, J)).astype(np.float32)
    y, _ = delta_rule(k, k, v, np.ones((1, T, H), np.float32))
    np.testing.assert_allclose(y, v, atol=1e-5)
