"""Virtual tokens: a prompt is as if its embeddings stood before the text, a prefix is what layers read of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import compat, decode
from jaxlm.errors import UserError
from jaxlm.models import LMConfig, abstract, forward, init_boxed
from jaxlm.models.lm import folded
from jaxlm.nn import AlibiConfig, LayersConfig, LearnedConfig, MambaConfig
from jaxlm.nn.virtual import VirtualConfig
from jaxlm.sharding import MeshConfig, make_mesh, shardings, unbox
from tests import tiny
from tests.models.test_encoder import BERT as SHORT

n = 3
PLAIN = tiny.model()
TOKENS = np.arange(24, dtype=np.int32).reshape(4, 6) * 7 % 60 + 4


def with_virtual(config, prefix=False):
    return dataclasses.replace(config, virtual=VirtualConfig(n, prefix))


@functools.cache
def fresh(config):
    params = jax.jit(lambda: unbox(init_boxed(config, jax.random.key(0))))()
    return jax.tree.map(lambda x: np.asarray(x) * (10 if x.ndim == 2 else 1), params)  # embeddings that differ


@functools.partial(jax.jit, static_argnums=0)
def hidden(config, params, *args):
    return forward(config.build(), params, *args).hidden_BTD


def as_tokens(params):
    """Parameters without a prompt, whose first rows of the table are it."""
    table = params["embed"]["table"].copy()
    table[:n] = params["prompt"]
    return {name: x for name, x in params.items() if name != "prompt"} | {"embed": {"table": table}}


BERT = dataclasses.replace(SHORT, positions=LearnedConfig(16))
ATTENTION = PLAIN.layers[0].blocks[0].mixer
ALIBI = dataclasses.replace(
    PLAIN.layers[0].blocks[0], mixer=dataclasses.replace(ATTENTION, position_bias=AlibiConfig(), window=4)
)
CONFIGS = {
    "rope": PLAIN,
    "learned": tiny.model(positions=LearnedConfig(16)),
    "alibi": tiny.model(layers=(LayersConfig((PLAIN.layers[0].blocks[0], ALIBI)), LayersConfig((ALIBI,)))),
    "bert": BERT,
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_prompt_is_tokens_before_the_text(config):
    prompted, before = with_virtual(config), np.broadcast_to(np.arange(n, dtype=np.int32), (4, n))
    tokens = np.maximum(TOKENS % config.V, n)
    params = fresh(prompted)
    expected = hidden(config, as_tokens(params), np.concatenate([before, tokens], 1))[:, n:]
    np.testing.assert_allclose(hidden(prompted, params, tokens), expected, atol=1e-4)
    assert np.abs(hidden(config, as_tokens(params), tokens) - expected).max() > 1e-2
    if isinstance(config, LMConfig):
        prefixed, weights = folded(prompted, params)
        assert prefixed == with_virtual(config, prefix=True)
        np.testing.assert_allclose(hidden(prefixed, weights, tokens), expected, atol=1e-4)


def test_every_text_of_a_packed_row_sees_it():
    prompted = with_virtual(PLAIN)
    params = fresh(prompted)
    at, of = np.array([[0, 1, 2, 3, 0, 1]], np.int32), np.array([[1, 1, 1, 1, 2, 2]], np.int32)
    packed = hidden(prompted, params, TOKENS[:1], at, of)
    for cut in (slice(4), slice(4, 6)):
        np.testing.assert_allclose(packed[:, cut], hidden(prompted, params, TOKENS[:1, cut]), atol=1e-4)


def test_decoding_equals_forward():
    prompted = with_virtual(PLAIN)
    params = fresh(prompted)
    mask = np.arange(6)[None] >= np.array([[0], [2], [4], [1]])
    tokens, logprobs = decode.generate(*decode.prepare(prompted, params), TOKENS, mask_BT=mask, max_new_tokens=4)
    logits = jax.jit(lambda tokens: prompted.build().apply({"params": jax.tree.map(jnp.asarray, params)}, tokens))
    for b in range(4):
        whole = np.concatenate([TOKENS[b][mask[b]], tokens[b]])[None]
        scores = jax.nn.log_softmax(logits(whole))[0, -5:-1]
        np.testing.assert_array_equal(jnp.argmax(scores, -1), tokens[b])
        np.testing.assert_allclose(scores[np.arange(4), tokens[b]], logprobs[b], atol=1e-4)


@pytest.mark.parametrize("prefix", [False, True], ids=["prompt", "prefix"])
@pytest.mark.parametrize("config", [PLAIN, BERT], ids=["lm", "bert"])
def test_on_meshes(config, prefix):
    config = with_virtual(config, prefix)
    params, tokens = fresh(config), np.tile(TOKENS, (2, 1)) % config.V
    loss = jax.jit(jax.value_and_grad(lambda params: jnp.mean(jnp.sin(hidden(config, params, tokens)))))
    expected, grads = loss(params)
    name = "prefix" if prefix else "prompt"
    for explicit in (True, False):
        with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2, explicit=explicit))):
            placed = jax.device_put(params, shardings(abstract(config)[1], params, compat.concrete_mesh()))
            found, own = jax.jit(jax.value_and_grad(lambda p: jnp.mean(jnp.sin(hidden(config, p, tokens)))))(placed)
            np.testing.assert_allclose(found, expected, rtol=1e-5)
            np.testing.assert_allclose(own[name], grads[name], atol=1e-5)


def test_bad_input():
    mamba = dataclasses.replace(PLAIN.layers[0].blocks[0], mixer=MambaConfig(F=32))
    with pytest.raises(UserError, match="virtual tokens need one attention in every layer"):
        with_virtual(tiny.model(layers=(LayersConfig((PLAIN.layers[0].blocks[0], mamba)),)))
    with pytest.raises(UserError, match="7 tokens behind 3 virtual ones, but the model has 7 positions"):
        hidden(with_virtual(SHORT, True), fresh(with_virtual(SHORT, True)), np.zeros((1, 7), np.int32))
    with pytest.raises(UserError, match="n=0 must be"):
        VirtualConfig(0)
