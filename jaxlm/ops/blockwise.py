"""Blockwise exact attention with its own gradient: memory linear in the length, forward and backward.

Queries are taken in blocks of C; a block meets only the keys it may see (its causal prefix, or its window), so no
masked block is computed but the ragged edge. The mathematics of a block, which stores no probabilities, is in
`blockwise_pieces`: here the one piece of queries and of keys is the whole row.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxlm.axes import Array
from jaxlm.ops import blockwise_pieces as pieces
from jaxlm.ops.blockwise_bands import bands
from jaxlm.ops.blockwise_pieces import How, Piece
from jaxlm.ops.rule import Extras, Rule

BLOCK = 128  # queries at a time: measured best of 64..512 on CPU


def blockwise_attention(
    q_BTHK: Array, k_BTGK: Array, v_BTGJ: Array, extras: Extras, rule: Rule, block: int = BLOCK
) -> Array:
    """Self-attention, exactly `attention.reference_attention`; returns (B, T, H, J). See `attention.attention`."""
    T, extras = q_BTHK.shape[1], extras.numbered(*q_BTHK.shape[::2])
    block = min(block, T)
    pad = -T % block
    if pad:
        q_BTHK, k_BTGK, v_BTGJ = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q_BTHK, k_BTGK, v_BTGJ))
        extras = _pad(extras, pad, None if rule.causal else jnp.zeros((1, T), jnp.int32))
    how = How(rule, block, bands(T + pad, block, rule.causal, rule.reach))
    o_BTHJ: Any = attend(q_BTHK, k_BTGK, v_BTGJ, extras, None, None, how)
    return o_BTHJ[:, :T]


def _pad(extras: Extras, pad: int, segments_BT: Array | None) -> Extras:
    """Padding stands last and in a segment of its own, so no real query sees it."""
    at_end = lambda x, value: None if x is None else jnp.pad(x, ((0, 0), (0, pad)), constant_values=value)
    return extras._replace(
        segments_BT=at_end(segments_BT if extras.segments_BT is None else extras.segments_BT, -2),
        positions_BT=at_end(extras.positions_BT, 0),
        bias_HZ=None if extras.bias_HZ is None else jnp.pad(extras.bias_HZ, ((0, 0), (pad, pad))),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def attend(
    q_BTHK: Array, k_BSGK: Array, v_BSGJ: Array, extras: Extras, key_extras: Extras | None, at: Array | None, how: How
) -> Array:
    """Attention of T queries, a multiple of the block, to S keys: (B, T, H, J).

    `extras` are of the queries, and where `key_extras` is None of the keys too; `at` is the place of the first query in
    its row, None 0. The bands of `how` say which keys a block of queries meets.
    """
    return _forward(q_BTHK, k_BSGK, v_BSGJ, extras, key_extras, at, how)[0]


def _pieces(extras, key_extras, at):
    return Piece(extras, 0 if at is None else at), Piece(extras if key_extras is None else key_extras)


def _forward(q_BTHK, k_BSGK, v_BSGJ, extras, key_extras, at, how):
    queries, keys = _pieces(extras, key_extras, at)
    q_BGRTK = pieces.queries_first(q_BTHK, k_BSGK.shape[2])
    k_BGSK, v_BGSJ = jnp.moveaxis(k_BSGK, 1, 2), jnp.moveaxis(v_BSGJ, 1, 2)
    o_BGJRT, lse_BGRT = pieces.forward(q_BGRTK, k_BGSK, v_BGSJ, queries, keys, how, q_BTHK.dtype)
    o_BTHJ = checkpoint_name(pieces.positions_first(o_BGJRT), "attention")
    lse_BGRT = checkpoint_name(lse_BGRT, "attention")
    return o_BTHJ, (q_BTHK, k_BSGK, v_BSGJ, extras, key_extras, at, o_BTHJ, lse_BGRT)


def _backward(how, saved, do_BTHJ):
    q_BTHK, k_BSGK, v_BSGJ, extras, key_extras, at, o_BTHJ, lse_BGRT = saved
    (queries, keys), G = _pieces(extras, key_extras, at), k_BSGK.shape[2]
    delta_BGRT = pieces.queries_first(pieces.delta(o_BTHJ, do_BTHJ), G)[..., 0]
    q_BGRTK, do_BGRTJ = pieces.queries_first(q_BTHK, G), pieces.queries_first(do_BTHJ, G)
    k_BGSK, v_BGSJ = jnp.moveaxis(k_BSGK, 1, 2), jnp.moveaxis(v_BSGJ, 1, 2)
    sums = pieces.no_gradients(k_BGSK, v_BGSJ, lse_BGRT, extras)
    args = q_BGRTK, k_BGSK, v_BGSJ, do_BGRTJ, lse_BGRT, delta_BGRT
    dq_BGKRT, sums = pieces.backward(*args, queries, keys, how, sums)
    dk_BSGK = jnp.moveaxis(sums.dk_BGSK, 2, 1).astype(k_BSGK.dtype)
    dv_BSGJ = jnp.moveaxis(sums.dv_BGSJ, 2, 1).astype(v_BSGJ.dtype)
    dextras = pieces.extras_gradients(extras, sums, lse_BGRT, delta_BGRT)
    return pieces.positions_first(dq_BGKRT), dk_BSGK, dv_BSGJ, dextras, None, None


attend.defvjp(_forward, _backward)
