"""The real-gated linear recurrent unit of Griffin (De et al. 2024, arXiv:2402.19427): a diagonal recurrence.

log a_t = -8 sigmoid(r_t) softplus(Lambda), h_t = a_t h_(t-1) + sqrt(1 - a_t^2) sigmoid(i_t) x_t: a unit takes in as
much as it lets go, so that its size stays. At the first token of a text, which has nothing to let go, the root is 1. A
scan over chunks of positions; states are float32.
"""

import jax
import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.ops.blocked_scan import CHUNK, blocked_scan

SHARPNESS = 8.0
STEEPEST = 1000.0  # slope of the root, in the backward pass


def rg_lru(
    x_BTHK: Array,
    input_BTHK: Array,
    recurrent_BTHK: Array,
    lambda_HK: Array,
    first_BT: Array,
    state_BHK: Array | None = None,
    segments_BT: Array | None = None,
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """All positions, by `blocked_scan`: time and memory are linear in T.

    Args:
        x_BTHK: inputs of H blocks of K units.
        input_BTHK: i, before its sigmoid.
        recurrent_BTHK: r, before its sigmoid.
        lambda_HK: Lambda, how long a unit remembers.
        first_BT: whether a token is the first of its text; may have one row, for all.
        state_BHK: h before the first token, as part of its text; None: zeros.
        segments_BT: a text begins at state zero where the segment changes. At segment 0, padding, the state stays as it
            is, so texts may be padded on the left. None: each row is one text.
        chunk: positions of a block; it need not divide T.

    Returns:
        h_BTHK in the dtype of x, and h behind the last token, float32.
    """
    log_BTHK, in_BTHK = _gated(x_BTHK, input_BTHK, recurrent_BTHK, lambda_HK[None, None], first_BT)
    h_BTHK, last_BHK = blocked_scan(log_BTHK, in_BTHK, state_BHK, segments_BT, chunk)
    return h_BTHK.astype(x_BTHK.dtype), last_BHK


def rg_lru_step(
    x_BHK: Array, input_BHK: Array, recurrent_BHK: Array, lambda_HK: Array, first_B: Array, state_BHK: Array
) -> Array:
    """One more token of `rg_lru`: h behind it."""
    log_BHK, in_BHK = _gated(x_BHK, input_BHK, recurrent_BHK, lambda_HK[None], first_B)
    return jnp.exp(log_BHK) * state_BHK + in_BHK


def _gated(x: Array, i: Array, r: Array, lambda_: Array, first: Array) -> tuple[Array, Array]:
    """log a, and what is added to the state, float32."""
    x, i, r, lambda_ = (each.astype(jnp.float32) for each in (x, i, r, lambda_))
    log = -SHARPNESS * jax.nn.sigmoid(r) * jax.nn.softplus(lambda_)
    root = jnp.where(first[..., None, None], 1, _root(-jnp.expm1(2 * log)))
    return log, root * jax.nn.sigmoid(i) * x


@jax.custom_jvp
def _root(x: Array) -> Array:
    """The square root, with a slope of at most `STEEPEST`."""
    return jnp.sqrt(x)


@_root.defjvp
def _root_jvp(xs, dxs):
    slope = jax.lax.rsqrt(jnp.maximum(4 * xs[0], STEEPEST**-2))
    return jnp.sqrt(xs[0]), slope * dxs[0]
