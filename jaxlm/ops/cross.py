"""Cross attention: T queries of one sequence, S keys and values of another, the memory.

o_t = sum_s softmax_s(scale * q_t . k_s) v_s over the memory that is no padding (Vaswani et al. 2017, arXiv:1706.03762,
3.2.3). Blockwise, as `ops.blockwise` has it: a block of queries meets all keys, and its probabilities are computed
again for the gradient, so memory is linear in T and in S.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops.attention import reference_attention
from jaxlm.ops.blockwise import BLOCK, attend
from jaxlm.ops.blockwise_bands import Band
from jaxlm.ops.blockwise_pieces import How
from jaxlm.ops.rule import Extras, Rule

(AXIS,) = sharding.RULES["positions"]


def cross_attention(
    q_BTHK: Array,
    k_BSGK: Array,
    v_BSGJ: Array,
    mask_BS: Array | None = None,
    segments_BT: Array | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    key: Array | None = None,
    block: int = BLOCK,
) -> Array:
    """Attention of T queries to S keys without an order among them; returns (B, T, H, J).

    Where a mesh divides the positions of the queries, each device attends with its own to the whole memory.

    Args:
        mask_BS: False on the memory's padding; may have one row. A row without any memory gives finite numbers.
        segments_BT: of the queries, where rows have several texts: `mask_BS` then has the memory's segments, and a
            query sees those of its own.
        scale: of the products q.k; K^-0.5 unless given.
        dropout: the share of probabilities set to zero, the others scaled up, where `key` is given.
        block: queries at a time.
    """
    T, H, K = q_BTHK.shape[1:]
    key = key if dropout else None
    scale = float(K**-0.5 if scale is None else scale)
    if T == 1 and key is None:  # a step of decoding: one block in any case, without turning the values round
        mask_BTS = jnp.ones((1, 1, k_BSGK.shape[1]), bool) if mask_BS is None else mask_BS[:, None]
        mask_BTS = mask_BTS if segments_BT is None else segments_BT[:, :, None] == mask_BTS
        return reference_attention(q_BTHK, k_BSGK, v_BSGJ, mask_BTS, scale)
    rule = Rule(causal=False, scale=scale, dropout=0.0 if key is None else dropout)
    extras = Extras(key=key).numbered(len(q_BTHK), H)
    memory = None if mask_BS is None else mask_BS.astype(jnp.int32)

    def local(q_BTHK, k_BSGK, v_BSGJ, segments_BT, memory_BS, key, numbers_BH, first=None):
        T, S = q_BTHK.shape[1], k_BSGK.shape[1]
        C = min(block, T)
        q_BTHK = jnp.pad(q_BTHK, ((0, 0), (0, -T % C), (0, 0), (0, 0)))  # what these see nobody reads
        if segments_BT is not None:
            segments_BT = jnp.pad(segments_BT, ((0, 0), (0, -T % C)))
        elif memory_BS is not None:
            segments_BT = jnp.ones((1, q_BTHK.shape[1]), jnp.int32)
        queries = Extras(segments_BT=segments_BT, key=key, numbers_BH=numbers_BH)
        how = How(rule, C, [Band(0, q_BTHK.shape[1] // C, S, ahead=S)])
        o_BTHJ: Any = attend(q_BTHK, k_BSGK, v_BSGJ, queries, Extras(segments_BT=memory_BS), first, how)
        return o_BTHJ[:, :T]

    given = q_BTHK, k_BSGK, v_BSGJ, segments_BT, memory, extras.key, extras.numbers_BH
    if sharding.mesh_size("positions") == 1 or sharding.rows(T)[1] is None:
        return local(*given)

    def divided(q_BTHK, k_BSGK, v_BSGJ, segments_BT, memory_BS, key, numbers_BH):
        zero = jnp.zeros_like(q_BTHK[0, 0, 0, 0])
        first = lax.axis_index(AXIS) * q_BTHK.shape[1]
        # Keys and values vary over the devices as the queries do, so that their gradients are added up over these.
        k_BSGK, v_BSGJ = (x + zero.astype(x.dtype) for x in (k_BSGK, v_BSGJ))
        return local(q_BTHK, k_BSGK, v_BSGJ, segments_BT, memory_BS, key, numbers_BH, first)

    queries, keys = ("batch", "positions", "heads", None), ("batch", None, "heads", None)
    rows = (None if memory is not None and len(memory) == 1 else "batch", None)
    own = ("batch", "positions")
    return sharding.shard_map(divided, [queries, keys, keys, own, rows, (), ("batch", "heads")], queries, *given)
