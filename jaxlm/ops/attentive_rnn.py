"""Recurrent decoders that look at the source once a step: before it (Bahdanau et al. 2015, arXiv:1409.0473) or behind
it (Luong et al. 2015, arXiv:1508.04025).

`cell(x_BnZ, state) -> state` is a recurrence of `ops.rnn` whose state begins with h_BZ; `attend(h_BZ, segment_B) ->
c_BD, a_BS` what it sees of the source, and with which weights, `segment_B` being those of the tokens. States are
float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm.axes import Array
from jaxlm.ops.recurrence import marks

State = tuple[Array, ...]
Cell = Callable[[Array, State], State]
Attend = Callable[[Array, Array | None], tuple[Array, Array]]


def bahdanau(
    cell: Cell,
    attend: Attend,
    x_BTnZ: Array,
    context_DnZ: Array,
    begin: State,
    state: State | None = None,
    segments_BT: Array | None = None,
) -> tuple[Array, Array, State]:
    """c_t, a_t = attend(h_(t-1)); h_t = cell(x_t + c_t C, h_(t-1)).

    Args:
        x_BTnZ: what the tokens say to the gates.
        context_DnZ: C, from what is seen to the gates.
        begin: the state (B, T, Z) that a text begins with, told at each of its tokens.
        state: (B, Z) before the first token, as part of its text; None: a text begins.
        segments_BT: as in `ops.rnn.lstm`.

    Returns:
        [h_t, c_t] (B, T, Z + D) in the dtype of x, the alignment a_BTS in float32, and the state behind the last token.
    """

    def step(state: State, x_BnZ: Array, segment_B: Array | None) -> tuple[State, tuple[Array, Array]]:
        c_BD, a_BS = attend(state[0], segment_B)
        state = cell(x_BnZ + jnp.einsum("bd,dnz->bnz", c_BD, context_DnZ), state)
        return state, (jnp.concatenate([state[0].astype(x_BnZ.dtype), c_BD], 1), a_BS)

    return _unrolled(step, x_BTnZ, begin, state, segments_BT)


def luong(
    cell: Cell,
    attend: Attend,
    x_BTnZ: Array,
    feed_ZnZ: Array | None,
    mix_EZ: Array,
    begin: State,
    state: State | None = None,
    segments_BT: Array | None = None,
) -> tuple[Array, Array, State]:
    """h_t = cell(x_t + g_(t-1) F, h_(t-1)); c_t, a_t = attend(h_t); g_t = tanh([h_t, c_t] W).

    `feed_ZnZ` is F, None without input feeding; `mix_EZ` is W (Z + D, Z). Arguments are else as in `bahdanau`, but the
    last entry of the states is g. Returns g (B, T, Z), the alignment and the state.
    """

    def step(state: State, x_BnZ: Array, segment_B: Array | None) -> tuple[State, tuple[Array, Array]]:
        state, g_BZ = state[:-1], state[-1]
        if feed_ZnZ is not None:
            x_BnZ += jnp.einsum("bd,dnz->bnz", g_BZ.astype(x_BnZ.dtype), feed_ZnZ)
        state = cell(x_BnZ, state)
        c_BD, a_BS = attend(state[0], segment_B)
        g_BZ = jnp.tanh(jnp.concatenate([state[0].astype(c_BD.dtype), c_BD], 1) @ mix_EZ)
        return (*state, g_BZ.astype(jnp.float32)), (g_BZ, a_BS)

    return _unrolled(step, x_BTnZ, begin, state, segments_BT)


def _unrolled(step: Any, x_BTnZ: Array, begin: State, state: State | None, segments_BT: Array | None) -> Any:
    """A scan of `step` over the tokens, of which the backward pass computes each again."""
    real_BT = fresh_BT = None
    if segments_BT is not None:
        real_BT, fresh_BT = marks(segments_BT)
        if state is None:
            fresh_BT |= real_BT & (jnp.cumsum(real_BT, 1) == 1)
    state = tuple(x_BTZ[:, 0] for x_BTZ in begin) if state is None else state
    where = lambda mark_B, a, b: jax.tree.map(lambda a, b: jnp.where(mark_B[:, None], a, b), a, b)

    @jax.checkpoint
    def one(before: State, at: Any) -> Any:
        x_BnZ, begin, segment_B, real_B, fresh_B = at
        read = before if fresh_B is None else where(fresh_B, begin, before)
        new, out = step(read, x_BnZ, segment_B)
        return new if real_B is None else where(real_B, new, before), out

    first = lambda x: jnp.moveaxis(x, 1, 0)
    given = (x_BTnZ, begin if segments_BT is not None else None, segments_BT, real_BT, fresh_BT)
    last, out = lax.scan(one, state, jax.tree.map(first, given))
    h_BTE, a_BTS = (jnp.moveaxis(x, 0, 1) for x in out)
    return h_BTE, a_BTS, last
