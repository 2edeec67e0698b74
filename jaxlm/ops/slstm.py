"""The scalar memory of xLSTM, sLSTM (Beck et al. 2024, arXiv:2405.04517): an LSTM with an exponential input gate and a
normaliser, whose units of one head see each other's h (memory mixing), so that it is a scan over time.

c_t = f c + exp(i) tanh(z), n_t = f n + exp(i), h_t = sigmoid(o) c_t / n_t with f = sigmoid of its gate. States are
c e^-m and n e^-m, where m, the stabiliser, is the largest exponent so far: m_t = max(log f + m_(t-1), i).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.ops.rnn import product, recur, zeros

State = tuple[Array, Array, Array, Array]  # h, c, n and m, (B, H, K) each


def slstm(
    x_BT4HK: Array, w_HK4K: Array, state: State | None = None, segments_BT: Array | None = None
) -> tuple[Array, State]:
    """All positions, one after the other; arguments and results are as in `ops.rnn.lstm`, the gates i, f, z, o."""
    return recur(_slstm, x_BT4HK, (w_HK4K, None), state or zeros(x_BT4HK, 4), segments_BT)


def slstm_step(x_B4HK: Array, w_HK4K: Array, state: State) -> State:
    """One more token of `slstm`: the state (h, c, n, m) behind it."""
    return _slstm(x_B4HK, product(state[0], (w_HK4K, None)), state)


def _slstm(x_B4HK: Array, u_B4HK: Array, state: Any) -> Any:
    i, f, z, o = jnp.moveaxis(x_B4HK.astype(jnp.float32) + u_B4HK, 1, 0)
    _, c_BHK, n_BHK, m_BHK = state
    log_BHK = jax.nn.log_sigmoid(f) + m_BHK
    new_BHK = jnp.where(n_BHK == 0, i, jnp.maximum(log_BHK, i))  # nothing was before a text's first token
    forget_BHK, write_BHK = jnp.exp(jnp.where(n_BHK == 0, 0, log_BHK - new_BHK)), jnp.exp(i - new_BHK)
    c_BHK = forget_BHK * c_BHK + write_BHK * jnp.tanh(z)
    n_BHK = forget_BHK * n_BHK + write_BHK
    return jax.nn.sigmoid(o) * c_BHK / n_BHK, c_BHK, n_BHK, new_BHK
