import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.ops.pooling import pool

X = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
MASK = np.array([[1, 1, 1, 0], [0, 1, 1, 1]])  # padded on either side
REAL = [X[0, :3], X[1, 1:]]


@pytest.mark.parametrize(
    "how, slow",
    [
        ("mean", lambda x: x.mean(0)),
        ("cls", lambda x: x[0]),
        ("last", lambda x: x[-1]),
        ("weighted", lambda x: (x[0] + 2 * x[1] + 3 * x[2]) / 6),
        ("max", lambda x: x.max(0)),
        ("mean_sqrt_len", lambda x: x.sum(0) / np.sqrt(3)),
    ],
)
def test_it_is_the_formula_of_the_real_tokens(how, slow):
    np.testing.assert_allclose(pool(X, MASK, how), [slow(x) for x in REAL], rtol=1e-5, atol=1e-6)


def test_an_unknown_one():
    with pytest.raises(UserError, match="unknown pooling 'means': did you mean 'mean'"):
        pool(X, MASK, "means")
