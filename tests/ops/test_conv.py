import numpy as np
import pytest

from jaxlm.ops import causal_conv
from tests.ops import recurrences
from tests.ops.recurrences import ROWS, T

RNG = np.random.default_rng(0)
F, W = 5, 4
X = RNG.normal(size=(ROWS, T, F)).astype(np.float32)
P = RNG.normal(size=(W, F)).astype(np.float32), RNG.normal(size=F).astype(np.float32)


def op(x, params, state, segments, chunk):
    return causal_conv(x, *params, state, segments)


def slow(x_TF, w_WF, bias_F):
    y = np.zeros_like(x_TF)
    for t in range(len(x_TF)):
        for w in range(W):
            if t - w >= 0:
                y[t] += w_WF[W - 1 - w] * x_TF[t - w]
    return y + bias_F


def test_it_is_its_equation():
    y, state = causal_conv(X, *P)
    np.testing.assert_allclose(y, [slow(x, *P) for x in X], atol=1e-5)
    np.testing.assert_array_equal(state, X[:, -(W - 1) :])
    np.testing.assert_allclose(causal_conv(X, P[0])[0], np.asarray(y) - P[1], atol=1e-5)


def test_packed_texts_are_each_alone():
    recurrences.packed_texts_are_each_alone(op, X, P, T)


@pytest.mark.parametrize("at", [1, 2, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_it_goes_on_from_its_state(at, masked):
    ones = np.ones((ROWS, T), int) if masked else None
    cut = lambda where: None if ones is None else ones[:, where]
    whole, last = causal_conv(X, *P)
    first, state = causal_conv(X[:, :at], *P, None, cut(slice(at)))
    second, end = causal_conv(X[:, at:], *P, state, cut(slice(at, T)))
    np.testing.assert_allclose(np.concatenate([first, second], 1), whole, atol=1e-5)
    np.testing.assert_array_equal(end, last)


def test_channels_may_have_dimensions():
    shaped = lambda x: x.reshape(*x.shape[:-1], 5, 1)
    y, state = causal_conv(shaped(X), shaped(P[0]), shaped(P[1]), None, recurrences.SEGMENTS)
    plain = causal_conv(X, *P, None, recurrences.SEGMENTS)
    np.testing.assert_allclose(y[..., 0], plain[0], atol=1e-6)
    np.testing.assert_array_equal(state[..., 0], plain[1])
