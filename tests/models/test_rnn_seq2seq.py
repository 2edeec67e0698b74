"""Recurrent encoder-decoders with attention: decoding and beam search against the whole forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode import Beam, Greedy, decode, prepare, results
from jaxlm.decode.beam import beam_search
from jaxlm.decode.prefill import prefill
from jaxlm.models import Seq2SeqConfig, flops
from jaxlm.nn import (
    BahdanauConfig,
    BidirectionalConfig,
    BranchConfig,
    BranchesConfig,
    GRUConfig,
    LayersConfig,
    LSTMConfig,
    LuongConfig,
)
from tests.weights import weights

B, S, V, D, Z, NEW = 3, 6, 20, 8, 8, 5


def model(encoder, decoder):
    layer = lambda name, mixer: LayersConfig((BranchesConfig((BranchConfig(name, mixer, norm=None),)),), 1)
    stacks = (layer("rnn", BidirectionalConfig(encoder)),), (layer("rnn", decoder),)
    return Seq2SeqConfig(V, D, *stacks, positions=None, embed_scale=3.0)


MODELS = {
    "bahdanau": model(GRUConfig(Z), BahdanauConfig(Z, F=6)),
    "luong": model(LSTMConfig(Z), LuongConfig(Z, cell="lstm")),
}
RNG = np.random.default_rng(0)
SEGMENTS = (np.arange(S) < np.array([[6], [4], [1]])).astype(np.int32)
MORE = {"source_BS": RNG.integers(3, V, (B, S)), "source_segments_BS": SEGMENTS}
START = np.ones((B, 1), np.int32)


@pytest.mark.parametrize("c", MODELS.values(), ids=MODELS)
def test_decoding_and_beams_are_teacher_forcing(c):
    params = weights(c.build(), START, **MORE)
    params["embed"]["table"] *= 3  # far from indifferent
    forward = jax.jit(lambda params, text: jax.nn.log_softmax(c.build().apply({"params": params}, text, **MORE)))
    whole = lambda text: forward(params, text)
    config, prepared = prepare(c, params)
    state, how = prefill(config, prepared, START, None, NEW, Greedy(), None, (), inputs=MORE)
    new, logprobs = (np.asarray(x)[:, :NEW] for x in results(decode(how, prepared, state, NEW))[:2])
    logp = whole(np.concatenate([START, new], 1))[:, :NEW]
    np.testing.assert_array_equal(logp.argmax(-1), new)
    np.testing.assert_allclose(logprobs, logp.max(-1), atol=1e-5)
    # Every beam's score is what the model gives its text, and the best is no worse than the greedy one.
    found = beam_search(config, prepared, START, sampler=Beam(4, length_penalty=0.0), max_new_tokens=NEW, inputs=MORE)
    tokens_BAT, scores_BA = np.asarray(found.tokens_BAT)[..., :NEW], np.asarray(found.score_BA)
    for a in range(4):
        logp = whole(np.concatenate([START, tokens_BAT[:, a]], 1))[:, :NEW]
        total = jnp.take_along_axis(logp, tokens_BAT[:, a, :, None], -1).sum((1, 2))
        np.testing.assert_allclose(scores_BA[:, a], total, atol=1e-4)
    assert (np.diff(scores_BA, axis=1) <= 1e-6).all()
    assert (scores_BA[:, 0] >= logprobs.sum(1) - 1e-5).all()


def test_flops_count_both_sides():
    c = MODELS["bahdanau"]
    matrices = sum(w.size for w in flops.weights(c) if w.path[0] == "encoder" and w.axes.inputs)
    assert c.flops({"S": 8, "T": 4}) - c.flops({"S": 4, "T": 4}) == 6 * 4 * matrices
