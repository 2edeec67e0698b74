import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import blockwise as blockwise_module
from jaxlm.ops import blockwise_attention
from jaxlm.ops.blockwise import BANDS, _bands
from tests.ops.attention_cases import CASES, Case, reference, with_gradients


def blockwise(case, chunk, dtype=jnp.float32):
    f = lambda q, k, v, s: blockwise_attention(q, k, v, s, case.causal, case.window, case.K**-0.5, chunk)
    return with_gradients(f, case, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference_forward_and_backward(case):
    """Two chunks, the second one ragged."""
    chex.assert_trees_all_close(blockwise(case, 8), reference(case), atol=2e-5)


@pytest.mark.parametrize("case", [Case(packed=True), Case(window=5), Case(causal=False)], ids=str)
@pytest.mark.parametrize("chunk", [2, 128])
def test_several_chunks_in_a_band_and_fewer_tokens_than_a_chunk(case, chunk, monkeypatch):
    """Seven chunks in two bands: the loop over chunks, with causal prefixes rounded up."""
    monkeypatch.setattr(blockwise_module, "BANDS", 2)
    chex.assert_trees_all_close(blockwise(case, chunk), reference(case), atol=2e-5)


@pytest.mark.parametrize("T, chunk", [(12, 12), (24, 4), (80, 4), (84, 4), (1000, 1)])
def test_bands_cover_every_chunk_and_all_it_may_see(T, chunk):
    for causal, window in [(True, None), (True, 1), (True, 6), (True, 10_000), (False, None), (False, 3)]:
        bands = _bands(T, chunk, causal, window)
        assert len(bands) <= BANDS
        assert [i for band in bands for i in range(band.first, band.last)] == list(range(T // chunk))
        for band in bands:
            assert chunk <= band.keys <= T
            for i in range(band.first, band.last):
                start = max((i + 1) * chunk - band.keys, 0)  # as the loop has it
                first, last = 0, T
                if causal:
                    last = (i + 1) * chunk
                    first = 0 if window is None else max(i * chunk - window + 1, 0)
                assert start <= first and last <= start + band.keys, (causal, window, i)


def test_a_causal_window_costs_the_window_and_a_causal_prefix_no_more_than_half():
    full = 4096 * 4096
    cost = lambda *how: sum((b.last - b.first) * 128 * b.keys for b in _bands(4096, 128, *how))
    assert cost(True, 128) <= 2 * 128 * 4096
    assert cost(True, None) <= (0.5 + 0.5 / BANDS) * full


def test_bfloat16():
    case = Case(packed=True)
    o, grads = blockwise(case, 8, jnp.bfloat16)
    assert {x.dtype for x in (o, *grads)} == {jnp.dtype(jnp.bfloat16)}
    chex.assert_trees_all_close(jax.tree.map(np.float32, (o, grads)), reference(case), atol=6e-2)


def test_large_scores_do_not_overflow():
    case = Case()
    q, k, v, _, _ = case.arrays()
    f = lambda q: blockwise_attention(100 * q, 100 * k, v, None, True, None, 1.0, 8).sum()
    chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(f))(q))
