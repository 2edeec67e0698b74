import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.ops import (
    Fixed,
    Local,
    Pattern,
    Strided,
    block_sparse_attention,
    dense_mask,
    pattern_mask,
    reference_attention,
)
from tests.meshes import MESHES, name, on
from tests.ops.attention_cases import Case, naive, with_gradients

PATTERNS = {
    "fixed": Fixed(2, 3)(14),
    "strided": Strided(1, 3)(14),
    "longformer": Local(3, 1, everywhere=1)(14),
    "bigbird": Local(2, 0, everywhere=1, random=2)(14),
    "by hand": Pattern(4, ((0,), (1, 0, 1, 1), (3, 0, 2), (3,))),  # twice, out of order, and ahead
}


def expanded(pattern: Pattern, T: int, causal: bool) -> np.ndarray:
    """The mask of the pattern, pair by pair."""
    mask = np.zeros((T, T), bool)
    for t, s in np.ndindex(T, T):
        mask[t, s] = s // pattern.C in pattern.blocks[t // pattern.C] and (s <= t or not causal)
    return mask


def sees(pattern: Pattern) -> list[set[int]]:
    return [set(row) for row in pattern.blocks]


def test_the_patterns_are_those_of_the_papers():
    """Against their definitions, one position a block: the index sets A_i of Child et al., section 4.2."""
    T, stride = 12, 4
    for i, found in enumerate(sees(Strided(1, stride)(T))):
        columns = {j for j in range(i + 1) if (i - j) % stride == 0}
        assert {j for j in found if j <= i} == set(range(max(0, i - stride), i + 1)) | columns
    for i, found in enumerate(sees(Fixed(1, stride, 2)(T))):
        summaries = {j for j in range(i + 1) if j % stride in (stride - 2, stride - 1)}
        assert {j for j in found if j <= i} == {j for j in range(i + 1) if j // stride == i // stride} | summaries
    for i, found in enumerate(sees(Local(1, 2, everywhere=1)(T))):
        assert found == (set(range(T)) if i == 0 else {0} | set(range(max(0, i - 2), min(T, i + 3))))


def test_random_blocks_come_on_top_and_stay_the_same():
    plain, random = Local(5, 1, everywhere=1)(60), Local(5, 1, everywhere=1, random=2)(60)
    more = [b - a for a, b in zip(sees(plain), sees(random))]
    assert [len(x) for x in more] == [0] + [2] * 11
    assert len({tuple(sorted(x)) for x in more}) > 6
    assert Local(5, 1, everywhere=1, random=2)(60) == random != Local(5, 1, everywhere=1, random=2, seed=1)(60)


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_the_mask_of_a_pattern(pattern):
    for causal in (True, False):
        np.testing.assert_array_equal(dense_mask(pattern, 13, causal), expanded(pattern, 13, causal))
    query, key = np.array([[3, 9], [0, 12]]), np.array([[7, 1, 8], [12, 0, 5]])
    found = jax.jit(lambda query, key: pattern_mask(pattern, query, key))(query, key)
    whole = expanded(pattern, 13, False)
    np.testing.assert_array_equal(found, whole[query[:, :, None], key[:, None]])


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("causal, packed", [(True, False), (True, True), (False, True)])
def test_equals_dense_attention_forward_and_backward(pattern, causal, packed):
    """13 tokens, so that the last block is ragged; a query that sees nothing gives zero."""
    case = Case(causal=causal, packed=packed)
    q, k, v, *_ = case.arrays()
    mask = case.mask() & expanded(pattern, 13, causal)[None]
    blind = ~mask.any(-1)[..., None, None]

    def dense(q, k, v, _):
        return jnp.where(blind, 0, reference_attention(q, k, v, mask, 0.3))

    def sparse(q, k, v, extras):
        return block_sparse_attention(q, k, v, pattern, extras.segments_BT, causal=causal, scale=0.3)

    found = with_gradients(sparse, case)
    chex.assert_trees_all_close(found, with_gradients(dense, case), atol=2e-5)
    np.testing.assert_allclose(found[0], naive(q, k, v, mask, 0.3), atol=1e-5)


def test_no_gradient_flows_from_an_output_to_what_it_may_not_see():
    case = Case(T=9, B=1, H=2, packed=True)
    q, k, v, _, extras = case.arrays()
    pattern = Local(2, 0, everywhere=1)(9)
    f = lambda k, v: block_sparse_attention(q, k, v, pattern, extras.segments_BT).sum((0, 2, 3))
    through = [np.abs(x).sum((1, 3, 4)) > 1e-7 for x in jax.jit(jax.jacobian(f, (0, 1)))(k, v)]
    mask = np.asarray(case.mask()[0] & expanded(pattern, 9, True))
    np.testing.assert_array_equal(through[1], mask)
    assert not (through[0] & ~mask).any()


def test_a_block_listed_twice_counts_once():
    q, k, v, *_ = Case(T=8).arrays()
    once, twice = Pattern(4, ((0,), (0, 1))), Pattern(4, ((0, 0), (1, 0, 0)))
    np.testing.assert_array_equal(*(block_sparse_attention(q, k, v, p) for p in (once, twice)))
    assert once.pairs(8, True).tolist() == twice.pairs(8, True).tolist() == [[0, 1, 1], [0, 0, 1]]


def test_cost_is_that_of_the_listed_blocks():
    """A window of blocks: four times the length, four times the work and memory; dense would be sixteen times."""

    def cost(T):
        pattern = Local(16, 1, everywhere=1)(T)
        f = lambda *qkv: block_sparse_attention(*qkv, pattern).sum()
        x = jax.ShapeDtypeStruct((1, T, 1, 16), jnp.float32)
        compiled = jax.jit(jax.grad(f, (0, 1, 2))).lower(x, x, x).compile()
        return np.array([compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes])

    np.testing.assert_array_less(cost(2048), 4.4 * cost(512))


def test_half_precision_and_large_scores():
    case, pattern = Case(packed=True), PATTERNS["longformer"]
    q, k, v, _, extras = case.arrays()
    o = block_sparse_attention(*(x.astype(jnp.bfloat16) for x in (q, k, v)), pattern, extras.segments_BT)
    assert o.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(o), block_sparse_attention(q, k, v, pattern, extras.segments_BT), atol=6e-2)
    f = lambda q: block_sparse_attention(100 * q, 100 * k, v, pattern, extras.segments_BT).sum()
    chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(f))(q))


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_on_meshes(config):
    q, k, v, do, _ = Case(T=6, B=8).arrays()
    segments = np.array([[1, 1, 1, 2, 2, 0]] * 8, np.int32)

    @jax.jit
    def run(q, k, v, do, segments):
        o, pull = jax.vjp(lambda *qkv: block_sparse_attention(*qkv, Strided(2, 1)(6), segments), q, k, v)
        return o, pull(do)

    expected = run(q, k, v, do, segments)
    with on(config) as put:
        args = [put(x, "batch", None, "heads", None) for x in (q, k, v, do)]
        chex.assert_trees_all_close(run(*args, put(segments, "batch", None)), expected, atol=1e-5)


def test_what_makes_no_sense():
    with pytest.raises(UserError, match=r"block 1 lists block 2, and needs blocks 0 \.\. 1"):
        Pattern(4, ((0,), (0, 2)))
    with pytest.raises(UserError, match="9 tokens exceed its 2 blocks"):
        q, k, v, *_ = Case(T=9).arrays()
        block_sparse_attention(q, k, v, Pattern(4, ((0,), (0, 1))))
    for make, words in [
        (lambda: Fixed(1, 2, 3), "needs summary <= stride"),
        (lambda: Strided(1, 0), "stride=0 must be at least 1"),
        (lambda: Local(2, -1), "near=-1 must be at least 0"),
    ]:
        with pytest.raises(UserError, match=words):
            make()


def test_a_bias_of_log_2_counts_the_keys_of_a_pair_twice():
    q, k, v, *_ = Case(T=8).arrays()
    pattern = Pattern(4, ((0, 1), (0, 1)))
    twice = np.log(np.where(pattern.pairs(8, False)[1] == 0, 2, 1)).astype(np.float32)
    found = block_sparse_attention(q, k, v, pattern, causal=False, bias_P=twice)
    again = [jnp.concatenate([x, x[:, :4]], 1) for x in (k, v)]
    mask = np.ones((2, 8, 12), bool)
    np.testing.assert_allclose(found, reference_attention(q, *again, mask, 8**-0.5), atol=1e-5)
