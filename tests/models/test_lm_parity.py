"""Whole models against the same written out in numpy; tests/convert compares with transformers."""

import functools
import math

import jax
import numpy as np
import pytest

from jaxlm.models import LM, LMConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    LayerNormConfig,
    LayersConfig,
    LearnedConfig,
    MLPConfig,
    RMSNormConfig,
)
from tests.weights import weights


def gpt2_config(V, D, N, H, length):
    attention = AttentionConfig(H, D // H, rope=None, bias=True, bias_out=True)
    block = BlockConfig(attention, MLPConfig(4 * D, "gelu_tanh", gated=False, bias=True), LayerNormConfig())
    return LMConfig(V, D, (LayersConfig((block,), N),), LearnedConfig(length), LayerNormConfig())


def llama_config(V, D, N, F, tied=False, eps=1e-6, **attention):
    block = BlockConfig(AttentionConfig(**attention), MLPConfig(F), RMSNormConfig(eps))
    return LMConfig(V, D, (LayersConfig((block,), N),), norm=RMSNormConfig(eps), tied=tied)


@functools.partial(jax.jit, static_argnums=0)
def logits(c, params, tokens, positions=None, segments=None):
    return LM(c).apply({"params": params}, tokens, positions, segments)


# Written once more in numpy


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(q_HK, k_THK, v_THK):
    """One query over the keys so far."""
    p_HT = softmax(np.einsum("hk,thk->ht", q_HK, k_THK) / math.sqrt(q_HK.shape[-1]))
    return np.einsum("ht,thk->hk", p_HT, v_THK)


def gpt2(p, tokens_T):
    """Radford et al. 2019: learned positions, pre-norm, biases everywhere, gelu by tanh, tied head."""

    def norm(x, w):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w["scale"] + w["bias"]

    x_TD = p["embed"]["table"][tokens_T] + p["positions"]["table"][: len(tokens_T)]
    for i in range(2):
        w = jax.tree.map(lambda x, i=i: x[i], p["segment_0"]["periods"]["block_0"])
        h, mixer, ffn = norm(x_TD, w["norm1"]), w["mixer"], w["ffn"]
        q, k, v = (np.einsum("td,dhk->thk", h, mixer[n]) + mixer[f"{n}_bias"] for n in "qkv")
        o = np.stack([attend(q[t], k[: t + 1], v[: t + 1]) for t in range(len(tokens_T))])
        x_TD = x_TD + np.einsum("thk,hkd->td", o, mixer["o"]) + mixer["o_bias"]
        u = norm(x_TD, w["norm2"]) @ ffn["up"] + ffn["up_bias"]
        u = 0.5 * u * (1 + np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        x_TD = x_TD + u @ ffn["down"] + ffn["down_bias"]
    return norm(x_TD, p["norm"]) @ p["embed"]["table"].T


def llama(p, tokens_T):
    """Touvron et al. 2023: rotary positions, RMS norm, grouped queries, gated silu, a head of its own."""

    def norm(x, w):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * w["scale"]

    def turn(x_THK):
        K = x_THK.shape[-1]
        z = x_THK[..., : K // 2] + 1j * x_THK[..., K // 2 :]
        z = z * np.exp(1j * np.arange(len(x_THK))[:, None, None] / 10_000 ** (2 * np.arange(K // 2) / K))
        return np.concatenate([z.real, z.imag], -1)

    x_TD = p["embed"]["table"][tokens_T]
    for i in range(2):
        w = jax.tree.map(lambda x, i=i: x[i], p["segment_0"]["periods"]["block_0"])
        h, mixer, ffn = norm(x_TD, w["norm1"]), w["mixer"], w["ffn"]
        q, k, v = (np.einsum("td,dhk->thk", h, mixer[n]) for n in "qkv")
        q, k, v = turn(q), turn(k).repeat(2, 1), v.repeat(2, 1)  # heads 0, 1 read the first key head
        o = np.stack([attend(q[t], k[: t + 1], v[: t + 1]) for t in range(len(tokens_T))])
        x_TD = x_TD + np.einsum("thk,hkd->td", o, mixer["o"])
        h = norm(x_TD, w["norm2"])
        gate = h @ ffn["gate"]
        x_TD = x_TD + (gate / (1 + np.exp(-gate)) * (h @ ffn["up"])) @ ffn["down"]
    return norm(x_TD, p["norm"]) @ p["head"].T


@pytest.mark.parametrize(
    "c, model",
    [(gpt2_config(20, 12, 2, 4, 16), gpt2), (llama_config(20, 12, 2, 16, H=4, K=6, G=2), llama)],
    ids=["gpt2", "llama"],
)
def test_equals_the_same_model_in_numpy(c, model):
    tokens = np.random.default_rng(0).integers(0, 20, (2, 8))
    params = weights(LM(c), tokens)
    exact = jax.tree.map(np.float64, params)
    np.testing.assert_allclose(logits(c, params, tokens), np.stack([model(exact, row) for row in tokens]), atol=2e-5)
