"""The encoder-decoder: written out slowly, decoded from its states, left alone by padding, counted."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxlm.decode import Greedy, decode, prepare, results
from jaxlm.decode.prefill import prefill
from jaxlm.errors import UserError
from jaxlm.models import Seq2SeqConfig, flops
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    BranchConfig,
    BranchesConfig,
    CrossAttentionConfig,
    LayerNormConfig,
    LayersConfig,
    MLPConfig,
)
from jaxlm.nn.stack import unstack
from jaxlm.ops.positions import sinusoidal
from tests.models.test_encoder import layer_norm
from tests.weights import weights

B, S, T, V, D, H, K, F = 3, 6, 5, 30, 16, 2, 8, 32
POST = {"norm": None, "norm_sum": LayerNormConfig()}
MLP = MLPConfig(F, activation="relu", gated=False)
ATTENTION = AttentionConfig(H, K, rope=None)
ENCODER = BlockConfig(dataclasses.replace(ATTENTION, causal=False), MLP, **POST)
DECODER = BranchesConfig(
    (
        BranchConfig("attention", ATTENTION, **POST),
        BranchConfig("cross", CrossAttentionConfig(H, K), **POST),
        BranchConfig("ffn", MLP, **POST),
    )
)
MODEL = Seq2SeqConfig(V, D, (LayersConfig((ENCODER,), 2),), (LayersConfig((DECODER,), 2),), embed_scale=4.0)
RNG = np.random.default_rng(0)
SOURCE, TARGET = RNG.integers(3, V, (B, S)), RNG.integers(3, V, (B, T))
LENGTHS = np.array([6, 4, 1])
SEGMENTS = (np.arange(S) < LENGTHS[:, None]).astype(np.int32)
MORE = {"source_BS": SOURCE, "source_segments_BS": SEGMENTS}
PARAMS = weights(MODEL.build(), TARGET, **MORE)


def attend(p, x, memory, causal):
    y = 0
    for h in range(H):
        q, k, v = x @ p["q"][:, h], memory @ p["k"][:, h], memory @ p["v"][:, h]
        scores = np.exp(q @ k.T / np.sqrt(K))
        scores = np.tril(scores) if causal else scores
        y = y + scores / scores.sum(-1, keepdims=True) @ v @ p["o"][h]
    return y


def slow(p, source_S, target_T):
    """One pair, without padding, head by head."""
    embed = lambda ids: p["embed"]["table"][ids] * 4 + np.asarray(sinusoidal(np.arange(len(ids))[None], D))[0]
    ffn = lambda p, x: np.maximum(x @ p["up"], 0) @ p["down"]
    x = embed(source_S)
    for i in "01":
        block = p["encoder"]["segment_0"][i]["block_0"]
        x = layer_norm(block["norm1_sum"], x + attend(block["mixer"], x, x, False))
        x = layer_norm(block["norm2_sum"], x + ffn(block["ffn"], x))
    memory, x = x, embed(target_T)
    for i in "01":
        block = p["decoder"]["segment_0"][i]["block_0"]
        x = layer_norm(block["attention_norm_sum"], x + attend(block["attention"], x, x, True))
        x = layer_norm(block["cross_norm_sum"], x + attend(block["cross"], x, memory, False))
        x = layer_norm(block["ffn_norm_sum"], x + ffn(block["ffn"], x))
    return x @ p["embed"]["table"].T


def test_it_is_the_formulas_and_padding_is_not_seen():
    logits = MODEL.build().apply({"params": PARAMS}, TARGET, **MORE)
    p = jax.device_get(unstack(PARAMS))
    for b in range(B):
        np.testing.assert_allclose(logits[b], slow(p, SOURCE[b, : LENGTHS[b]], TARGET[b]), atol=2e-5)


def test_decoding_reads_the_source_once_and_equals_teacher_forcing():
    """Greedy continuations of the start token, row by row, against the whole forward pass for every token."""
    config, params = prepare(MODEL, PARAMS)
    start = np.ones((B, 1), np.int32)
    state, how = prefill(config, params, start, None, 6, Greedy(), None, (), inputs=MORE)
    new, logprobs, _ = map(np.asarray, results(decode(how, params, state, 6)))
    text = np.concatenate([start, new[:, :6]], 1)
    logits = jax.nn.log_softmax(MODEL.build().apply({"params": PARAMS}, text, **MORE))
    np.testing.assert_array_equal(logits.argmax(-1)[:, :6], new[:, :6])
    np.testing.assert_allclose(logprobs[:, :6], logits.max(-1)[:, :6], atol=1e-5)


def test_flops():
    """Each stack at its own length, and the head at the target's."""
    alone = lambda S, T: MODEL.flops({"S": S, "T": T})
    per_source = alone(8, 4) - alone(4, 4)
    encoder = sum(w.size for w in flops.weights(MODEL) if w.path[0] == "encoder" and w.axes.inputs)
    assert 6 * encoder * 4 < per_source < 6 * encoder * 4 + 3 * 2 * 4 * H * K * 2 * 8 * 8
    assert flops.parameters(MODEL) == sum(x.size for x in jax.tree.leaves(PARAMS))


def test_what_cannot_be():
    with pytest.raises(UserError, match="a decoder's tokens must not see what follows"):
        dataclasses.replace(MODEL, decoder=MODEL.encoder)
    with pytest.raises(UserError, match="at least one group of layers in each"):
        dataclasses.replace(MODEL, encoder=())
    with pytest.raises(UserError, match="cross attention needs a memory"):
        MODEL.build().apply({"params": PARAMS}, TARGET)


def test_padding_on_the_left_changes_nothing():
    turn = lambda x: np.stack([np.roll(row, S - n) for row, n in zip(x, LENGTHS)])
    logits = lambda source, segments: MODEL.build().apply(
        {"params": PARAMS}, TARGET, source_BS=source, source_segments_BS=segments
    )
    np.testing.assert_allclose(logits(turn(SOURCE), turn(SEGMENTS)), logits(SOURCE, SEGMENTS), atol=2e-5)


def test_the_encoder_alone_is_that_of_the_whole():
    """And a bias of the logits and an untrained token have their say, but no gradient."""
    model = dataclasses.replace(MODEL, logit_bias=True, untrained=int(SOURCE[0, 0]))
    params = weights(model.build(), TARGET, **MORE)
    run = lambda params: model.build().apply({"params": params}, TARGET, **MORE)
    without = {name: x for name, x in params.items() if name != "logit_bias"}
    plain = MODEL.build().apply({"params": without}, TARGET, **MORE)
    np.testing.assert_allclose(run(params) - plain, np.broadcast_to(params["logit_bias"], plain.shape), atol=1e-5)
    gradient = jax.grad(lambda params: run(params)[..., :1].sum())(params)  # of a token that no text has
    assert not gradient["logit_bias"].any()
    assert not gradient["embed"]["table"][SOURCE[0, 0]].any() and gradient["embed"]["table"][SOURCE[0, 1]].any()
    memory = model.build().apply({"params": params}, SOURCE, SEGMENTS, method="encode")
    for b in range(B):
        alone = model.build().apply({"params": params}, SOURCE[b : b + 1, : LENGTHS[b]], method="encode")
        np.testing.assert_allclose(memory[b, : LENGTHS[b]], alone[0], atol=2e-5)


def test_packed_pairs_do_not_see_each_other():
    """Two pairs in a row against each alone: logits, and gradients of a sum of them."""
    first, second = (SOURCE[:1, :4], TARGET[:1, :3]), (SOURCE[1:2, :2], TARGET[1:2, :2])
    at = lambda *sizes: np.concatenate([np.arange(n) for n in sizes])[None]
    of = lambda *sizes: np.concatenate([np.full(n, i) for i, n in enumerate(sizes, 1)])[None]
    row = {
        "source_BS": np.concatenate([first[0], second[0], [[0]]], 1),
        "source_segments_BS": np.append(of(4, 2), [[0]], 1),
        "source_positions_BS": np.append(at(4, 2), [[0]], 1),
        "positions_BT": at(3, 2),
        "segments_BT": of(3, 2),
    }
    tokens = np.concatenate([first[1], second[1]], 1)
    together = lambda p: MODEL.build().apply({"params": p}, tokens, **row)
    alone = lambda p: jax.numpy.concatenate(
        [MODEL.build().apply({"params": p}, target, source_BS=source) for source, target in (first, second)], 1
    )
    np.testing.assert_allclose(together(PARAMS), alone(PARAMS), atol=2e-5)
    mix = np.random.default_rng(1).normal(size=(1, 5, V))
    found, wanted = (jax.grad(lambda p, f=f: (f(p) * mix).sum())(PARAMS) for f in (together, alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), found, wanted)
