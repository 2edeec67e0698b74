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
    if pad := -T % block:
        q_BTHK, k_BTGK, v_BTGJ = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q_BTHK, k_BTGK, v_BTGJ))
        extras = _pad(extras, pad, None if rule.causal else jnp.zeros_like(q_BTHK[:, :T, 0, 0], jnp.int32))
    o_BTHJ: Any = _attend(q_BTHK, k_BTGK, v_BTGJ, extras, (rule, block))
    return o_BTHJ[:, :T]


def _pad(extras: Extras, pad: int, segments_BT: Array | None) -> Extras:
    """Padding stands last and in a segment of its own, so no real query sees it."""
    at_end = lambda x, value: None if x is None else jnp.pad(x, ((0, 0), (0, pad)), constant_values=value)
    return extras._replace(
        segments_BT=at_end(segments_BT if extras.segments_BT is None else extras.segments_BT, -2),
        positions_BT=at_end(extras.positions_BT, 0),
        bias_HZ=None if extras.bias_HZ is None else jnp.pad(extras.bias_HZ, ((0, 0), (pad, pad))),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q_BTHK, k_BTGK, v_BTGJ, extras, options):
    return _forward(q_BTHK, k_BTGK, v_BTGJ, extras, options)[0]


def _how(options, T):
    rule, C = options
    return How(rule, C, bands(T, C, rule.causal, rule.reach))


def _forward(q_BTHK, k_BTGK, v_BTGJ, extras, options):
    row, how = Piece(extras), _how(options, q_BTHK.shape[1])
    q_BGRTK = pieces.queries_first(q_BTHK, k_BTGK.shape[2])
    k_BGTK, v_BGTJ = jnp.moveaxis(k_BTGK, 1, 2), jnp.moveaxis(v_BTGJ, 1, 2)
    o_BGJRT, lse_BGRT = pieces.forward(q_BGRTK, k_BGTK, v_BGTJ, row, row, how, q_BTHK.dtype)
    o_BTHJ = checkpoint_name(pieces.positions_first(o_BGJRT), "attention")
    lse_BGRT = checkpoint_name(lse_BGRT, "attention")
    return o_BTHJ, (q_BTHK, k_BTGK, v_BTGJ, extras, o_BTHJ, lse_BGRT)


def _backward(options, saved, do_BTHJ):
    q_BTHK, k_BTGK, v_BTGJ, extras, o_BTHJ, lse_BGRT = saved
    row, how, G = Piece(extras), _how(options, q_BTHK.shape[1]), k_BTGK.shape[2]
    delta_BGRT = pieces.queries_first(pieces.delta(o_BTHJ, do_BTHJ), G)[..., 0]
    q_BGRTK, do_BGRTJ = pieces.queries_first(q_BTHK, G), pieces.queries_first(do_BTHJ, G)
    k_BGTK, v_BGTJ = jnp.moveaxis(k_BTGK, 1, 2), jnp.moveaxis(v_BTGJ, 1, 2)
    sums = pieces.no_gradients(k_BGTK, v_BGTJ, lse_BGRT, extras)
    args = q_BGRTK, k_BGTK, v_BGTJ, do_BGRTJ, lse_BGRT, delta_BGRT
    dq_BGKRT, sums = pieces.backward(*args, row, row, how, sums)
    dk_BTGK = jnp.moveaxis(sums.dk_BGSK, 2, 1).astype(k_BTGK.dtype)
    dv_BTGJ = jnp.moveaxis(sums.dv_BGSJ, 2, 1).astype(v_BTGJ.dtype)
    dextras = pieces.extras_gradients(extras, sums, lse_BGRT, delta_BGRT)
    return pieces.positions_first(dq_BGKRT), dk_BTGK, dv_BTGJ, dextras


_attend.defvjp(_forward, _backward)
