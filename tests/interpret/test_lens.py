"""The lens shows what a shorter model says, maps are the softmax written out, induction is seen where it is planted."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import interpret
from jaxlm.errors import UserError
from jaxlm.interpret import lens
from jaxlm.models import LM, forward
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.nn.attention import Attention
from jaxlm.nn.stack import unstack
from tests import tiny
from tests.weights import weights

RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.integers(0, 264, (2, 12)), jnp.int32)


def made(N=2, **how):
    block = BlockConfig(AttentionConfig(H=4, K=8, G=2, **how), MLPConfig(F=64))
    config = tiny.model(layers=(LayersConfig((block,), N),))
    return config, weights(LM(config), TOKENS[:1, :4])


def test_the_lens_is_a_shorter_model():
    config, params = made()
    seen = interpret.logit_lens(config, params, TOKENS, k=3)
    short = dataclasses.replace(config, layers=(LayersConfig(config.layers[0].blocks, 1),))
    first = {k: v if k in ("embed", "norm", "head") else jax.tree.map(lambda x: x[:1], v) for k, v in params.items()}
    for n, (c, p) in enumerate([(short, first), (config, params)]):
        logprobs = jax.nn.log_softmax(LM(c).apply({"params": p}, TOKENS), -1)
        best, ids = jax.lax.top_k(logprobs, 3)
        np.testing.assert_allclose(seen.logprobs[n], best, atol=1e-5)
        assert (seen.tokens[n] == ids).all()
    assert float(jnp.abs(seen.kl[-1]).max()) < 1e-6 < 1e-3 < float(seen.kl[0].min())


@pytest.mark.parametrize("how", [{}, {"window": 4}])
def test_maps_are_the_softmax(how):
    config, params = made(rope=None, **how)
    inputs = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, Attention) and context.method_name == "__call__":
            inputs[len(inputs)] = args[0], context.module.variables["params"]
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        forward(LM(config, stacked=False), unstack(params), TOKENS)
    maps = jax.jit(lambda params: interpret.attention_maps(config, params, TOKENS))(params)
    t, s = np.arange(12)[:, None], np.arange(12)[None]
    seen = (s <= t) & (t - s < how.get("window", 99))
    for n, (x_BTD, p) in inputs.items():
        q, k = (np.einsum("btd,dhk->bthk", x_BTD, p[name]) for name in ("q", "k"))
        scores = np.einsum("bthk,bshk->bhts", q, np.repeat(k, 2, 2)) / 8**0.5
        want = jax.nn.softmax(jnp.where(seen[None, None], scores, -jnp.inf), -1)
        np.testing.assert_allclose(maps[n], want, atol=1e-5)


def test_induction_is_seen_where_it_is(monkeypatch):
    config, params = made()
    scores = interpret.induction_scores(config, params, 264, T=8, B=2)
    assert scores.shape == (2, 4) and scores.max() < 0.5
    assert abs(interpret.repeated_gain(config, params, 264, T=8)) < 1

    def planted(config, params, tokens_BT):  # traced
        weights = np.full((2, 4, 16, 16), 1 / 16)
        weights[:, 1] = np.eye(16, k=-7)  # from t to t - 8 + 1
        return {1: jnp.asarray(weights, jnp.float32)}

    monkeypatch.setattr(lens, "attention_maps", planted)
    scores = interpret.induction_scores(config, params, 264, T=8, B=2)
    assert scores[1, 1] == 1 and np.isnan(scores[0]).all() and scores[1, 0] == pytest.approx(1 / 16)


def test_pictures(tmp_path):
    seen = interpret.Lens(*(jnp.zeros((2, 1, 3, 1), jnp.int32), jnp.zeros((2, 1, 3, 1)), jnp.zeros((2, 1, 3))))
    interpret.plot_lens(seen, ["a", "$b", "c"], lambda i: "x", tmp_path / "a.png")
    interpret.plot_heads([[0.1, 1.0]], tmp_path / "b.png")
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("a.png", "b.png"))
    with pytest.raises(UserError, match="2 words are not as many"):
        interpret.plot_lens(seen, ["a", "b"], str, tmp_path / "a.png")
