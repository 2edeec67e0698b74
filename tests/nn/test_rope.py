import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.nn import RopeConfig
from jaxlm.nn.rope import text_length
from jaxlm.ops import rotate
from jaxlm.ops.rope import DynamicNTK, LongRope, Unscaled, Yarn, frequencies

X = np.random.default_rng(0).normal(size=(2, 3, 2, 8)).astype(np.float32)
POSITIONS = np.array([[0, 1, 2], [7, 8, 9]])
LENGTHS = np.array([3, 10])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("fraction, K", [(1.0, 8), (0.5, 4), (0.8, 6)])
def test_the_first_part_of_a_head_turns(fraction, K, interleaved):
    c = RopeConfig(100.0, Yarn(4.0, 8), fraction, interleaved)
    assert c.width(8) == K
    w_k = np.asarray(Yarn(4.0, 8).frequencies(K, 100.0, 1))
    factor = 0.1 * np.log(4) + 1
    found = c.rotate(X, POSITIONS, 1)
    np.testing.assert_allclose(found[..., :K], rotate(X[..., :K], POSITIONS, w_k, factor, interleaved), atol=1e-6)
    np.testing.assert_array_equal(found[..., K:], X[..., K:])


@pytest.mark.parametrize("scaling", [DynamicNTK(2.0, 5), LongRope((1.0,) * 4, (2.0, 3.0, 4.0, 5.0), 5, 2.0)], ids=str)
def test_frequencies_that_depend_on_the_length(scaling):
    c = RopeConfig(100.0, scaling)
    short, long = (np.asarray(scaling.frequencies(8, 100.0, n)) for n in (5, 6))
    np.testing.assert_allclose(short, frequencies(8, 100.0), rtol=1e-5)
    assert (long[1:] < short[1:]).all()
    for length, w_k in ((5, short), (6, long)):
        expected = rotate(X, POSITIONS, w_k, scaling.attention_factor)
        np.testing.assert_allclose(jax.jit(c.rotate)(X, POSITIONS, length), expected, atol=1e-5)
    w_Nk = np.stack([scaling.frequencies(8, 100.0, n) for n in range(12)])
    changed = (w_Nk[1:] != w_Nk[:-1]).any(1)
    assert [scaling.turns(n) for n in range(1, 12)] == list(changed) and changed.any()


def test_the_longest_text_of_a_call_counts():
    """Two texts packed in a row; padding before one, which stands at position 0."""
    assert text_length(jnp.array([[0, 1, 2, 0, 1], [0, 0, 0, 1, 0]])) == 3


def test_what_makes_no_sense():
    with pytest.raises(UserError, match=r"turn pairs, but 0\.5 of the head width 6 is 3"):
        RopeConfig(fraction=0.5).width(6)
    with pytest.raises(UserError, match=r"0\.1 of the head width 8 is 0"):
        RopeConfig(fraction=0.1).width(8)
    for changes in ({"base": 1.0}, {"fraction": 0.0}, {"fraction": 1.5}):
        with pytest.raises(UserError, match=r"base=1.0 must be above 1|fraction=.* must lie in \(0, 1\]"):
            RopeConfig(**changes)
    assert RopeConfig().scaling == Unscaled()
