"""Probes against what they must find: streams against the model itself, a planted board, the closed form, parity."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.interpret import linear_probe, nonlinear_probe, streams
from jaxlm.models import forward
from tests import tiny
from tests.weights import weights

RNG = np.random.default_rng(0)


def test_the_last_stream_is_what_the_head_reads():
    config = tiny.model(norm=None)
    tokens = jnp.asarray(RNG.integers(0, 264, (2, 5)))
    params = weights(config.build(), tokens)
    found = streams(config, params, tokens)
    assert found.shape == (2, 2, 5, 32)
    np.testing.assert_allclose(found[-1], forward(config.build(), params, tokens).hidden_BTD, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-2


def planted():
    """Vectors that are sums of one direction for each square and class, and noise."""
    labels = RNG.integers(0, 3, (600, 4))
    directions = RNG.normal(size=(4, 3, 24))
    x = sum(directions[s, labels[:, s]] for s in range(4)) + 5 + 0.1 * RNG.normal(size=(600, 24))
    return x.astype(np.float32), labels


def test_a_linear_probe_finds_what_is_there_and_not_what_is_not():
    x, labels = planted()
    probe = linear_probe(x[:400], labels[:400], 3)
    assert probe.accuracy(x[400:], labels[400:]).min() > 0.97
    other = RNG.permutation(labels)
    assert linear_probe(x[:400], other[:400], 3).accuracy(x[400:], other[400:]).max() < 0.5


def test_it_is_ridge_regression():
    x, labels = planted()
    probe, y = linear_probe(x, labels, 3, ridge=0.1), np.eye(3)[labels[:, 1]]
    centred = x - x.mean(0)
    gram = centred.T @ centred
    w = np.linalg.solve(gram + 0.1 * np.trace(gram) / 24 * np.eye(24), centred.T @ (y - y.mean(0)))
    np.testing.assert_allclose(probe(x)[:, 1], centred @ w + y.mean(0), atol=2e-3)


def test_only_a_nonlinear_probe_finds_a_product():
    x = RNG.normal(size=(3000, 6)).astype(np.float32)
    labels = (x[:, :1] * x[:, 1:2] > 0).astype(int)
    assert linear_probe(x[:2500], labels[:2500], 2).accuracy(x[2500:], labels[2500:])[0] < 0.6
    found = nonlinear_probe(x[:2500], labels[:2500], 2, F=64, rate=1e-2)
    assert found.accuracy(x[2500:], labels[2500:])[0] > 0.9


@pytest.mark.parametrize(
    "x, labels, line",
    [
        ((5, 3), np.zeros((4, 2), int), r"\(n, D\) vectors and \(n, S\) labels, not \(5, 3\) and \(4, 2\)"),
        ((5, 3), np.full((5, 2), 3), "none of 3 classes"),
    ],
)
def test_what_cannot_be(x, labels, line):
    with pytest.raises(UserError, match=line):
        linear_probe(np.zeros(x, np.float32), labels, 3)
