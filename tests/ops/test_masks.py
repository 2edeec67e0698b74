import itertools

import jax
import numpy as np
import pytest

from jaxlm.ops import cache_slots, visible

POSITIONS = np.array([[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 3]])  # the second row holds two documents
SEGMENTS = np.array([[0, 1, 1, 1, 1, 1], [1, 1, 2, 2, 2, 0]])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("packed", [True, False])
def test_visible_is_the_sentence_that_defines_it(causal, window, chunk, packed):
    B, T = POSITIONS.shape
    expected = np.zeros((B, T, T), bool)
    for b, t, s in np.ndindex(B, T, T):
        back = POSITIONS[b, t] - POSITIONS[b, s]
        same = not packed or SEGMENTS[b, t] == SEGMENTS[b, s]
        near = window is None or abs(back) < window
        together = chunk is None or POSITIONS[b, t] // chunk == POSITIONS[b, s] // chunk
        expected[b, t, s] = same and near and together and (back >= 0 or not causal)
    segments = (SEGMENTS, SEGMENTS) if packed else (None, None)
    mask = visible(POSITIONS, POSITIONS, *segments, causal=causal, window=window, chunk=chunk)
    np.testing.assert_array_equal(mask, expected)


def test_queries_and_keys_may_differ_and_one_row_serves_all():
    mask = visible(np.array([[4, 5]]), np.array([[3, 4, 5, 6]] * 3), np.array([[1, 1]]), np.array([[1, -1, 1, 1]] * 3))
    np.testing.assert_array_equal(mask, np.array([[[1, 0, 0, 0], [1, 0, 1, 0]]] * 3, bool))


@pytest.mark.parametrize("S", [1, 3, 8])
def test_cache_slots_follow_a_ring_written_token_by_token(S):
    start_B = np.array([0, 2, 5])
    slots = jax.jit(cache_slots, static_argnums=0)
    ring = [[-1] * S for _ in start_B]  # which token lies where
    for end in range(12):
        position_BS, segment_BS = slots(S, end, start_B)
        for b, start in enumerate(start_B):
            for s, token in enumerate(ring[b]):
                assert segment_BS[b, s] == (-1 if token < 0 else 0 if token < start else 1), (end, b, s)
                if token >= 0:
                    assert position_BS[b, s] == token - start, (end, b, s)
            ring[b][end % S] = end  # token `end` is written for the next round


def test_each_row_may_have_a_number_of_tokens_of_its_own():
    end_B, start_B = np.array([0, 3, 11]), np.array([0, 2, 5])
    found = cache_slots(4, end_B, start_B)
    for b, end in enumerate(end_B):
        for x, y in zip(found, cache_slots(4, end, start_B[b : b + 1]), strict=True):
            np.testing.assert_array_equal(x[b : b + 1], y)


@pytest.mark.parametrize("window, chunk", [(None, None), (1, None), (4, None), (None, 3), (4, 3)])
def test_a_token_sees_in_the_cache_what_it_would_see_in_the_text(window, chunk):
    """With left padding, for caches as long as the text and as long as what a query can see."""
    start_B, T = np.array([0, 3]), 9
    at_BT = np.arange(T)[None] - start_B[:, None]
    segment_BT = (at_BT >= 0).astype(np.int32)
    full = np.asarray(visible(at_BT, at_BT, segment_BT, segment_BT, window=window, chunk=chunk))
    now_sees_past = jax.jit(lambda q, k, s, u: visible(q, k, s, u, window=window, chunk=chunk))
    slots = jax.jit(cache_slots, static_argnums=0)
    for S, t in itertools.product({T, min(window or T, chunk or T)}, range(T)):
        position, segment = slots(S, t, start_B)
        seen = np.asarray(now_sees_past(at_BT[:, t : t + 1], position, segment_BT[:, t : t + 1], segment))[:, 0]
        for b, (row, begin) in enumerate(zip(seen, start_B)):
            if t < begin:
                continue  # what padding sees is nobody's concern
            tokens = sorted(np.asarray(position)[b][row] + begin)
            assert tokens == [s for s in range(t) if full[b, t, s]], (S, t, b)
