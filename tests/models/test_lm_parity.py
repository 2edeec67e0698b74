"""Whole models against other implementations: numpy, written here, and the Hugging Face library's stored outputs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxlm.losses import cross_entropy
from jaxlm.models import LM, LMConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    LayerNormConfig,
    LearnedConfig,
    MLPConfig,
    RMSNormConfig,
    RopeConfig,
    SegmentConfig,
    stack,
)
from tests.weights import weights


def gpt2_config(V, D, N, H, length):
    attention = AttentionConfig(H, D // H, rope=None, bias=True, bias_out=True)
    block = BlockConfig(attention, MLPConfig(4 * D, "gelu_tanh", gated=False, bias=True), LayerNormConfig())
    return LMConfig(V, D, (SegmentConfig((block,), N),), LearnedConfig(length), LayerNormConfig())


def llama_config(V, D, N, F, tied=False, eps=1e-6, **attention):
    block = BlockConfig(AttentionConfig(**attention), MLPConfig(F), RMSNormConfig(eps))
    return LMConfig(V, D, (SegmentConfig((block,), N),), norm=RMSNormConfig(eps), tied=tied)


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


# What transformers computed


def from_gpt2(w):
    """jaxlm's tree of the tensors `w` of transformers' GPT-2, whose linear weights are (in, out)."""
    D, H = 32, 4
    norm = lambda name: {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}

    def block(name):
        qkv = np.split(w[f"{name}.attn.c_attn.weight"], 3, 1)
        biases = np.split(w[f"{name}.attn.c_attn.bias"], 3)
        mixer = {n: x.reshape(D, H, D // H) for n, x in zip("qkv", qkv)}
        mixer |= {f"{n}_bias": x.reshape(H, D // H) for n, x in zip("qkv", biases)}
        mixer |= {"o": w[f"{name}.attn.c_proj.weight"].reshape(H, D // H, D), "o_bias": w[f"{name}.attn.c_proj.bias"]}
        ffn = {"up": w[f"{name}.mlp.c_fc.weight"], "up_bias": w[f"{name}.mlp.c_fc.bias"]}
        ffn |= {"down": w[f"{name}.mlp.c_proj.weight"], "down_bias": w[f"{name}.mlp.c_proj.bias"]}
        return {"norm1": norm(f"{name}.ln_1"), "mixer": mixer, "norm2": norm(f"{name}.ln_2"), "ffn": ffn}

    return {
        "embed": {"table": w["transformer.wte.weight"]},
        "positions": {"table": w["transformer.wpe.weight"]},
        "segment_0": {str(i): {"block_0": block(f"transformer.h.{i}")} for i in range(3)},
        "norm": norm("transformer.ln_f"),
    }


def from_llama(w, H, K, G, bias=False):
    """jaxlm's tree of the tensors `w` of transformers' Llama and its likes, whose linear weights are (out, in)."""
    D = 32
    norm = lambda name: {"scale": w[f"{name}.weight"]}

    def block(name):
        linear = lambda part: w[f"{name}.{part}_proj.weight"].T
        heads = {"q": H, "k": G, "v": G}
        mixer = {n: linear(f"self_attn.{n}").reshape(D, h, K) for n, h in heads.items()}
        mixer["o"] = linear("self_attn.o").reshape(H, K, D)
        if bias:
            mixer |= {f"{n}_bias": w[f"{name}.self_attn.{n}_proj.bias"].reshape(h, K) for n, h in heads.items()}
        ffn = {n: linear(f"mlp.{n}") for n in ("gate", "up", "down")}
        norms = norm(f"{name}.input_layernorm"), norm(f"{name}.post_attention_layernorm")
        return {"norm1": norms[0], "mixer": mixer, "norm2": norms[1], "ffn": ffn}

    tree = {
        "embed": {"table": w["model.embed_tokens.weight"]},
        "segment_0": {str(i): {"block_0": block(f"model.layers.{i}")} for i in range(3)},
        "norm": norm("model.norm"),
    }
    return tree | ({"head": w["lm_head.weight"]} if "lm_head.weight" in w else {})


HEADS = {"H": 4, "K": 8, "G": 2}
FAMILIES = {
    "gpt2": (gpt2_config(101, 32, 3, 4, 64), from_gpt2),
    "mistral": (llama_config(101, 32, 3, 64, window=6, **HEADS), functools.partial(from_llama, **HEADS)),
    "qwen2": (
        llama_config(101, 32, 3, 64, tied=True, rope=RopeConfig(1e6), bias=True, **HEADS),
        functools.partial(from_llama, bias=True, **HEADS),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers(family, shared):
    folder = shared / "parity" / family
    c, convert = FAMILIES[family]
    params = stack(convert(load_file(folder / "model.safetensors")))
    inputs, expected = np.load(folder / "inputs.npz"), np.load(folder / "expected.npz")
    tokens = np.int32(inputs["input_ids"])

    def compare(found, wanted):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max(), rtol=0)

    compare(logits(c, params, tokens), expected["logits"])
    compare(logits(c, params, np.int32(inputs["short_input_ids"])), expected["short_logits"])
    real = np.int32(inputs["padded_attention_mask"])
    at = np.cumsum(real, 1) - 1
    padded = logits(c, params, np.int32(inputs["padded_input_ids"]), at, real)
    compare(np.where(real[..., None], padded, 0), expected["padded_logits"])

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        out = LM(c).apply({"params": params}, tokens, method="forward")
        labels, counted = jnp.roll(tokens, -1, 1), jnp.ones(tokens.shape).at[:, -1].set(0)
        sums = cross_entropy(out.hidden_BTD, out.head_VD, labels, counted, chunk=16)
        return sums.total / sums.weight

    found, gradients = loss(params)
    np.testing.assert_allclose(found, expected["loss"], rtol=1e-5)
    # The gradient of every tensor: its norm does not depend on the layout, fused and stacked ones add up.
    norms = dict(zip(expected["grad_norm_names"], np.square(expected["grad_norm_values"])))
    squares = [float(np.square(g).sum()) for g in jax.tree.leaves(gradients)]
    np.testing.assert_allclose(math.sqrt(sum(squares)), math.sqrt(sum(norms.values())), rtol=1e-3)
