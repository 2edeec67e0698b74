import jax
import numpy as np
import pytest

from jaxlm.ops import toeplitz


@pytest.mark.parametrize("L, C", [(1, 1), (1, 4), (5, 1), (3, 4), (6, 2)])
def test_the_matrix_and_the_sums_of_its_diagonals(L, C):
    rng = np.random.default_rng(0)
    line, m = rng.normal(size=(2, L + C - 1)).astype("f4"), rng.normal(size=(2, L, C)).astype("f4")
    expected, sums = np.zeros_like(m), np.zeros_like(line)
    for i, c in np.ndindex(L, C):
        expected[:, i, c] = line[:, c - i + L - 1]
        sums[:, c - i + L - 1] += m[:, i, c]
    found = jax.jit(lambda line, m: (toeplitz.matrix(line, L, C), toeplitz.diagonal_sums(m)))(line, m)
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_allclose(found[1], sums, atol=1e-6)
