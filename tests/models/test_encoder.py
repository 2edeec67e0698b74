"""The encoder against the same written out; padding, packing, kinds of token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import EncoderConfig, MaskedHead, SequenceHead, flops
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, LayersConfig, LearnedConfig, MLPConfig
from jaxlm.nn.stack import unstack
from tests.weights import weights

B, T, V, D, H, K, F = 2, 7, 40, 16, 2, 8, 32
BLOCK = BlockConfig(
    AttentionConfig(H, K, rope=None, causal=False, bias=True, bias_out=True),
    MLPConfig(F, activation="gelu", gated=False, bias=True),
    norm=None,
    norm_sum=LayerNormConfig(),
)
BERT = EncoderConfig(V, D, (LayersConfig((BLOCK,), 2),), LearnedConfig(T), types=2)
TOKENS = np.random.default_rng(0).integers(0, V, (B, T))
TYPES = np.array([[0, 0, 0, 1, 1, 1, 1], [0] * 7])
PARAMS = weights(BERT.build(), TOKENS)


def layer_norm(p, x, eps=1e-5):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def gelu(x):
    return np.asarray(jax.nn.gelu(x, approximate=False))


def slow(p, tokens_T, types_T):
    """One unpadded row through everything, head by head."""
    x = p["embed"]["table"][tokens_T] + p["positions"]["table"][: len(tokens_T)] + p["types"]["table"][types_T]
    x = layer_norm(p["embed_norm"], x)
    for i in "01":
        block = p["segment_0"][i]["block_0"]
        a, m, y = block["mixer"], block["ffn"], 0
        for h in range(H):
            q, k, v = (x @ a[name][:, h] + a[f"{name}_bias"][h] for name in "qkv")
            scores = np.exp(q @ k.T / np.sqrt(K))
            y = y + scores / scores.sum(-1, keepdims=True) @ v @ a["o"][h]
        x = layer_norm(block["norm1_sum"], x + y + a["o_bias"])
        y = gelu(x @ m["up"] + m["up_bias"]) @ m["down"] + m["down_bias"]
        x = layer_norm(block["norm2_sum"], x + y)
    x = layer_norm(p["transform_norm"], gelu(x @ p["transform"] + p["transform_bias"]))
    return x @ p["embed"]["table"].T + p["head_bias"]


def test_it_is_the_formulas():
    logits = BERT.build().apply({"params": PARAMS}, TOKENS, None, None, TYPES)
    p = jax.device_get(unstack(PARAMS))
    for b in range(B):
        np.testing.assert_allclose(logits[b], slow(p, TOKENS[b], TYPES[b]), atol=2e-5)


def test_padding_is_not_seen():
    mask = np.array([[1] * 5 + [0] * 2] * B)
    padded = BERT.build().apply({"params": PARAMS}, np.where(mask, TOKENS, 9), None, mask, TYPES)[:, :5]
    p = jax.device_get(unstack(PARAMS))
    np.testing.assert_allclose(padded[0], slow(p, TOKENS[0, :5], TYPES[0, :5]), atol=2e-5)


def test_flops_are_what_the_compiler_counts():
    batch = jnp.zeros((1, 64), jnp.int32)
    block = dataclasses.replace(BLOCK, mixer=dataclasses.replace(BLOCK.mixer, K=64), ffn=MLPConfig(512, "relu", False))
    c = EncoderConfig(512, 128, (LayersConfig((block,)),), None)
    counted = jax.jit(c.build().apply).lower({"params": weights(c.build(), batch)}, batch).compile().cost_analysis()
    assert c.flops({"T": 64}) / 3 == pytest.approx(counted["flops"], rel=0.1)  # less norms and the softmax
    assert flops.parameters(BERT) == sum(x.size for x in jax.tree.leaves(PARAMS))


def test_what_cannot_be():
    with pytest.raises(UserError, match="at least one group"):
        EncoderConfig(V, D, ())
    with pytest.raises(UserError, match="unknown activation 'gelo': did you mean 'gelu'"):
        MaskedHead("gelo")
    with pytest.raises(UserError, match="the head reads the pooled text: set pooler=true"):
        EncoderConfig(V, D, BERT.layers, head=SequenceHead(("a", "b")))
    with pytest.raises(UserError, match="labels must differ, and 'a' is there twice"):
        SequenceHead(("a", "b", "a"))
    with pytest.raises(UserError, match="this encoder has no head"):
        EncoderConfig(V, D, BERT.layers, head=None).build().apply({"params": {}}, TOKENS)
