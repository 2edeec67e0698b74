"""Causal convolution with filters as long as a row, by the fast Fourier transform: O(T log T), memory linear in T.

y_t = sum_w k_w x_(t - w) of each channel. Of packed rows every text is transformed alone, one pass a text, in which the
others are zero: nothing leaks, and the time is multiplied by the texts of the row that has most.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxlm.axes import Array
from jaxlm.ops.recurrence import marks


def long_conv(x_BTF: Array, k_WF: Array, segments_BT: Array | None = None) -> Array:
    """Each token sees all before it in its text, by filters of any length: what is longer than the row is not read.

    Args:
        x_BTF: inputs.
        k_WF: filters, the weight of the token itself first.
        segments_BT: a text begins where the segment changes; segment 0 is padding, which nobody sees. None: each row is
            one text.

    Returns:
        y_BTF in the dtype of x, computed in float32.
    """
    T = x_BTF.shape[1]
    x32_BTF, k_WF = x_BTF.astype(jnp.float32), k_WF[:T].astype(jnp.float32)
    if segments_BT is None:
        y_BTF = _back(_there(x32_BTF) * _there(k_WF, T)[None], T)
    else:
        real_BT, fresh_BT = marks(segments_BT)
        y_BTF = _of_texts(x32_BTF, k_WF, jnp.where(real_BT, jnp.cumsum(fresh_BT, 1), -1))
    return checkpoint_name(y_BTF.astype(x_BTF.dtype), "attention")  # as rematerialisation calls what mixers compute


def _size(T: int) -> int:
    """Of the transform: that no end wraps around, rounded up to a product of small primes."""
    n = 2 * T
    return min(m << (-(-n // m) - 1).bit_length() for m in (1, 3, 5))


def _there(x: Array, T: int = 0) -> Array:
    """Frequencies, of the last dimension but one."""
    return jnp.fft.rfft(x, _size(T or x.shape[-2]), axis=-2)


def _back(f: Array, T: int) -> Array:
    return jnp.fft.irfft(f, _size(T), axis=-2)[..., :T, :]


@jax.custom_vjp
def _of_texts(x_BTF, k_WF, text_BT):
    """`text_BT` numbers the texts of each row from 0; -1 is padding."""
    return _forward(x_BTF, k_WF, text_BT)[0]


def _forward(x_BTF, k_WF, text_BT):
    T = x_BTF.shape[1]
    k_TF = _there(k_WF, T)[None]

    def add(n, y_BTF):
        here = (text_BT == n)[..., None]
        return y_BTF + jnp.where(here, _back(_there(jnp.where(here, x_BTF, 0)) * k_TF, T), 0)

    y_BTF = lax.fori_loop(0, jnp.max(text_BT) + 1, add, jnp.zeros_like(x_BTF))
    return y_BTF, (x_BTF, k_WF, text_BT)


def _backward(saved, dy_BTF):
    x_BTF, k_WF, text_BT = saved
    T = x_BTF.shape[1]
    k_TF = jnp.conj(_there(k_WF, T))[None]

    def add(n, sums: Any):
        dx_BTF, dk_TF = sums
        here = (text_BT == n)[..., None]
        dy_BFF, x_BFF = (_there(jnp.where(here, x, 0)) for x in (dy_BTF, x_BTF))
        return dx_BTF + jnp.where(here, _back(dy_BFF * k_TF, T), 0), dk_TF + jnp.sum(dy_BFF * jnp.conj(x_BFF), 0)

    start = jnp.zeros_like(x_BTF), jnp.zeros_like(_there(k_WF, T))
    dx_BTF, dk_TF = lax.fori_loop(0, jnp.max(text_BT) + 1, add, start)
    return dx_BTF, _back(dk_TF, T)[: len(k_WF)], None


_of_texts.defvjp(_forward, _backward)
