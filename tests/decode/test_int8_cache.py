"""Keys and values in int8: their bytes, and what is written with them."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxlm.api.model import LanguageModel
from jaxlm.decode import Greedy, cache, generate, prepare
from jaxlm.errors import UserError
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.nn.state import Int8KVSlots, KVSlots
from tests import tiny
from tests.weights import weights

MODEL = tiny.model()
TOKENS = np.arange(20).reshape(2, 10)
PARAMS = weights(MODEL.build(), TOKENS)
SMALL = cache.in_int8(MODEL)


def test_the_law_of_its_bytes():
    """2 N G (K + 4) a token, of int8 and a float32 scale, where plain ones have 2 N G K itemsize."""
    c = MODEL.layers[0].blocks[0].mixer
    per_token = lambda config: (cache.nbytes(config, 96, "float32") - cache.nbytes(config, 32, "float32")) / 64
    assert per_token(SMALL) == 2 * MODEL.depth * c.groups * (c.K + 4)
    assert per_token(MODEL) == 2 * MODEL.depth * c.groups * c.K * 4


def test_what_is_kept_is_near():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 16)).astype(np.float32)
    empty = AttentionConfig(H=3, K=16, cache="int8").init_cache(2, 12, np.float32)
    assert isinstance(empty, Int8KVSlots)
    for end in (np.int32(2), np.array([0, 4])):
        k, v = empty.write(KVSlots((x, 2 * x)), end).read(np.float32)
        at = np.broadcast_to(end, 2)
        for b in range(2):
            np.testing.assert_allclose(k[b, :, at[b] : at[b] + 5], x[b], atol=np.abs(x).max() / 250)
        np.testing.assert_allclose(v, 2 * k, rtol=1e-6)


@pytest.mark.parametrize("window", [None, 6])
def test_it_writes_nearly_as_without(window):
    mixer = dataclasses.replace(MODEL.layers[0].blocks[0].mixer, window=window)
    model = dataclasses.replace(MODEL, layers=(LayersConfig((BlockConfig(mixer, MLPConfig(F=64)),), 2),))
    how = {"max_new_tokens": 16, "sampler": Greedy()}
    mask_BT = np.ones((2, 10), int)
    mask_BT[1, :4] = 0
    tokens, logprobs = generate(*prepare(model, PARAMS), TOKENS, mask_BT=mask_BT, **how)
    found, near = generate(*prepare(cache.in_int8(model), PARAMS), TOKENS, mask_BT=mask_BT, **how)
    same = np.cumprod(tokens == found, 1).astype(bool)
    assert same[:, :3].all()  # the same text until two tokens are equally likely
    np.testing.assert_allclose(near[same], logprobs[same], atol=0.03)
    assert np.abs(near[same] - logprobs[same]).max() > 0


def test_a_model_has_it():
    m = LanguageModel(MODEL, jax.tree.map(np.asarray, PARAMS), None)
    small = m.quantize_cache()
    assert small.config == SMALL and m.config == MODEL
    assert (small.generate(TOKENS, 4).tokens[:, 0] == m.generate(TOKENS, 4).tokens[:, 0]).all()
    with pytest.raises(UserError, match="no layer of this model keeps plain keys and values"):
        cache.in_int8(SMALL)
