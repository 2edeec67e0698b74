"""The kinds of decoding state: what a mixer remembers of the tokens before, and how that grows, moves and shrinks.

A mixer's config makes an empty one (`init_cache`), the mixer reads its own as `past` and returns one of the new tokens,
and who called writes these: `past.write(new, end)`. States are values, never mutated.
"""

import dataclasses
import functools
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.errors import UserError


def zeros(shape: tuple[int, ...], *names: str | None, dtype: Any = jnp.float32) -> Array:
    """An empty state's array, laid out by logical names."""
    return jnp.zeros(shape, dtype, out_sharding=sharding.out_sharding(*names))


@struct.dataclass
class State:
    """The base of all kinds: arrays whose rows are those of the batch."""

    value: Any = None  # a tree of arrays
    axis: int = struct.field(pytree_node=False, default=0)  # of the rows: 1 where periods are stacked

    def write(self, new: Self, end: Array) -> Self:
        """The state after new tokens, with `end` earlier ones in it: () for all rows, or (B,) where they differ."""
        raise NotImplementedError

    def back(self, n: int) -> Self:
        """The state to go on from when up to `n` of the newest tokens are dropped; who called lowers `end`.

        Raises UserError where what was before them is gone.
        """
        return self

    def take(self, rows_A: Array) -> Self:
        """The state of these rows, in this order: of beams that go on."""
        return self._map(lambda x: _take(x, rows_A, self.axis, x))

    def put(self, other: Self, rows_A: Array) -> Self:
        """The state with the rows of `other`, as many, in place of these: of texts that begin."""
        return self._map(lambda x, y: _put(x, y, rows_A, self.axis), other)

    def stacked(self, N: int) -> Self:
        """The same for each of N periods."""
        state = self._map(lambda x: jnp.broadcast_to(x[None], (N, *x.shape)))
        return dataclasses.replace(state, axis=self.axis + 1)

    def _map(self, f: Any, *others: "State") -> Self:
        return dataclasses.replace(self, value=jax.tree.map(f, self.value, *(other.value for other in others)))


@struct.dataclass
class KVSlots(State):
    """Arrays (B, ..., S, K) with a slot for each token, such as keys and values: token i goes to slot i mod S.

    Where every token has a slot of its own, going back is lowering `end`: `ops.masks.cache_slots` then calls what was
    written after it empty. A ring has lost token i - S to token i, so it can drop only the newest.
    """

    ring: bool = struct.field(pytree_node=False, default=False)  # fewer slots than tokens

    def write(self, new: "KVSlots", end: Array) -> Self:
        write = functools.partial(_write_rows, axis=self.axis) if jnp.ndim(end) else _write
        return self._map(lambda slots, x: write(slots, x.astype(slots.dtype), end), self.stored(new))

    def stored(self, new: "KVSlots") -> "KVSlots":
        """What a mixer gave as these slots keep it."""
        return new

    def read(self, dtype: Any) -> Any:
        """The arrays as a mixer reads them."""
        return self.value

    def back(self, n: int) -> Self:
        if self.ring and n > 1:
            raise UserError(f"a window's cache is a ring that has overwritten what {n} tokens back was seen")
        return self


@struct.dataclass
class Int8KVSlots(KVSlots):
    """The same in int8, each array with a scale for each token and head: x = q s, s = max |x| / 127 over K."""

    def stored(self, new: KVSlots) -> KVSlots:
        def one(x: Array) -> tuple[Array, Array]:
            s = jnp.max(jnp.abs(x.astype(jnp.float32)), -1, keepdims=True) / 127
            return jnp.round(x / jnp.where(s == 0, 1, s)).astype(jnp.int8), s

        return new if isinstance(new, Int8KVSlots) else Int8KVSlots(jax.tree.map(one, new.value))

    def read(self, dtype: Any) -> Any:
        return tuple((q * s).astype(dtype) for q, s in self.value)


@struct.dataclass
class Recurrent(State):
    """A state that takes the place of the one before it: of a recurrence. What is `handed` on is no part of the past:
    later layers find it in their context."""

    handed: Any = None

    def write(self, new: "Recurrent", end: Array) -> Self:
        return dataclasses.replace(self, value=new.value)

    def back(self, n: int) -> Self:
        if n:
            raise UserError("a recurrence cannot go back: keep the state from before the tokens that may be dropped")
        return self


@struct.dataclass
class Memory(State):
    """What is made once and kept, such as keys and values of an encoder's output: the first one written stays.

    `Memory()` is empty. Decoding steps may return it too, as what they have computed is nothing.
    """

    def write(self, new: "Memory", end: Array) -> Self:
        return dataclasses.replace(self, value=new.value) if self.value is None else self


def is_state(x: Any) -> bool:
    return isinstance(x, State)


def with_handed(context: Any, states: Any, stacked: bool = False) -> Any:
    """The context of the layers behind those with these states: with what the last of them that hands something on
    does; of `stacked` periods, the first."""
    found = jax.tree.leaves(states, is_leaf=is_state)
    given = [state.handed for state in found if isinstance(state, Recurrent) and state.handed is not None]
    return dataclasses.replace(context, handed=given[-1][0] if stacked else given[-1]) if given else context


def _write(slots: Array, new: Array, end: Array) -> Array:
    """(..., S, K) <- (..., T, K): the newest tokens that fit, of rows of one length."""
    axis, S, T = slots.ndim - 2, slots.shape[-2], new.shape[-2]
    new = sharding.replicated(new, axis)
    if T == 1:
        return lax.dynamic_update_slice_in_dim(slots, new, end % S, axis)
    last = end + T - 1
    token_S = last - (last - jnp.arange(S)) % S - end  # which of the new tokens a slot gets; negative: keep the old
    taken = jnp.take(new, jnp.clip(token_S, 0, T - 1), axis)
    return jnp.where(_alike(token_S >= 0, slots, axis), taken, slots)


def _write_rows(slots: Array, new: Array, end_B: Array, axis: int) -> Array:
    """The same of rows of different lengths, whose axis it is."""
    S, T = slots.shape[-2], new.shape[-2]
    new = sharding.replicated(new, new.ndim - 2)[..., -S:, :]
    slot_BT = (end_B[:, None] + jnp.arange(max(T - S, 0), T)[None]) % S
    put = lambda slots, new, slot_T: slots.at[..., slot_T, :].set(new, unique_indices=True)
    put = jax.vmap(put)
    for _ in range(axis):
        put = jax.vmap(put, (0, 0, None))
    return put(slots, new, slot_BT)


def _take(x: Array, index: Array, axis: int, like: Array) -> Array:
    """`jnp.take`, laid out as `like` is."""
    where = jax.typeof(like).sharding.spec if sharding.explicit() else None
    return x.at[(slice(None),) * axis + (index,)].get(mode="clip", out_sharding=where)


def _put(x: Array, y: Array, rows_A: Array, axis: int) -> Array:
    B, A = x.shape[axis], y.shape[axis]
    if A == 1 and sharding.mesh_size("batch") == 1:  # written in place
        return lax.dynamic_update_slice_in_dim(x, y.astype(x.dtype), rows_A[0], axis)
    of_B = jnp.full(B, -1).at[rows_A].set(jnp.arange(A))  # which of the new rows a row gets; negative: it stays
    taken = _take(y, jnp.maximum(of_B, 0), axis, x).astype(x.dtype)
    return jnp.where(_alike(of_B >= 0, x, axis), taken, x)


def _alike(mask: Array, x: Array, axis: int) -> Array:
    """A mask of one axis of `x`, in its shape: or-ed with zeros made like x, so that it lies on the mesh as x does."""
    return mask.reshape((1,) * axis + (-1,) + (1,) * (x.ndim - axis - 1)) | jnp.zeros_like(x, bool)
