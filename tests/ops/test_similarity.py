import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.ops import analogy, cosine_similarity, nearest_neighbours
from jaxlm.ops import similarity as module

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(30, 7)).astype(np.float32) * RNG.uniform(0.1, 9, (30, 1)).astype(np.float32)
TABLE[11] = 0
# gender, royalty, youth, country, capital, some constant
WORDS = {
    "rey": (1, 1, 0, 0, 0),
    "hombre": (1, 0, 0, 0, 0),
    "mujer": (-1, 0, 0, 0, 0),
    "reina": (-1, 1, 0, 0, 0),
    "príncipe": (1, 1, 1, 0, 0),
    "niña": (-1, 0, 1, 0, 0),
    "España": (0, 0, 0, 1, 0),
    "Madrid": (0, 0, 0, 1, 1),
    "Francia": (0, 0, 0, -1, 0),
    "París": (0, 0, 0, -1, 1),
}
MEANINGS = np.array([(*w, 0.5) for w in WORDS.values()], np.float32)
ID = {word: i for i, word in enumerate(WORDS)}


def cosine(x, y) -> float:
    """One pair, number by number."""
    dot, xx, yy = (sum(float(a) * float(b) for a, b in zip(*pair)) for pair in ((x, y), (x, x), (y, y)))
    return dot / math.sqrt(xx * yy) if xx and yy else 0.0


def nearest(table, query, k, exclude=()) -> tuple[list[float], list[int]]:
    """All rows sorted; Python's sort leaves equal ones in order."""
    scored = [(cosine(query, row), i) for i, row in enumerate(table) if i not in exclude]
    best = sorted(scored, key=lambda s: -s[0])[:k]
    return [s for s, _ in best], [i for _, i in best]


def check(found, expected):
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)


# cosine_similarity ----------------------------------------------------------------------------------------------------


def test_cosine_of_all_pairs():
    found = cosine_similarity(TABLE[:, None], TABLE[None])
    assert found.shape == (30, 30) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, [[cosine(x, y) for y in TABLE] for x in TABLE], atol=1e-6)
    np.testing.assert_allclose(cosine_similarity(TABLE[3], TABLE), found[3], atol=1e-6)  # axes are added in front
    assert cosine_similarity(TABLE[3], TABLE[4]).shape == ()
    assert cosine_similarity([3, 4], [4, 3]) == pytest.approx(24 / 25)


@pytest.mark.parametrize("size", [1e-36, 1e-20, 1e20, 1e36])
def test_cosine_is_of_the_direction_alone(size):
    x, y = TABLE[:5], TABLE[5:10]
    found = cosine_similarity(x * np.float32(size), y)
    np.testing.assert_allclose(found, [cosine(a, b) for a, b in zip(x, y)], atol=1e-6)


def test_cosine_of_half_precision_is_computed_in_float32():
    x, y = (jnp.asarray(TABLE[rows], jnp.bfloat16) for rows in (slice(0, 5), slice(5, 10)))
    found = cosine_similarity(x, y)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [cosine(a, b) for a, b in zip(x, y)], atol=1e-6)


def test_gradient_of_cosine():
    """d cos / dx = (y' - cos x') / |x|, where x' = x / |x|; a zero vector's is zero."""

    def loop(x, y):
        length, other = math.sqrt(x @ x), math.sqrt(y @ y)
        return (y / other - cosine(x, y) * x / length) / length

    x, y = np.float64(TABLE[:5]), np.float64(TABLE[5:10])
    dx, dy = jax.jit(jax.grad(lambda x, y: cosine_similarity(x, y).sum(), (0, 1)))(*map(np.float32, (x, y)))
    np.testing.assert_allclose(dx, [loop(a, b) for a, b in zip(x, y)], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(dy, [loop(b, a) for a, b in zip(x, y)], rtol=1e-4, atol=1e-6)
    for pair in ((np.zeros(3), np.ones(3)), (np.ones(3), np.zeros(3)), (np.zeros(3), np.zeros(3))):
        value, gradients = jax.value_and_grad(cosine_similarity, (0, 1))(*map(np.float32, pair))
        assert value == 0
        np.testing.assert_array_equal(gradients, np.zeros((2, 3)))


@pytest.mark.parametrize("x, y", [((3,), (4,)), ((3,), (1,)), ((2, 3), (2, 1)), ((), (3,))])
def test_cosine_of_vectors_of_two_widths(x, y):
    with pytest.raises(UserError, match="have no angle: their last axes must be equal"):
        cosine_similarity(np.ones(x), np.ones(y))


# nearest_neighbours ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4, 30])
def test_neighbours_as_by_sorting_all(k):
    queries = RNG.normal(size=(2, 3, 7)).astype(np.float32)
    cosines, ids = nearest_neighbours(TABLE, queries, k)
    assert cosines.shape == ids.shape == (2, 3, k) and ids.dtype == jnp.int32
    for b in np.ndindex(2, 3):
        check((cosines[b], ids[b]), nearest(TABLE, queries[b], k))
    check(nearest_neighbours(TABLE, queries[1, 2], k), nearest(TABLE, queries[1, 2], k))  # no batch
    check(jax.jit(lambda *a: nearest_neighbours(*a, k))(TABLE, queries[1, 2]), nearest(TABLE, queries[1, 2], k))


def test_rows_and_queries_of_any_length():
    sizes = np.float32(10.0) ** RNG.integers(-30, 30, (30, 1))
    for query in (TABLE[2], TABLE[2] * np.float32(1e-30), TABLE[2] * np.float32(1e30)):
        check(nearest_neighbours(TABLE * sizes, query, 30), nearest(TABLE, TABLE[2], 30))
    check(nearest_neighbours(TABLE, np.zeros(7), 5), ([0] * 5, [0, 1, 2, 3, 4]))  # no direction: all are equal


@pytest.mark.parametrize("seed", range(4))
def test_equal_cosines_are_in_the_order_of_their_ids(seed):
    rng = np.random.default_rng(seed)
    table = np.tile(rng.normal(size=37).astype(np.float32), (101, 1))
    table[rng.permutation(101)[:50]] = rng.normal(size=37)
    check(nearest_neighbours(table, table[0] + 0.1, 101), nearest(table, table[0] + 0.1, 101))


def test_a_cosine_of_zero_has_no_sign():
    zeros = np.array([[1e10, -1e-37], [1e10, 1e-37], [1e10, 0], [0, 0]], np.float32)  # -0 and 0, once divided
    check(nearest_neighbours(zeros, [0.0, 1.0], 4), ([0] * 4, [0, 1, 2, 3]))


def test_excluded_ids_are_left_out():
    queries = TABLE[[3, 4]]
    for exclude in ([3, 8, 8], np.array([3, 8], np.uint8), jnp.array([8, 3])):
        _, ids = found = nearest_neighbours(TABLE, queries, 28, exclude)
        for b in range(2):
            check((found[0][b], ids[b]), nearest(TABLE, queries[b], 28, {3, 8}))
    each = [[3, 5], [4, 4]]
    for f in (nearest_neighbours, jax.jit(nearest_neighbours, static_argnums=2)):
        cosines, ids = f(TABLE, queries, 28, np.array(each))
        for b in range(2):
            check((cosines[b], ids[b]), nearest(TABLE, queries[b], 28, each[b]))
    check(nearest_neighbours(TABLE, TABLE[3], 29, [3, 3]), nearest(TABLE, TABLE[3], 29, [3]))  # all that is left
    check(nearest_neighbours([[1, 0], [-1, 0]], [1, 0], 1, [0]), ([-1], [1]))  # however far


@pytest.mark.parametrize(
    "k, exclude, message",
    [
        (0, None, "there are no k=0 neighbours: of 30 vectors 30 are left, so choose k from 1 to 30"),
        (31, None, "there are no k=31 neighbours: of 30 vectors 30 are left"),
        (28, [1, 2, 3], "there are no k=28 neighbours: of 30 vectors 27 are left, so choose k from 1 to 27"),
        (29, [[1, 1], [1, 2]], "of 30 vectors 28 are left"),
        (1, [30], r"ids of the 30 vectors lie in 0\.\.29, got 30\.\.30"),
        (1, [4, -1], r"ids of the 30 vectors lie in 0\.\.29, got -1\.\.4"),
        (1, 4, r"ids to exclude of shape \(\) do not fit queries of shape \(2, 7\)"),
        (1, [[1], [2], [3]], r"ids to exclude of shape \(3, 1\) do not fit"),
    ],
)
def test_bad_neighbours(k, exclude, message):
    with pytest.raises(UserError, match=message):
        nearest_neighbours(TABLE, TABLE[:2], k, exclude)


def test_bad_queries():
    for shape in ((8,), (2, 1), ()):
        with pytest.raises(UserError, match="do not fit vectors of width 7"):
            nearest_neighbours(TABLE, np.ones(shape), 3)
    with pytest.raises(UserError, match="of 30 vectors 28 are left"):  # within jit two excluded ids are two rows less
        jax.jit(lambda exclude: nearest_neighbours(TABLE, TABLE[3], 29, exclude))(np.array([3, 3]))


def test_a_large_table_is_not_copied():
    """Read from the compiled program: beside its inputs no more than the cosines and their sorting."""
    V, D, B = 128 * 1024, 4096, 8
    shapes = [jax.ShapeDtypeStruct(s, t) for s, t in (((V, D), "f4"), ((B, D), "f4"), ((B, 1), "i4"))]
    memory = module._nearest.lower(*shapes, 10).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 8 * 4 * B * V


# analogy --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "a, b, c, answer",
    [
        ("rey", "hombre", "mujer", "reina"),
        ("reina", "mujer", "hombre", "rey"),
        ("Madrid", "España", "Francia", "París"),
        ("París", "Francia", "España", "Madrid"),
    ],
)
def test_known_analogies(a, b, c, answer):
    sizes = RNG.uniform(0.5, 2, (len(WORDS), 1)).astype(np.float32)  # which do not matter
    cosines, ids = analogy(MEANINGS * sizes, ID[a], ID[b], ID[c], 3)
    assert ids[0] == ID[answer] and cosines[0] > cosines[1]
    assert not {ID[a], ID[b], ID[c]} & set(ids.tolist())


def test_analogy_as_by_its_sum_of_cosines():
    """The order is that of cos(e, a) - cos(e, b) + cos(e, c), and the number the cosine with the sum."""
    triples = RNG.permutation(30)[:12].reshape(3, 4)  # a_B, b_B, c_B
    cosines, ids = jax.jit(analogy, static_argnums=4)(TABLE, *triples, 27)
    for at, (a, b, c) in enumerate(triples.T):
        rest = [i for i in range(30) if i not in (a, b, c)]
        score = {i: sum(sign * cosine(TABLE[i], TABLE[j]) for sign, j in ((1, a), (-1, b), (1, c))) for i in rest}
        assert ids[at].tolist() == sorted(rest, key=lambda i: -score[i])
        target = sum(sign * TABLE[j] / max(np.linalg.norm(TABLE[j]), 1e-9) for sign, j in ((1, a), (-1, b), (1, c)))
        np.testing.assert_allclose(cosines[at], [cosine(TABLE[i], target) for i in ids[at]], atol=1e-6)
    check(analogy(TABLE, *triples[:, 0], 27), (cosines[0], ids[0]))


def test_bad_analogies():
    with pytest.raises(UserError, match="there are no k=8 neighbours: of 10 vectors 7 are left"):
        analogy(MEANINGS, 0, 1, 2, 8)
    with pytest.raises(UserError, match=r"ids of the 10 vectors lie in 0\.\.9, got 0\.\.10"):
        analogy(MEANINGS, 0, 10, 2, 1)
    assert analogy(MEANINGS, 0, 1, 0, 8)[1].shape == (8,)  # one word twice
