"""Rotations and their scalings, against the formulas of the papers worked out with scalars."""

import cmath
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.ops import rotate
from jaxlm.ops.rope import DynamicNTK, Linear, Llama3, LongRope, Reversed, Unscaled, Yarn, frequencies, yarn_magnitude

RNG = np.random.default_rng(0)
POSITIONS = np.array([[0, 1, 2, 3, 4], [7, 0, 1, 257, 3]])  # 257 is no bfloat16
X = RNG.normal(size=(2, 5, 3, 8)).astype(np.float32)
W = np.float32(frequencies(8, 100.0))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("k", [4, 3, 1])
def test_rotation_turns_pairs_as_complex_numbers(k, interleaved):
    """The first 2 k entries; those behind them stay as they are."""
    expected = X.copy()
    for b, t, h, i in np.ndindex(2, 5, 3, k):
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + k)
        turned = 0.7 * complex(X[b, t, h, first], X[b, t, h, second]) * cmath.exp(1j * POSITIONS[b, t] * W[i])
        expected[b, t, h, first], expected[b, t, h, second] = turned.real, turned.imag
    np.testing.assert_allclose(rotate(X, POSITIONS, W[:k], 0.7, interleaved), expected, atol=5e-5)


@pytest.mark.parametrize("interleaved", [False, True])
def test_scores_depend_on_the_distance_only(interleaved):
    q, k = RNG.normal(size=(2, 1, 6, 2, 8)).astype(np.float32)

    def scores(first):
        turn = lambda x: rotate(x, first + np.arange(6)[None], W, 1.0, interleaved)
        return jnp.einsum("bthk,bshk->bhts", turn(q), turn(k))

    np.testing.assert_allclose(scores(0), scores(50), atol=1e-4)
    assert np.abs(scores(0) - jnp.einsum("bthk,bshk->bhts", q, k)).max() > 0.1


def test_rotation_keeps_lengths_and_leaves_position_0_alone():
    y = rotate(X, POSITIONS, W)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(X, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(y[0, 0], X[0, 0])


def test_one_row_of_positions_serves_all_rows():
    each = rotate(X, np.repeat(POSITIONS[1:], 2, 0), W)
    np.testing.assert_array_equal(rotate(X, POSITIONS[1:], W), each)


def test_half_precision_is_rounded_once():
    x = jnp.asarray(X, jnp.bfloat16)
    y = rotate(x, POSITIONS, W)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(y), rotate(x.astype(jnp.float32), POSITIONS, W), rtol=2**-7, atol=1e-3)


# Scalings: pair i of a head of width K, one number at a time


def plain(i, K, base):
    return 1 / base ** (2 * i / K)


def yarn(i, K, base, s, length, fast=32.0, slow=1.0, truncate=True):
    """The paper's gamma, by the pair that turns a number of times within the training length."""

    def pair(turns):  # turns = length / wavelength, wavelength = 2 pi base^(2i/K)
        return K / 2 * math.log(length / (2 * math.pi * turns), base)

    low, high = pair(fast), pair(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, K - 1)
    slowness = 0.0 if i <= low else 1.0 if i >= high else (i - low) / (high - low)
    return (1 - slowness) * plain(i, K, base) + slowness * plain(i, K, base) / s


def llama3(i, K, base, s, length, low, high):
    w = plain(i, K, base)
    wavelength = 2 * math.pi / w
    if wavelength < length / high:
        return w
    if wavelength > length / low:
        return w / s
    smooth = (length / wavelength - low) / (high - low)
    return (1 - smooth) * w / s + smooth * w


def ntk(i, K, base, s, length, tokens):
    return plain(i, K, base * (s * max(tokens, length) / length - (s - 1)) ** (K / (K - 2)))


K, BASE = 32, 10_000.0
SHORT, LONG = tuple(1 + 0.1 * i for i in range(16)), tuple(2.0 + i for i in range(16))
LONGROPE = LongRope(SHORT, LONG, length=64, factor=4.0)

SCALINGS = {
    "unscaled": (Unscaled(), lambda i, tokens: plain(i, K, BASE)),
    "linear": (Linear(4.0), lambda i, tokens: plain(i, K, BASE) / 4),
    "dynamic": (DynamicNTK(2.0, 64), lambda i, tokens: ntk(i, K, BASE, 2.0, 64, tokens)),
    "yarn": (Yarn(4.0, 512), lambda i, tokens: yarn(i, K, BASE, 4.0, 512)),
    "yarn, no rounding": (
        Yarn(8.0, 512, beta_fast=20.0, beta_slow=2.0, truncate=False),
        lambda i, tokens: yarn(i, K, BASE, 8.0, 512, 20.0, 2.0, False),
    ),
    "yarn, all slow": (Yarn(4.0, 4), lambda i, tokens: yarn(i, K, BASE, 4.0, 4)),
    "llama3": (Llama3(8.0, 512, 1.0, 4.0), lambda i, tokens: llama3(i, K, BASE, 8.0, 512, 1.0, 4.0)),
    "longrope": (LONGROPE, lambda i, tokens: plain(i, K, BASE) / (LONG if tokens > 64 else SHORT)[i]),
}


@pytest.mark.parametrize("scaling, formula", SCALINGS.values(), ids=SCALINGS)
def test_frequencies_are_the_papers(scaling, formula):
    found = jax.jit(lambda tokens: scaling.frequencies(K, BASE, tokens))
    for tokens in (1, 63, 64, 65, 500):
        expected = [formula(i, tokens) for i in range(K // 2)]
        w = found(jnp.int32(tokens))
        assert w.dtype == jnp.float32
        np.testing.assert_allclose(w, expected, rtol=2e-5)
    assert scaling.dynamic == (formula(1, 1) != formula(1, 500))


def test_llama3_with_nothing_between_low_and_high():
    """Llama 4 Scout as published: what transformers computes."""
    w = Llama3(16.0, 16, low=1.0, high=1.0).frequencies(8, 5e5, 100)
    np.testing.assert_allclose(w, [1.0, 0.00235038, 8.83883e-05, 3.32393e-06], rtol=1e-5)


def test_a_single_pair_needs_no_dynamic_base():
    np.testing.assert_array_equal(DynamicNTK(2.0, 4).frequencies(2, 1e4, 100), [1.0])


def test_the_formulas_use_all_their_branches():
    """Else what is above would show nothing: some pairs are kept, some divided, some between."""
    stretched = lambda w: [w(i) / plain(i, K, BASE) for i in range(K // 2)]
    for ratio in (
        stretched(lambda i: yarn(i, K, BASE, 4.0, 512)),
        stretched(lambda i: llama3(i, K, BASE, 8.0, 512, 1.0, 4.0)),
    ):
        assert max(ratio) == 1 and min(ratio) <= 0.25 and any(0.3 < r < 0.95 for r in ratio)


def test_a_dynamic_base_grows_with_the_text_only_beyond_its_length():
    w = [np.asarray(DynamicNTK(2.0, 64).frequencies(K, BASE, n)) for n in (1, 64, 65, 128, 256)]
    np.testing.assert_array_equal(w[0], w[1])
    assert all((b[1:] < a[1:]).all() and a[0] == b[0] == 1 for a, b in zip(w[1:], w[2:]))
    # Twice the length with factor 2: the slowest pair turns a third as fast, as if positions were interpolated.
    np.testing.assert_allclose(w[3][-1] * 3, w[1][-1], rtol=1e-4)


def test_attention_factors():
    assert [s.attention_factor for s in (Unscaled(), Linear(4.0), DynamicNTK(2.0, 64), Llama3(8.0, 64))] == [1.0] * 4
    assert Yarn(4.0, 64).attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    assert Yarn(1.0, 64).attention_factor == 1.0
    assert Yarn(4.0, 64, attention=1.5).attention_factor == 1.5
    both = Yarn(40.0, 64, mscale=1.0, mscale_all_dim=0.5).attention_factor
    assert both == pytest.approx((0.1 * math.log(40) + 1) / (0.05 * math.log(40) + 1))
    assert yarn_magnitude(40.0, 0.707) == pytest.approx(0.0707 * math.log(40) + 1) and yarn_magnitude(0.5, 1.0) == 1.0
    assert LONGROPE.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(64)))
    assert LongRope(SHORT, LONG, 64, 4.0, attention=1.2).attention_factor == 1.2
    assert LongRope(SHORT, LONG, 64, 1.0).attention_factor == 1.0


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Linear(0.0), "factor=0.0 must be above 0"),
        (lambda: DynamicNTK(2.0, 0), "length=0 must be above 0"),
        (lambda: Yarn(4.0, 64, beta_slow=-1.0), "beta_slow=-1.0 must be above 0"),
        (lambda: Llama3(8.0, 64, low=4.1, high=4.0), "low=4.1 must not be above high=4.0"),
        (lambda: LONGROPE.frequencies(8, BASE, 1), "16 short and 16 long factors, but 4 pairs are rotated"),
    ],
)
def test_what_makes_no_sense(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_reversed_pairs_turn_the_other_way():
    """Products depend on the distance as before, with its sign changed."""
    x = np.random.default_rng(0).normal(size=(1, 6, 2, 8)).astype(np.float32)
    at = np.arange(6)[None]
    turned = [rotate(x, at, s.frequencies(8, 100.0, 6)) for s in (Unscaled(), Reversed())]
    swapped = np.concatenate([x[..., 4:], x[..., :4]], -1)
    back = rotate(swapped, at, Unscaled().frequencies(8, 100.0, 6))
    np.testing.assert_allclose(np.concatenate([back[..., 4:], back[..., :4]], -1), turned[1], atol=1e-6)
    assert np.abs(turned[0] - turned[1]).max() > 0.1
