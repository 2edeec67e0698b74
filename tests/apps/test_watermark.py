"""The mark is found in what was drawn with it, and not in human text."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.apps.watermark import Watermark, detect, green
from jaxlm.decode import Temperature
from jaxlm.errors import UserError

V, MARK = 1000, Watermark()


def drawn(T, sampler, B=64, seed=0):
    """Texts of a fixed distribution with some entropy, as the decoding loop draws them, (B, T + 1)."""
    logits_BV = jnp.broadcast_to(jax.random.normal(jax.random.key(9), (V,)) * 1.5, (B, V))
    first = jnp.arange(B, dtype=jnp.int32)[:, None]

    def step(carry, key):
        state = carry
        choice = sampler.choose(logits_BV, state, key)
        return sampler.after(state, choice), choice.token_B

    keys = jax.random.split(jax.random.key(seed), T)
    _, tokens_TB = jax.lax.scan(step, sampler.start(first, jnp.ones_like(first), V), keys)
    return np.concatenate([np.asarray(first), np.asarray(tokens_TB).T], 1)


def test_green_is_the_same_for_both_and_its_share_is_gamma():
    before, token = np.random.default_rng(0).integers(0, 2**31, (2, 40_000))
    marked = green(before, token, 0.25, 7)
    assert (marked == np.asarray(green(before, token, 0.25, 7, jnp))).all()
    assert marked.mean() == pytest.approx(0.25, abs=0.01)
    assert green(np.arange(9), np.arange(9), 0.25, 8).tolist() != green(np.arange(9), np.arange(9), 0.25, 9).tolist()


def test_marked_texts_are_found_and_others_not():
    marked = drawn(100, MARK | Temperature(1.0), B=32)
    assert np.mean([detect(row).marked for row in marked]) > 0.95
    assert np.mean([detect(row[:26]).marked for row in marked]) < 0.95  # short ones less often
    assert not any(detect(row, Watermark(key=3)).marked for row in marked)
    plain = np.random.default_rng(0).integers(0, V, (2000, 100))
    z = np.array([detect(row).z for row in plain])
    assert (z > 4).mean() <= 1e-3 and abs(z.mean()) < 0.1 and z.std() == pytest.approx(1, abs=0.1)
    low = [detect(row).p < 0.05 for row in plain]
    assert np.mean(low) == pytest.approx(0.05, abs=0.02)


def test_human_text_is_not_marked():
    path = Path(__file__).resolve().parents[3] / "shared/data/text/quijote.txt.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    import gzip

    words = gzip.decompress(path.read_bytes()).decode().split()[:200_000]
    ids: dict[str, int] = {}
    tokens = np.array([ids.setdefault(word, len(ids)) for word in words])
    found = [detect(row).marked for row in tokens.reshape(-1, 100)]
    assert np.mean(found) <= 1e-3


def test_the_formula_and_bad_input():
    found = detect([1, 2, 1, 2, 1])
    assert found.pairs == 2 and found.z == pytest.approx((found.green - 0.5) / (2 * 0.25 * 0.75) ** 0.5)
    for bad in ([1], [[1, 2]], [1.0, 2.0]):
        with pytest.raises(UserError, match="at least two token ids"):
            detect(bad)
    for how, message in (({"gamma": 1}, "gamma"), ({"delta": 0}, "delta"), ({"key": -1}, "key")):
        with pytest.raises(UserError, match=message):
            Watermark(**how)
