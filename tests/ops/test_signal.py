from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops.signal import hertz, log_mel, mel, mel_filters, power

SAMPLES = np.random.default_rng(0).normal(size=(2, 1600)).astype(np.float32) * np.array([[1.0], [1e-3]], np.float32)
FILTERS = Path(__file__).resolve().parents[3] / "shared" / "data" / "speech" / "mel_filters.npz"


def test_power_is_the_sum_of_the_definition():
    n, hop, frame = 400, 160, 3
    mirrored = np.concatenate([SAMPLES[:, n // 2 : 0 : -1], SAMPLES, SAMPLES[:, -2 : -n // 2 - 2 : -1]], 1)
    window = np.array([0.5 - 0.5 * np.cos(2 * np.pi * i / n) for i in range(n)])
    part = mirrored[:, frame * hop : frame * hop + n] * window[None]
    wave = np.exp(-2j * np.pi * np.outer(np.arange(n // 2 + 1), np.arange(n)) / n)
    found = power(SAMPLES, n, hop, np)
    assert found.shape == (2, 11, 201)
    np.testing.assert_allclose(found[:, frame], np.abs(part @ wave.T) ** 2, rtol=1e-3, atol=1e-6)


def test_both_libraries_agree():
    ours, theirs = log_mel(jnp.asarray(SAMPLES), 80), log_mel(SAMPLES, 80, xp=np)
    assert ours.shape == (2, 10, 80) and ours.dtype == jnp.float32 == theirs.dtype
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_each_row_is_cut_under_its_own_largest():
    both, alone = log_mel(SAMPLES, 80, xp=np), log_mel(SAMPLES[1:], 80, xp=np)
    np.testing.assert_allclose(both[1:], alone, atol=1e-6)  # BLAS sums of one row and of two differ by a bit
    silence = log_mel(np.zeros((1, 800), np.float32), 80, xp=np)
    np.testing.assert_allclose(silence, (-10 + 4) / 4)


def test_the_scale_and_its_inverse():
    f = np.array([0.0, 440, 999, 1000, 4000, 8000])
    np.testing.assert_allclose(hertz(mel(f)), f)
    np.testing.assert_allclose(mel([1000, 6400]), [15, 42])


@pytest.mark.parametrize("bands", [80, 128])
def test_filters_are_those_that_whisper_was_trained_with(bands):
    if not FILTERS.is_file():
        pytest.skip(f"needs {FILTERS}, which is not there")
    with np.load(FILTERS) as wanted:
        np.testing.assert_allclose(mel_filters(bands, 400, 16_000).T, wanted[f"mel_{bands}"], atol=1e-7)
