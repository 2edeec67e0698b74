"""Samplers against transformers' logits processors on random logits (scripts/make_processor_goldens.py)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode import (
    Banned,
    Epsilon,
    Eta,
    LogitBias,
    MinLength,
    MinP,
    NoRepeatNgram,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    Typical,
    in_order,
)

GOLDEN = dict(np.load(Path(__file__).parents[1] / "goldens_decode" / "processors.npz"))
LOGITS, TOKENS = jnp.asarray(GOLDEN["logits"]), jnp.asarray(GOLDEN["tokens"])
SAMPLERS = {
    "temperature": Temperature(0.7),
    "top_k": TopK(7),
    "top_p": TopP(0.8),
    "min_p": MinP(0.1),
    "typical": Typical(0.6),
    "typical_high": Typical(0.95),
    "epsilon": Epsilon(0.03),
    "eta": Eta(0.05),
    "repetition": RepetitionPenalty(1.3),
    "bigrams": NoRepeatNgram(2),
    "trigrams": NoRepeatNgram(3, 12),
    "unigrams": NoRepeatNgram(1, 50),
    "bias": LogitBias({3: 2.5, 9: -4.0}),
    "banned": Banned((1, 5)),
    "min_length": MinLength(8, (2, 3)),
    "chain": in_order(
        *(TopP(0.8) | TopK(7), Typical(0.95), MinP(0.1), Temperature(0.7)),
        *(NoRepeatNgram(2), RepetitionPenalty(1.3), LogitBias({3: 2.5, 9: -4.0})),
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_logits_are_those_of_transformers(name):
    found = jax.jit(filtered, static_argnums=0)(SAMPLERS[name])
    np.testing.assert_allclose(found, GOLDEN[name], rtol=1e-6)
    if name not in ("temperature", "repetition", "bias"):
        assert np.isneginf(GOLDEN[name]).any()


def filtered(sampler):
    V = LOGITS.shape[1]
    state = sampler.start(TOKENS, jnp.ones_like(TOKENS), V)
    return sampler.filter(LOGITS, state)
