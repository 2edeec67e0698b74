import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import spans

KEYS = jax.random.split(jax.random.key(0), 50)


@pytest.mark.parametrize("T, rate, mean", [(20, 0.15, 3.0), (64, 0.5, 4.0), (2, 0.15, 3.0), (30, 0.95, 1.0)])
def test_counts_and_places(T, rate, mean):
    """Every text has that many spans of that many tokens, none at its beginning, one at its end; places differ."""
    noise, parts = spans.counts(T, rate, mean)
    assert 1 <= parts <= noise < T and parts <= T - noise
    found = np.asarray(jax.vmap(lambda key: spans.random_spans(key, T, rate, mean))(KEYS))
    assert (found.sum(1) == noise).all()
    assert ((found[:, 1:] > found[:, :-1]).sum(1) == parts).all()
    assert not found[:, 0].any() and found[:, -1].all()
    assert parts == 1 or len(np.unique(found, axis=0)) > 10


def test_all_cuts_are_alike():
    cuts = np.asarray(jax.vmap(lambda key: spans.cut(key, 5, 3))(jax.random.split(jax.random.key(1), 3000)))
    ways, counts = np.unique(cuts, axis=0, return_counts=True)
    assert ways.tolist() == [[1, 1, 3], [1, 2, 2], [1, 3, 1], [2, 1, 2], [2, 2, 1], [3, 1, 1]]
    assert abs(counts - 500).max() < 100


def test_a_mark_stands_for_each_span():
    """The example of the paper, in numbers."""
    text, span = np.arange(10, 20), np.array([0, 0, 1, 1, 0, 0, 0, 0, 1, 0], bool)
    marks = jnp.array([99, 98, 97])
    found = lambda span, length: spans.replaced(jnp.asarray(text), jnp.asarray(span), marks, length).tolist()
    assert found(span, 9) == [10, 11, 99, 14, 15, 16, 17, 98, 19]
    assert found(~span, 6) == [99, 12, 13, 98, 18, 97]
