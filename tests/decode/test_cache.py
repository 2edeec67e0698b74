import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxlm.decode import cache, loop
from jaxlm.errors import UserError
from jaxlm.models import LM, abstract, logits
from jaxlm.nn import KVSlots, unstack
from jaxlm.sharding import Axes, MeshConfig
from tests.decode.models import MODELS, block, full_logits, lm, params, prompts
from tests.meshes import on

B, T, START = 3, 36, 9  # the first START tokens are read at once, the others one by one


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="each")
def through_the_cache(config, stacked, params, tokens_BT, mask_BT, each=False):
    """(B, T, V): the start of the texts in one pass, then a pass a token with nothing but the cache, whose end is given
    once or for each row."""

    def forward(*args):
        out = LM(config, stacked).apply({"params": params}, *args, method="forward")
        return logits(config, out), out.states

    B, T = tokens_BT.shape
    start_B = T - mask_BT.sum(-1)
    positions_BT = jnp.maximum(jnp.cumsum(mask_BT, -1) - 1, 0)
    first, states = forward(*(x[:, :START] for x in (tokens_BT, positions_BT, mask_BT)))
    caches = cache.write(cache.empty(config, B, T, jnp.float32, stacked), states, jnp.int32(0))

    def step(caches, end):
        token_B1, position_B1 = (lax.dynamic_slice_in_dim(x, end, 1, 1) for x in (tokens_BT, positions_BT))
        end = jnp.full_like(start_B, end) if each else end
        new, states = forward(token_B1, position_B1, jnp.ones_like(token_B1), caches, end, start_B)
        return cache.write(caches, states, end), new[:, 0]

    _, rest = lax.scan(step, caches, jnp.arange(START, T))
    return jnp.concatenate([first, jnp.moveaxis(rest, 0, 1)], 1)


UNSTACKED = ["windows", "learned", "alibi", "gpt-oss", "llama4", "differential", "latent"]


@pytest.mark.parametrize("name, stacked", [(name, True) for name in MODELS] + [(name, False) for name in UNSTACKED])
def test_every_logit_is_that_of_the_full_forward(name, stacked):
    tokens_BT, mask_BT = prompts(T, 0, 3, START - 1)
    tree = params(name) if stacked else unstack(params(name))
    found = through_the_cache(MODELS[name], stacked, tree, tokens_BT, mask_BT)
    expected = full_logits(name, tokens_BT, mask_BT)
    real = mask_BT.astype(bool)
    np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=1e-5 * np.abs(expected[real]).max())


@pytest.mark.parametrize(
    "name, stacked",
    [("rope", False), ("windows", False), ("latent", False), ("linear", False), ("windows", True), ("linear", True)],
)
def test_rows_of_different_lengths_come_and_go(name, stacked):
    """Two texts are read, then one token each a step; one ends and makes room for a third. Each is as it is alone."""
    config, texts, starts = MODELS[name], [prompts(40, 0, seed=i)[0][0] for i in range(3)], (7, 17, 3)
    tree, S = jax.tree.map(jnp.asarray, params(name) if stacked else unstack(params(name))), 40

    @functools.partial(jax.jit, static_argnums=3)
    def forward(tokens_BT, caches, end_B, start):
        """The logits and the caches after tokens of rows without padding; at the `start` of the texts there is none."""
        caches = cache.empty(config, len(tokens_BT), S, jnp.float32, stacked) if start else caches
        positions_BT = end_B[:, None] + jnp.arange(tokens_BT.shape[1])[None]
        past = () if start else (caches, end_B, jnp.zeros_like(end_B))
        args = tokens_BT, positions_BT, jnp.ones_like(tokens_BT), *past
        out = LM(config, stacked).apply({"params": tree}, *args, method="forward")
        return logits(config, out)[:, -1], cache.write(caches, out.states, jnp.int32(0) if start else end_B)

    begin = lambda i: forward(texts[i][None, : starts[i]], None, jnp.zeros(1, jnp.int32), True)[1]
    put = jax.jit(cache.put)
    caches = cache.empty(config, 2, S, jnp.float32, stacked)
    rows, end_B, found = [0, 1], np.array(starts[:2]), {0: [], 1: [], 2: []}
    for row, i in enumerate(rows):
        caches = put(caches, begin(i), np.array([row]))
    for step in range(30):
        if step == 10:
            caches, rows[1], end_B[1] = put(caches, begin(2), np.array([1])), 2, starts[2]
        token_B1 = np.array([texts[i][end] for i, end in zip(rows, end_B)])[:, None]
        logits_BV, caches = forward(token_B1, caches, end_B, False)
        for i, logits_V in zip(rows, np.asarray(logits_BV)):
            found[i].append(logits_V)
        end_B = end_B + 1
    assert [len(x) for x in found.values()] == [30, 10, 20]
    for i, logits_TV in found.items():
        whole = full_logits(name, texts[i][None], np.ones((1, S), np.int32))[0, starts[i] :][: len(logits_TV)]
        np.testing.assert_allclose(logits_TV, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize("each", [False, True], ids=["one end", "an end a row"])
@pytest.mark.parametrize("name, n", [("rope", 4), ("latent", 4), ("windows", 1)])
def test_tokens_that_are_dropped_leave_no_trace(name, n, each):
    """As those that were only proposed: read all at once, then taken back."""
    config, (tokens_BT, mask_BT) = MODELS[name], prompts(T, 0, 3, START - 1)
    at_BT = jnp.maximum(jnp.cumsum(mask_BT, -1) - 1, 0)
    start_B, real = T - mask_BT.sum(-1), mask_BT.astype(bool)

    @jax.jit
    def forward(params, tokens_BT, at_BT, mask_BT, caches=None, end=None):
        past = () if caches is None else (caches, end, start_B)
        out = LM(config).apply({"params": params}, tokens_BT, at_BT, mask_BT, *past, method="forward")
        caches = cache.empty(config, B, T + n, jnp.float32, True) if caches is None else caches
        return logits(config, out), cache.write(caches, out.states, jnp.int32(0) if end is None else end)

    end = START + 7
    cut = lambda at: (tokens_BT[:, at], at_BT[:, at], mask_BT[:, at])
    _, caches = forward(params(name), *cut(slice(end)))
    wrong_BT, at, mask = cut(slice(end, end + n))
    here = np.full(B, end) if each else jnp.int32(end)
    _, caches = forward(params(name), (wrong_BT + 1) % 7, at, mask, caches, here)
    found, _ = forward(params(name), *cut(slice(end, end + 3)), cache.back(caches, n), here)
    expected = full_logits(name, tokens_BT, mask_BT)[:, end : end + 3]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected[real[:, end : end + 3]]).max())


@pytest.mark.parametrize("name", ["windows", "linear"])
def test_what_is_gone_cannot_come_back(name):
    with pytest.raises(UserError, match=r"a ring that has overwritten|a recurrence cannot go back"):
        cache.back(cache.empty(MODELS[name], 1, 50, jnp.float32, True), 2)


@pytest.mark.parametrize("each", [False, True], ids=["one end", "an end a row"])
@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("name", ["gpt-oss", "latent"])
def test_the_cache_on_meshes(name, explicit, each):
    tokens_BT, mask_BT = (np.tile(x, (4, 1)) for x in prompts(20, 0, 3))
    expected = through_the_cache(MODELS[name], True, params(name), tokens_BT, mask_BT)
    axes = abstract(MODELS[name])[1]
    with on(MeshConfig(2, 2, 2, explicit=explicit)) as put:
        tree = jax.tree.map(lambda a, w: put(w, *a.names), axes, params(name), is_leaf=lambda a: isinstance(a, Axes))
        args = MODELS[name], True, tree, *(put(x, "batch", None) for x in (tokens_BT, mask_BT))
        found = through_the_cache(*args, each=each)
    real = mask_BT.astype(bool)
    np.testing.assert_allclose(
        np.asarray(found)[real], expected[real], rtol=0, atol=2e-5 * np.abs(expected[real]).max()
    )


@pytest.mark.parametrize("S", [1, 4, 7, 20])
def test_a_cache_is_a_ring_of_the_newest_tokens(S):
    """Pieces of all lengths, one after the other, against a list."""
    write = jax.jit(cache.write)
    caches = tuple(KVSlots(jnp.zeros(shape)) for shape in ((2, 1, S, 3), (4, 2, 1, S, 3)))  # a layer's own, and stacked
    slots, end, rng = [0.0] * S, 0, np.random.default_rng(0)
    for n in (3, 1, 1, 9, 1, 2, 1):
        tokens_n = rng.normal(size=n).astype(np.float32)
        new = tuple(KVSlots(np.broadcast_to(tokens_n[:, None], (*x.value.shape[:-2], n, 3))) for x in caches)
        caches = write(caches, new, jnp.int32(end))
        for i, token in enumerate(tokens_n):
            slots[(end + i) % S] = token
        end += n
        for found in (x.value for x in caches):
            np.testing.assert_array_equal(found, np.broadcast_to(np.float32(slots)[:, None], found.shape))


def test_behind_the_condition_of_tpus_the_same_is_written(monkeypatch):
    caches = (KVSlots(jnp.arange(24.0).reshape(1, 1, 6, 4)),)
    new = (KVSlots(jnp.full((1, 1, 1, 4), -1.0)),)
    for slot in (0, 5):
        plain = loop.written(caches, new, jnp.int32(slot))
        with monkeypatch.context() as m:
            m.setattr(loop.sharding, "platform", lambda: "tpu")
            text = str(jax.make_jaxpr(loop.written)(caches, new, jnp.int32(slot)))
            (other,) = loop.written(caches, new, jnp.int32(slot))
        assert "cond" in text and (np.asarray(other.value)[0, 0, slot] == -1).all()
        np.testing.assert_array_equal(other.value, plain[0].value)


def test_states_take_the_dtype_of_the_cache():
    new = KVSlots(np.full((1, 1, 2, 3), 1.001, np.float32))
    (found,) = cache.write((KVSlots(jnp.zeros((1, 1, 2, 3), jnp.bfloat16)),), (new,), jnp.int32(0))
    assert found.value.dtype == jnp.bfloat16


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("dtype, itemsize", [("float32", 4), ("bfloat16", 2)])
def test_a_token_takes_two_numbers_a_layer_key_head_and_channel(stacked, dtype, itemsize):
    config, B, S = lm((3, (block(2), block(1)))), 5, 70
    caches = cache.empty(config, B, S, jnp.dtype(dtype), stacked)
    K, GN = 8, 3 * (2 + 1)
    assert sum(x.nbytes for x in jax.tree.leaves(caches)) == B * S * 2 * GN * K * itemsize
    assert cache.nbytes(config, S, dtype) == S * cache.nbytes(config, 1, dtype) == S * 2 * GN * K * itemsize


@pytest.mark.parametrize("stacked", [True, False])
def test_a_window_takes_its_slots_whatever_the_length(stacked):
    window, token = 8, 2 * 2 * 8 * 4  # a token and layer: keys and values of 2 heads of 8 float32
    local, mixed = lm((3, (block(2, window),))), lm((3, (block(2, window), block(2))))
    for length in (20, 20_000):
        held = sum(x.nbytes for x in jax.tree.leaves(cache.empty(local, 1, length, jnp.float32, stacked)))
        assert held == cache.nbytes(local, length, "float32") == 3 * window * token
        assert cache.nbytes(mixed, length, "float32") == 3 * (window + length) * token
    assert cache.nbytes(local, 5, "float32") == 3 * 5 * token  # nor more than the text
