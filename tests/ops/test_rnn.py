import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import elman, elman_step, gru, gru_step, lstm, lstm_step
from jaxlm.sharding import MeshConfig
from tests.meshes import MESHES, name, on

B, T, H, K = 8, 7, 2, 3
LAYERS = {"lstm": (lstm, lstm_step, 4, 2), "gru": (gru, gru_step, 3, 1), "elman": (elman, elman_step, 1, 1)}
# Left padding; two texts side by side; padding between two, and behind; one text.
ROWS = ["0011111", "1112222", "1100220", "1111111"]
SEGMENTS = np.array([[int(x) for x in row] for row in ROWS * 2], np.int32)

sigmoid = lambda x: 1 / (1 + np.exp(-x))


def loops(kind, x, w, bias, state, segments):
    """The equations of one row and block after the other: h of every token, and the last state."""
    h_BTHK, last = np.zeros((B, T, H, K)), [np.array(s, np.float64) for s in state]
    for b, j in np.ndindex(B, H):
        h, *c = (s[b, j] for s in state)
        text = 0
        for t in range(T):
            if segments is None or segments[b, t]:
                if segments is not None:
                    if text and segments[b, t] != text:
                        h, c = np.zeros(K), [np.zeros(K) for _ in c]
                    text = segments[b, t]
                u = [h @ w[j, :, n] + bias[n, j] for n in range(len(bias))]
                if kind == "lstm":
                    i, f, g, o = (x[b, t, n, j] + u[n] for n in range(4))
                    c = [sigmoid(f) * c[0] + sigmoid(i) * np.tanh(g)]
                    h = sigmoid(o) * np.tanh(c[0])
                elif kind == "elman":
                    h = np.tanh(x[b, t, 0, j] + u[0])
                else:
                    r, z = (sigmoid(x[b, t, n, j] + u[n]) for n in range(2))
                    h = (1 - z) * np.tanh(x[b, t, 2, j] + r * u[2]) + z * h
            h_BTHK[b, t, j] = h
        for s, one in zip(last, (h, *c)):
            s[b, j] = one
    return h_BTHK, tuple(last)


def arrays(kind):
    _, _, n, states = LAYERS[kind]
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return draw(B, T, n, H, K), draw(H, K, n, K), draw(n, H, K), tuple(draw(B, H, K) for _ in range(states))


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["one text", "texts and padding"])
@pytest.mark.parametrize("kind", LAYERS)
def test_it_is_the_loop_over_the_equations(kind, segments):
    args = arrays(kind)
    found = jax.jit(LAYERS[kind][0])(*args, segments)
    chex.assert_trees_all_close(found, loops(kind, *args, segments), atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_it_begins_at_zero_and_needs_no_bias(kind):
    x, w, bias, state = arrays(kind)
    zero = jax.tree.map(np.zeros_like, (bias, state))
    chex.assert_trees_all_close(LAYERS[kind][0](x, w), loops(kind, x, w, *zero, None), atol=1e-5)


def stepwise(kind, x, w, bias, state, segments):
    """The same by JAX's own gradient: one step after the other."""
    step, hs, before = LAYERS[kind][1], [], jnp.zeros(B, jnp.int32)
    for t in range(T):
        now = jnp.ones(B, jnp.int32) if segments is None else segments[:, t]
        real, fresh = (m[:, None, None] for m in (now > 0, (now > 0) & (before > 0) & (now != before)))
        new = step(x[:, t], w, bias, tuple(jnp.where(fresh, 0, s) for s in state))
        state = tuple(jnp.where(real, a, b) for a, b in zip(new, state))
        before = jnp.where(now > 0, now, before)
        hs.append(state[0])
    return jnp.stack(hs, 1), state


def pulled(f, *args):
    """The gradients of all but segments, of a sum that weighs every output otherwise."""
    *args, segments = args

    def loss(*args):
        leaves = jax.tree.leaves(f(*args, segments))
        return sum(jnp.sum(x * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)) for x in leaves)

    return jax.grad(loss, range(len(args)))(*args)


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["one text", "texts and padding"])
@pytest.mark.parametrize("kind", LAYERS)
def test_its_gradient_is_that_of_the_steps(kind, segments):
    args = (*arrays(kind), segments)
    found = jax.jit(lambda: pulled(LAYERS[kind][0], *args))()
    chex.assert_trees_all_close(found, jax.jit(lambda: pulled(functools.partial(stepwise, kind), *args))(), atol=1e-4)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_text_knows_nothing_of_what_stands_beside_it(kind):
    """Neither of another text of the row nor of padding, whatever stands there."""
    x, w, bias, _ = arrays(kind)
    run = jax.jit(lambda x, segments: LAYERS[kind][0](x, w, bias, None, segments)[0])
    h = run(x, SEGMENTS)
    for b, text in ((0, slice(2, 7)), (1, slice(3, 7)), (2, slice(4, 6))):
        alone = LAYERS[kind][0](x[b : b + 1, text], w, bias)[0]
        np.testing.assert_allclose(h[b : b + 1, text], alone, atol=1e-6)
    other = np.where((SEGMENTS == 2)[..., None, None, None], x, 9 * x)
    np.testing.assert_array_equal(run(other, SEGMENTS)[SEGMENTS == 2], h[SEGMENTS == 2])


@pytest.mark.parametrize("kind", LAYERS)
def test_half_precision_keeps_its_state_in_float32(kind):
    x, w, bias, state = arrays(kind)
    h, last = LAYERS[kind][0](*(jnp.asarray(a, jnp.bfloat16) for a in (x, w, bias)), state)
    assert h.dtype == jnp.bfloat16 and {s.dtype for s in last} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(np.float32(h), LAYERS[kind][0](x, w, bias, state)[0], atol=0.1)


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
@pytest.mark.parametrize("kind", LAYERS)
def test_on_meshes(kind, config):
    run = jax.jit(lambda *args: (LAYERS[kind][0](*args), pulled(LAYERS[kind][0], *args)))
    x, w, bias, state = arrays(kind)
    expected = run(x, w, bias, state, SEGMENTS)
    with on(config) as put:
        args = put(x, "batch", None, None, "heads", None), put(w, "heads", None, None, None)
        state = jax.tree.map(lambda s: put(s, "batch", "heads", None), state)
        found = run(*args, put(bias, None, "heads", None), state, put(SEGMENTS, "batch", None))
        chex.assert_trees_all_close(found, expected, atol=1e-4)


def test_the_gradient_of_the_weights_is_added_up_once():
    """Over the devices that divide the rows: not in the loop over time."""
    x, w = np.zeros((8, 64, 4, 1, 40), np.float32), np.zeros((1, 40, 4, 40), np.float32)
    with on(MeshConfig(data=8)) as put:
        args = put(x, "batch", None, None, None, None), put(w, None, None, None, None)
        text = jax.jit(jax.grad(lambda x, w: jnp.sum(lstm(x, w)[0]), (0, 1))).lower(*args).compile().as_text()
    computations = {m[1]: m[0] for m in re.finditer(r"^(?:ENTRY )?%(\S+) .*?^}", text, re.MULTILINE | re.DOTALL)}
    holding = [name for name, body in computations.items() if " all-reduce(" in body or " all-reduce-start(" in body]
    loops = re.findall(r"body=%([^\s,)]+)", text)
    assert len(loops) == 2 and len(holding) == 1 and not {*holding} & {*loops}
