import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import blockwise_attention, blockwise_bands
from jaxlm.ops.blockwise_bands import BANDS, bands
from jaxlm.ops.rule import Extras, Rule
from tests.ops.attention_cases import CASES, EVERYTHING, Case, reference, with_gradients


def blockwise(case, chunk, dtype=jnp.float32):
    return with_gradients(lambda *args: blockwise_attention(*args, case.rule(), chunk), case, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference_forward_and_backward(case):
    """Two chunks, the second one ragged."""
    chex.assert_trees_all_close(blockwise(case, 8), reference(case), atol=2e-5)


@pytest.mark.parametrize(
    "case", [Case(packed=True), Case(window=5), Case(causal=False), Case(causal=False, window=3), EVERYTHING], ids=str
)
@pytest.mark.parametrize("chunk", [2, 128])
def test_several_chunks_in_a_band_and_fewer_tokens_than_a_chunk(case, chunk, monkeypatch):
    """Seven chunks in two bands: the loop over chunks, with causal prefixes rounded up."""
    monkeypatch.setattr(blockwise_bands, "BANDS", 2)
    chex.assert_trees_all_close(blockwise(case, chunk), reference(case), atol=2e-5)


@pytest.mark.parametrize("T, C", [(12, 12), (24, 4), (80, 4), (84, 4), (1000, 1)])
def test_bands_cover_every_block_and_all_it_may_see(T, C):
    for causal, reach in itertools.product([True, False], [None, 1, 3, 6, T // 2, T - 1]):
        found = bands(T, C, causal, reach)
        assert len(found) <= BANDS
        assert [i for band in found for i in range(band.first, band.last)] == list(range(T // C))
        for band in found:
            assert C <= band.keys <= T
            for i in range(band.first, band.last):
                start = band.key_start(i * C, T, C)
                assert i > 8 or start == band.key_start(jnp.int32(i * C), T, C)
                first = 0 if reach is None else max(i * C - reach + 1, 0)
                last = T if reach is None else min((i + 1) * C + reach - 1, T)
                last = (i + 1) * C if causal else last
                assert 0 <= start <= first and last <= start + band.keys <= T, (causal, reach, i)


def test_a_window_costs_the_window_and_a_causal_prefix_no_more_than_half():
    full = 4096 * 4096
    cost = lambda *how: sum((b.last - b.first) * 128 * b.keys for b in bands(4096, 128, *how))
    assert cost(True, 128) <= 2 * 128 * 4096
    assert cost(False, 128) <= 3 * 128 * 4096
    assert cost(True, None) <= (0.5 + 0.5 / BANDS) * full
    assert cost(True, 2048) <= (0.375 + 0.5 / BANDS) * full
    assert cost(True, 4095) == cost(True, None)


def test_bfloat16():
    case = Case(packed=True, biased=True, sinks=True, softcap=1.5)
    o, grads = blockwise(case, 8, jnp.bfloat16)
    assert [x.dtype for x in (o, *grads)] == [jnp.bfloat16] * 4 + [jnp.float32] * 2
    found, expected = (jax.tree.map(np.float32, x) for x in ((o, grads), reference(case)))
    chex.assert_trees_all_close(found, expected, atol=6e-2)


def test_large_scores_do_not_overflow():
    case = Case()
    q, k, v, _, _ = case.arrays()
    f = lambda q: blockwise_attention(100 * q, 100 * k, v, Extras(), Rule(), 8).sum()
    chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(f))(q))


@functools.cache
def dropped(case, rate, seed=0, C=4):
    """The factors (B, T, T, H) that dropout put on the probabilities: with values that tell the keys apart, the output
    is the probabilities."""
    rule = dataclasses.replace(case.rule(), dropout=rate)
    q, k, _, _, extras = case.arrays()
    eye = jnp.broadcast_to(jnp.eye(case.T)[None, :, None], (case.B, case.T, case.G, case.T))
    plain = blockwise_attention(q, k, eye, extras, case.rule(), C)
    found = blockwise_attention(q, k, eye, extras._replace(key=jax.random.key(seed)), rule, C)
    return np.asarray(jnp.where(plain > 0, found / plain, 0)).swapaxes(2, 3)


def test_dropout_zeroes_its_share_and_scales_the_rest():
    case = Case(T=48, causal=False)
    factors = dropped(case, 0.25, C=16)
    np.testing.assert_allclose(np.minimum(factors, abs(factors - 4 / 3)), 0, atol=1e-4)
    assert abs((factors == 0).mean() - 0.25) < 0.01
    pieces = factors.reshape(case.B, 3, 16, 3, 16, case.H).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 256)
    assert len(np.unique(pieces > 0, axis=0)) == len(pieces)  # no two rows, heads or blocks share a mask
    assert np.any(factors != dropped(case, 0.25, seed=1, C=16))


def test_gradients_with_dropout(monkeypatch):
    """Those of the formula with the same mask, drawn again in the backward pass: for loops, and single blocks."""
    monkeypatch.setattr(blockwise_bands, "BANDS", 2)
    case = dataclasses.replace(EVERYTHING, T=12)
    rule, key = dataclasses.replace(case.rule(), dropout=0.4), jax.random.key(0)
    factors, mask = jnp.asarray(dropped(case, 0.4)), case.mask()[..., None]  # (B, T, S, H)

    def formula(q, k, v, extras):
        k, v = (jnp.repeat(x, case.H // case.G, 2) for x in (k, v))
        s = jnp.einsum("bthk,bshk->btsh", q, k) * rule.scale
        at = np.arange(case.T)
        s = case.softcap * jnp.tanh(s / case.softcap)
        s += extras.bias_HZ[:, at[:, None] - at + case.T - 1].transpose(1, 2, 0)[None]
        s = jnp.where(mask, s, -jnp.inf)
        sinks = jnp.broadcast_to(extras.sinks_H, (*s.shape[:2], 1, case.H))
        p = jax.nn.softmax(jnp.concatenate([s, sinks], 2), 2)[:, :, :-1]
        return jnp.einsum("btsh,bshj->bthj", factors * p, v)

    found = with_gradients(lambda q, k, v, e: blockwise_attention(q, k, v, e._replace(key=key), rule, 4), case)
    chex.assert_trees_all_close(found, with_gradients(formula, case), atol=2e-5)
