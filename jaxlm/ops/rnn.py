"""Gated recurrent networks, LSTM and GRU, in PyTorch's conventions: the order of the gates, and where GRU's reset acts.

What the input says to all gates at all times is one product, made before: here a scan over time adds what the state h
says, one product a step. H blocks of K units, which see their own block's h only: w_HKnK has for every block the n
gates' matrices side by side. With H = 1 the recurrence is dense. States and their gates are float32.

The gradient is one of its own: h of all times is kept and nothing else, the gates' products are computed again at once,
the scan goes back with one product a step, and the gradient of the weights is one product over all times. JAX's own
would add that up step by step, and over the devices too.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxlm.axes import Array
from jaxlm.ops.recurrence import marks


def lstm(
    x_BT4HK: Array,
    w_HK4K: Array,
    bias_4HK: Array | None = None,
    state: tuple[Array, Array] | None = None,
    segments_BT: Array | None = None,
) -> tuple[Array, tuple[Array, Array]]:
    """Long short-term memory (Hochreiter & Schmidhuber 1997; with the forget gate of Gers et al. 2000).

    i, f, o = sigmoid(x + h W) of their gates, g = tanh(x + h W); c' = f c + i g; h' = o tanh(c').

    Args:
        x_BT4HK: what the input says to the gates i, f, g, o, with its biases.
        w_HK4K: from the K units of h to the gates of the same block.
        bias_4HK: added to h W.
        state: (h_BHK, c_BHK) before the first token, as part of its text; None: zeros.
        segments_BT: a text begins at state zero where the segment changes. At segment 0, padding, the state stays as it
            is, so texts may be padded on the left. None: each row is one text.

    Returns:
        h_BTHK in the dtype of x, and (h, c) behind the last token, float32.
    """
    return recur(_lstm, x_BT4HK, (w_HK4K, bias_4HK), state or zeros(x_BT4HK, 2), segments_BT)


def gru(
    x_BT3HK: Array,
    w_HK3K: Array,
    bias_3HK: Array | None = None,
    state: tuple[Array] | None = None,
    segments_BT: Array | None = None,
) -> tuple[Array, tuple[Array]]:
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), as cuDNN and PyTorch have it.

    r, z = sigmoid(x + u) of their gates, n = tanh(x + r u), h' = (1 - z) n + z h, where u = h W + bias: the reset gate
    r acts behind the product with h and its bias (in the paper before). Gates stand in the order r, z, n; arguments and
    results are as in `lstm`, but the state is (h_BHK,).
    """
    return recur(_gru, x_BT3HK, (w_HK3K, bias_3HK), state or zeros(x_BT3HK, 1), segments_BT)


def elman(
    x_BT1HK: Array,
    w_HK1K: Array,
    bias_1HK: Array | None = None,
    state: tuple[Array] | None = None,
    segments_BT: Array | None = None,
) -> tuple[Array, tuple[Array]]:
    """The simple recurrent network (Elman 1990): h' = tanh(x + h W), of no gates. All else is as in `gru`."""
    return recur(_elman, x_BT1HK, (w_HK1K, bias_1HK), state or zeros(x_BT1HK, 1), segments_BT)


def elman_step(x_B1HK: Array, w_HK1K: Array, bias_1HK: Array | None, state: tuple[Array]) -> tuple[Array]:
    """One more token of `elman`: the state (h,) behind it."""
    return _elman(x_B1HK, product(state[0], (w_HK1K, bias_1HK)), state)


def _elman(x_B1HK: Array, u_B1HK: Array, state: Any) -> Any:
    return (jnp.tanh(x_B1HK.astype(jnp.float32) + u_B1HK)[:, 0],)


def lstm_step(x_B4HK: Array, w_HK4K: Array, bias_4HK: Array | None, state: tuple[Array, Array]) -> tuple[Array, Array]:
    """One more token of `lstm`: the state (h, c) behind it."""
    return _lstm(x_B4HK, product(state[0], (w_HK4K, bias_4HK)), state)


def gru_step(x_B3HK: Array, w_HK3K: Array, bias_3HK: Array | None, state: tuple[Array]) -> tuple[Array]:
    """One more token of `gru`: the state (h,) behind it."""
    return _gru(x_B3HK, product(state[0], (w_HK3K, bias_3HK)), state)


def _lstm(x_B4HK: Array, u_B4HK: Array, state: Any) -> Any:
    i, f, g, o = jnp.moveaxis(x_B4HK.astype(jnp.float32) + u_B4HK, 1, 0)
    c_BHK = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c_BHK), c_BHK


def _gru(x_B3HK: Array, u_B3HK: Array, state: Any) -> Any:
    x_r, x_z, x_n = jnp.moveaxis(x_B3HK.astype(jnp.float32), 1, 0)
    u_r, u_z, u_n = jnp.moveaxis(u_B3HK, 1, 0)
    z_BHK, n_BHK = jax.nn.sigmoid(x_z + u_z), jnp.tanh(x_n + jax.nn.sigmoid(x_r + u_r) * u_n)
    return ((1 - z_BHK) * n_BHK + z_BHK * state[0],)


def product(h: Array, weights: tuple[Array, Array | None]) -> Array:
    """What h (..., H, K) says to the gates (..., n, H, K), float32."""
    w_HKnK, bias_nHK = weights
    u = jnp.einsum("...hk,hknj->...nhj", h.astype(w_HKnK.dtype), w_HKnK, preferred_element_type=jnp.float32)
    if bias_nHK is None:
        return u
    return u + bias_nHK.astype(jnp.float32).reshape((1,) * (u.ndim - 3) + bias_nHK.shape)


def zeros(x_BTnHK: Array, n: int) -> Any:
    """A state of n arrays (B, H, K), laid out as x."""
    return (jnp.zeros_like(x_BTnHK[:, 0, 0], jnp.float32),) * n


def recur(cell: Callable, x_BTnHK: Array, weights: Any, state: Any, segments_BT: Array | None) -> tuple[Array, Any]:
    """h of all times, and the last state, of a recurrence with memory mixing: `cell(x_BnHK, u_BnHK, state)`, where u is
    what h says, is the next state, of float32 arrays (B, H, K), h first."""
    texts = None if segments_BT is None else tuple(jnp.moveaxis(x, 1, 0) for x in marks(segments_BT))
    out: Any = _scan(cell, jnp.moveaxis(x_BTnHK, 1, 0), weights, state, texts)
    h_TBHK, last = out
    return jnp.moveaxis(h_TBHK, 0, 1).astype(x_BTnHK.dtype), last


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(cell, x_TBnHK, weights, state, marks):
    """h of all times, and the last state. `cell(x, u, state)` is the next state, in which h comes first."""
    return _forward(cell, x_TBnHK, weights, state, marks)[0]


def _where(mark_B, a, b):
    return jax.tree.map(lambda a, b: jnp.where(mark_B[..., None, None], a, b), a, b)


def _read(state, marks):
    """The state that a token goes on from."""
    return state if marks is None else _where(marks[1], jax.tree.map(jnp.zeros_like, state), state)


def _forward(cell, x_TBnHK, weights, state, marks):
    def step(state, at):
        x_BnHK, marks = at
        read = _read(state, marks)
        new = cell(x_BnHK, product(read[0], weights), read)
        new = new if marks is None else _where(marks[0], new, state)
        return new, new

    last, states_T = lax.scan(step, state, (x_TBnHK, marks))
    states_T = checkpoint_name(states_T, "attention")  # as rematerialisation calls what mixers compute
    return (states_T[0], last), (x_TBnHK, weights, state, marks, states_T)


def _backward(cell, saved, gradients):
    x_TBnHK, weights, state, marks, states_T = saved
    dh_TBHK, dlast = gradients
    before_T = jax.tree.map(lambda first, all: jnp.concatenate([first[None], all[:-1]]), state, states_T)
    read_T = _read(before_T, marks)
    u_TBnHK, pull = jax.vjp(product, read_T[0], weights)

    def step(dstate, at):
        x_BnHK, u_BnHK, read, marks, dh_BHK = at
        dstate = (dstate[0] + dh_BHK, *dstate[1:])
        zero = jax.tree.map(jnp.zeros_like, dstate)
        dnew = dstate if marks is None else _where(marks[0], dstate, zero)
        dx_BnHK, du_BnHK, dread = jax.vjp(cell, x_BnHK, u_BnHK, read)[1](dnew)
        dh_BHK = jax.vjp(lambda h: product(h, weights), read[0])[1](du_BnHK)[0]
        dread = (dread[0] + dh_BHK, *dread[1:])
        if marks is not None:
            real_B, fresh_B = marks
            dread = jax.tree.map(jnp.add, _where(fresh_B, zero, dread), _where(real_B, zero, dstate))
        return dread, (dx_BnHK, du_BnHK)

    dfirst, (dx_TBnHK, du_TBnHK) = lax.scan(step, dlast, (x_TBnHK, u_TBnHK, read_T, marks, dh_TBHK), reverse=True)
    return dx_TBnHK, pull(du_TBnHK)[1], dfirst, None


_scan.defvjp(_forward, _backward)
