"""Attention of the first encoder-decoders: additive (Bahdanau et al. 2015, arXiv:1409.0473) and multiplicative (Luong
et al. 2015, arXiv:1508.04025).

c_t = sum_s softmax_s(score(x_t, h_s)) h_s, where x_t is a state of the decoder and h_s one of the encoder:

    additive, concat    v . tanh(W x_t + U h_s)
    general             x_t . U h_s
    dot                 x_t . h_s
"""

import jax
import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.ops.rule import MASKED


def additive_attention(
    query_BTF: Array, key_BSF: Array, values_BSD: Array, score_F: Array, mask_BS: Array | None = None
) -> tuple[Array, Array]:
    """The mixture of values that each query asks for (B, T, D), and its weights (B, T, S) in float32, to look at.

    `query_BTF` is W x and `key_BSF` is U h, which serves every step of decoding. `mask_BS` is False on padding.
    Holds T x S x F numbers: a decoder that needs the last mixture for the next query has T = 1.
    """
    h_BTSF = jnp.tanh(query_BTF[:, :, None] + key_BSF[:, None])
    s_BTS = jnp.einsum("btsf,f->bts", h_BTSF, score_F.astype(h_BTSF.dtype), preferred_element_type=jnp.float32)
    return _mixed(s_BTS, values_BSD, mask_BS)


def multiplicative_attention(
    query_BTF: Array, key_BSF: Array, values_BSD: Array, mask_BS: Array | None = None
) -> tuple[Array, Array]:
    """The same with products as scores, not scaled: `key_BSF` is U h, or h itself."""
    s_BTS = jnp.einsum("btf,bsf->bts", query_BTF, key_BSF.astype(query_BTF.dtype), preferred_element_type=jnp.float32)
    return _mixed(s_BTS, values_BSD, mask_BS)


def _mixed(s_BTS: Array, values_BSD: Array, mask_BS: Array | None) -> tuple[Array, Array]:
    if mask_BS is not None:
        s_BTS = jnp.where(mask_BS[:, None], s_BTS, MASKED)
    p_BTS = jax.nn.softmax(s_BTS, -1)
    return jnp.einsum("bts,bsd->btd", p_BTS.astype(values_BSD.dtype), values_BSD), p_BTS
